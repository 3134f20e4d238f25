"""Published weights made a run: a directory that `load`, `evaluate` and a training run start from."""

from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp

from jax_itm import config as config_lib
from jax_itm.checkpoint.checkpoints import Checkpoints, has_checkpoint
from jax_itm.checkpoint.state import State
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch
from jax_itm.pretrained.files import find, read_state
from jax_itm.pretrained.hf import described
from jax_itm.pretrained.open_clip import described_in, description
from jax_itm.pretrained.uniter import Published, Sizes, uniter, uniter_params
from jax_itm.train.init_from import open_start, started
from jax_itm.types import Config, Params

WORDS = 62  # UNITER is trained on 60 word pieces at most, beside [CLS] and [SEP]
REGIONS = 100  # .. and on 10 to 100 regions


def convert_uniter(source: str, workdir: str, vocab: str, config: Config = None, lower: bool = False) -> str:
    """Writes UNITER's or IAIS's published weights as checkpoint 0 of a run; nothing where one is wrong.

    Args:
        source: the state dict, .pt, .bin or .safetensors.
        workdir: the new run's directory.
        vocab: BERT's `vocab.txt`; UNITER's is that of bert-base-cased, 28,996 lines.
        config: the run's, of method iais and of the weights' sizes; by default IAIS's defaults, so sized.
        lower: whether the vocabulary is an uncased one.

    Returns:
        What was converted and what was not, in lines.

    Raises:
        UserError: one of the files is wrong, they do not fit each other, or there is a run already.
    """
    _check_new(workdir)
    tokenizer = Tokenizer.from_vocab(vocab, lower)
    published = uniter(read_state(source), source)
    if len(tokenizer) != published.sizes.vocab:
        raise UserError(
            f"--vocab {vocab}: {len(tokenizer):,} lines, but the word table of {source} has"
            f" {published.sizes.vocab:,} rows"
        )
    config = _settled(config or _default(published.sizes), published.sizes, source)
    method = build(config, len(tokenizer))
    like = jax.eval_shape(method.init, jax.random.key(0), example_batch(config))
    params = uniter_params(published, like, source)
    _write(params, config, tokenizer, workdir)
    return _described(published, config, workdir)


def convert_clip(source: str, workdir: str, config: Config = None) -> str:
    """Writes CLIP's two towers with its own projections as checkpoint 0 of a run: CLIP's own scores.

    Args:
        source: a directory as the transformers library or open_clip saves one, or a name on the hub.
        workdir: the new run's directory.
        config: the run's; by default InfoNCE's defaults. Its towers are set here.

    Returns:
        What was converted, in a line.

    Raises:
        UserError: a file is missing or wrong, or there is a run already.
    """
    _check_new(workdir)
    folder = find(source, "source")
    said, where = description(folder), str(described_in(folder))
    if said.get("model_type") != "clip":
        raise UserError(f"{source}: config.json has model_type {said.get('model_type')!r}, not 'clip'")
    positions = described("text", said, where)["positions"]
    dim = said.get("projection_dim", 512)
    if type(dim) is not int or not 1 <= dim <= 2**16:
        raise UserError(f"{where}: has projection_dim {dim!r}, must be whole, 1 to {2**16:,}")
    if not config:
        config = config_lib.default("info_nce")
        config.name = "clip"
        config.data.max_words = positions
    for side in ("image", "text"):
        config[side].update({"name": "pretrained", "path": source, "pooling": "clip"})
    config.dim, config.data.view, config.start = dim, "pixels", ""
    config_lib.check(config)
    start = open_start(config)
    assert start and start.tokenizer  # both towers were just set
    method = build(config, len(start.tokenizer))
    params = started(method.init(jax.random.key(0), example_batch(config)), start)
    _write(params, config, start.tokenizer, workdir)
    arch, words = config.image.arch, config.text.arch
    return (
        f"clip in {workdir}: {arch.layers} layers of {arch.width} over patches of {arch.patch},"
        f" {words.layers} of {words.width} over {words.vocab:,} words, embeddings of {config.dim}"
    )


def _check_new(workdir: str) -> None:
    if has_checkpoint(workdir):
        raise UserError(f"{workdir}: holds a run's checkpoints already; name another directory")
    if Path(workdir).exists() and not Path(workdir).is_dir():
        raise UserError(f"{workdir}: is a file, not a directory")


def _write(params: Params, config: Config, tokenizer: Tokenizer, workdir: str) -> None:
    checkpoints = Checkpoints(workdir, create=True)
    try:
        state = State(jnp.int32(0), params, None, params if config.ema else None)
        checkpoints.save(state, config, tokenizer, None)
    finally:
        checkpoints.close()
    (Path(workdir) / "config.json").write_text(config_lib.to_json(config))


def _default(sizes: Sizes) -> Config:
    config = config_lib.default("iais")
    config.name, config.batch_size = "uniter", config.mining.pool
    config.uniter.hidden, config.uniter.layers, config.uniter.heads = sizes.hidden, sizes.layers, sizes.heads
    config.data.name = "uniter"
    config.data.max_words, config.data.max_regions = min(WORDS, sizes.positions), REGIONS
    config.image.boxes = True  # UNITER reads them: data without are refused, rather than scored as if at 0, 0
    return config


def _settled(config: Config, sizes: Sizes, source: str) -> Config:
    """The config, checked against the weights, with what only they tell filled in."""
    if "uniter" not in config:
        raise UserError(f"config.preset={config.preset!r}: UNITER's weights are for 'iais'")
    config_lib.check(config)
    if config.data.view != "regions":
        raise UserError(f"config.data.view={config.data.view!r}: UNITER reads 'regions'")
    config.data.region_dim = config.data.region_dim or sizes.region_dim
    flat, same = config_lib.flatten(config), ("hidden", "layers", "heads")
    wanted = {f"uniter.{name}": getattr(sizes, name) for name in same} | {"data.region_dim": sizes.region_dim}
    wrong = [f"config.{name}={flat[name]}, but {size}" for name, size in wanted.items() if flat[name] != size]
    if config.data.max_words > sizes.positions:
        wrong.append(f"config.data.max_words={config.data.max_words}, but {sizes.positions} positions")
    if wrong:
        raise UserError(f"{', '.join(wrong)} in {source}")
    config.data.tokenizer, config.data.vocab_size = "wordpiece", sizes.vocab
    if config.get("start"):
        config.start = ""  # a config of the training that is to start from this run
    return config


def _described(published: Published, config: Config, workdir: str) -> str:
    sizes = published.sizes
    score = "rank_output" if published.tuned else "row 1 of itm_output; there is no tuned rank_output"
    # cls.predictions.bias counts as cls.*
    groups = Counter(name.removeprefix("uniter.img_embeddings.").split(".")[0] for name in published.unused)
    unused = ", ".join(f"{name}.* ({count})" for name, count in sorted(groups.items()))
    return "\n".join(
        [
            f"uniter in {workdir}: {sizes.layers} layers of {sizes.hidden}, {sizes.heads} heads,"
            f" {sizes.vocab:,} word pieces, regions of size {sizes.region_dim}",
            f"  score      {score}",
            f"  positions  the first {config.data.max_words} of {sizes.positions} (config.data.max_words)",
            f"  ignored    {unused or 'nothing'}",
        ]
    )
