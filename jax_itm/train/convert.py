"""Turns published weights into a run that `load`, `evaluate` and training can start from."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jax_itm import config as config_lib
from jax_itm.checkpoint.checkpoints import Checkpoints, Description, has_checkpoint
from jax_itm.checkpoint.state import State
from jax_itm.config import Facts
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch
from jax_itm.pretrained.directory import description_file, read_description
from jax_itm.pretrained.files import find_directory, read_state_dict
from jax_itm.pretrained.hf import read_architecture
from jax_itm.pretrained.uniter import Published, Sizes, read_uniter, uniter_parameters
from jax_itm.train.init_from import read_source
from jax_itm.train.start_rules import start_from
from jax_itm.types import Config, Params

MAX_WORDS = 62  # UNITER is trained on 60 word pieces at most, and [CLS] and [SEP]
MAX_REGIONS = 100  # .. and on 10 to 100 regions
UNLIMITED_SCALE = 1e6  # SigLIP's scale has no limit in its training; CLIP's has 100
CHECKED_SIZES = ("hidden", "layers")  # that a config and the weights must agree on; and `mlp`


def convert_uniter(
    source: str, workdir: str, vocab: str, config: Config | None = None, lower: bool = False
) -> str:
    """Writes UNITER's or IAIS's published weights as checkpoint 0 of a run; nothing if one is wrong.

    Args:
        source: the state dict, .pt, .bin or .safetensors.
        workdir: the new run's directory.
        vocab: BERT's `vocab.txt`; UNITER's is that of bert-base-cased, 28,996 lines.
        config: of the run, a cross-encoder of the weights' sizes; by default IAIS's defaults, so sized.
        lower: whether the vocabulary is uncased.

    Returns:
        What was converted and what was not, in lines.

    Raises:
        UserError: one of the files is wrong, they do not fit each other, or there is a run already.
    """
    _check_new(workdir)
    tokenizer = Tokenizer.from_vocab(vocab, lower)
    published = read_uniter(read_state_dict(source), source)
    if len(tokenizer) != published.sizes.vocab:
        raise UserError(
            f"--vocab {vocab}: {len(tokenizer):,} lines, but the word table of {source} has"
            f" {published.sizes.vocab:,} rows"
        )
    if config is None and not published.sizes.heads:
        raise UserError(
            f"{source}: of width {published.sizes.hidden}, which is not whole heads of 64; say how many there"
            " are by --config FILE --config.uniter.heads=N"
        )
    config = config or _uniter_config(published.sizes)
    _check_fits(config, published.sizes, source)
    _complete(config, published.sizes)
    facts = Facts(region_dim=published.sizes.region_dim, vocab=len(tokenizer))
    method = build(config, facts)
    shapes: Any = jax.eval_shape(method.init, jax.random.key(0), example_batch(config, facts))
    params = uniter_parameters(published, shapes)
    _write(params, Description(config, facts, tokenizer), workdir)
    return _report(published, config, workdir)


def convert_pair(kind: str, source: str, workdir: str, config: Config | None = None) -> str:
    """Writes the two encoders of a CLIP or SigLIP with their own summaries as checkpoint 0 of a run.

    Args:
        kind: "clip" or "siglip".
        source: a directory as the transformers library, open_clip or big_vision saves one, or a name on
            the hub.
        workdir: the new run's directory.
        config: of the run; by default the defaults of its own loss. Its encoders are set here.

    Returns:
        What was converted and what was not, in lines.

    Raises:
        UserError: a file is missing or wrong, or there is a run already.
    """
    _check_new(workdir)
    folder = find_directory(source, "source")
    description = read_description(folder)
    file = str(description_file(folder))
    if description.get("model_type") != kind:
        raise UserError(
            f"{source}: config.json has model_type {description.get('model_type')!r}, not {kind!r}"
        )
    positions = read_architecture("text", description, file)["positions"]
    run: Config = config or _pair_default(kind, positions)
    for side in ("image", "text"):
        run[side].update({"name": "pretrained", "path": source, "pooling": kind})
    run.dim = _embedding_size(description, file)
    run.data.modality = "pixels"
    run.start = ""
    config_lib.check(run)
    encoders = read_source(run, Facts())
    assert encoders and encoders.tokenizer  # both encoders are pretrained
    facts = encoders.facts
    method = build(run, facts)
    params = start_from(method.init(jax.random.key(0), example_batch(run, facts)), encoders)
    _write(params, Description(run, facts, encoders.tokenizer), workdir)
    image = facts.image_architecture
    text = facts.text_architecture
    line = (
        f"{kind} in {workdir}: {image.layers} layers of {image.width} over patches of {image.patch},"
        f" {text.layers} of {text.width} over {text.vocab:,} words, embeddings of {run.dim}"
    )
    return "\n  ".join([line, *encoders.notes])


def _pair_default(kind: str, positions: int) -> Config:
    """The defaults of the loss that the pair was trained with."""
    config = config_lib.default({"clip": "info_nce", "siglip": "sigmoid"}[kind])
    config.name = kind
    config.data.max_words = positions
    if kind == "siglip":
        config.losses.sigmoid.max_scale = UNLIMITED_SCALE
    return config


def _embedding_size(description: Mapping[str, Any], file: str) -> int:
    """Of a pair's embeddings: CLIP's `projection_dim`, SigLIP's `projection_size` or its texts' width."""
    if description["model_type"] == "clip":
        name = "projection_dim"
        size = description.get(name, 512)
    else:
        text = description.get("text_config", {})
        name = "projection_size"
        size = text.get(name) or text.get("hidden_size", 768)
    if type(size) is not int or not 1 <= size <= 2**16:
        raise UserError(f"{file}: has {name} {size!r}, must be whole, 1 to {2**16:,}")
    return size


def _check_new(workdir: str) -> None:
    if has_checkpoint(workdir):
        raise UserError(f"{workdir}: holds a run's checkpoints already; name another directory")
    if Path(workdir).exists() and not Path(workdir).is_dir():
        raise UserError(f"{workdir}: is a file, not a directory")


def _write(params: Params, run: Description, workdir: str) -> None:
    checkpoints = Checkpoints(workdir, create=True)
    try:
        state = State(jnp.int32(0), params, None, params if run.config.ema else None)
        checkpoints.save(state, run, None)
    finally:
        checkpoints.close()
    (Path(workdir) / "config.json").write_text(config_lib.to_json(run.config))


def _uniter_config(sizes: Sizes) -> Config:
    """IAIS's defaults for a model of these sizes."""
    config = config_lib.default("iais")
    config.name = "uniter"
    config.batch_size = config.mining.pool
    config.uniter.update({"hidden": sizes.hidden, "layers": sizes.layers, "heads": sizes.heads})
    config.uniter.mlp = 0 if sizes.mlp == 4 * sizes.hidden else sizes.mlp
    config.data.name = "uniter"
    config.data.max_words = min(MAX_WORDS, sizes.positions)
    config.data.max_regions = MAX_REGIONS
    config.image.boxes = True  # UNITER reads them: data without any are refused, not scored as if at 0, 0
    return config


def _check_fits(config: Config, sizes: Sizes, source: str) -> None:
    """Raises UserError if the config is not of a model of these sizes."""
    if "uniter" not in config:
        raise UserError(f"config.preset={config.preset!r}: UNITER's weights are for a cross-encoder, 'iais'")
    config_lib.check(config)
    if config.data.modality != "regions":
        raise UserError(f"config.data.modality={config.data.modality!r}: UNITER reads 'regions'")
    options = config.uniter
    problems = [
        f"config.uniter.{name}={options[name]}, but {getattr(sizes, name)}"
        for name in CHECKED_SIZES
        if options[name] != getattr(sizes, name)
    ]
    if (options.mlp or 4 * options.hidden) != sizes.mlp:
        problems.append(f"config.uniter.mlp={options.mlp}, but {sizes.mlp}")
    if config.data.max_words > sizes.positions:
        problems.append(f"config.data.max_words={config.data.max_words}, but {sizes.positions} positions")
    if problems:
        raise UserError(f"{', '.join(problems)} in {source}")


def _complete(config: Config, sizes: Sizes) -> None:
    """Fills in what only the weights tell."""
    config.data.tokenizer = "wordpiece"
    config.data.vocab_size = sizes.vocab
    config.start = ""  # it may be the config of the training that is to start from this run


def _report(published: Published, config: Config, workdir: str) -> str:
    sizes = published.sizes
    score = "rank_output" if published.tuned else "row 1 of itm_output; there is no tuned rank_output"
    # cls.predictions.bias counts as cls.*
    groups = Counter(name.removeprefix("uniter.img_embeddings.").split(".")[0] for name in published.unused)
    ignored = ", ".join(f"{name}.* ({count})" for name, count in sorted(groups.items()))
    return "\n".join(
        [
            f"uniter in {workdir}: {sizes.layers} layers of {sizes.hidden}, {config.uniter.heads} heads,"
            f" {sizes.vocab:,} word pieces, regions of size {sizes.region_dim}",
            f"  score      {score}",
            f"  positions  the first {config.data.max_words} of {sizes.positions} (config.data.max_words)",
            f"  ignored    {ignored or 'nothing'}",
        ]
    )
