"""Runs frozen backbones over a whole data set once, instead of in every step of every run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from jax_itm.config import Facts
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images
from jax_itm.data.prepared import open_split, splits_of
from jax_itm.data.split import Split
from jax_itm.data.token_cache import Tokens, open_tokens, token_writer
from jax_itm.errors import UserError
from jax_itm.inference.token_cache import BACKBONE, cached_sides, side_key, tokens_path
from jax_itm.models import Tokens as BackboneTokens
from jax_itm.models import build
from jax_itm.progress import track
from jax_itm.train.init_from import read_source
from jax_itm.train.start_rules import Source
from jax_itm.types import Config, Inputs

Backbone = Callable[[Inputs], BackboneTokens]


def encode(config: Config) -> list[str]:
    """Computes the tokens of every split of `config.data` that are not there yet; returns a line for each.

    Raises:
        UserError: the config has no side with `cached`, or what `read_source` and `open_split` refuse.
    """
    sides = cached_sides(config)
    if not sides:
        raise UserError("--encode: config.text.cached and config.image.cached are both False")
    source = read_source(config, _facts(config))
    assert source is not None  # a side that is cached has a pretrained encoder
    return [line for side in sides for line in _encode_side(config, side, source)]


def _facts(config: Config) -> Facts:
    """The facts that the data set gives."""
    data = config.data
    split = open_split(data.name, data.data_dir, data.train, data.modality)
    return Facts(region_dim=split.region_dim or 0)


def _encode_side(config: Config, side: str, source: Source) -> Iterator[str]:
    prefix = f"{side}/{BACKBONE}/"
    params = {path.removeprefix(prefix): x for path, x in source.params.items() if path.startswith(prefix)}
    key = side_key(config, source.facts.architecture(side), side, params, source.tokenizer)
    backbone = _backbone(config, source.facts, side, params)
    data = config.data
    for name in splits_of(data.name, data.data_dir):
        split = open_split(data.name, data.data_dir, name, data.modality)
        path = tokens_path(split, side, key)
        items = len(split) if side == "image" else len(split.captions())
        count = -(-items // config.evaluate.batch_size)
        batches = track(_batches(config, source, split, side), count, f"encoding {name}, batches of {side}s")
        tokens = open_tokens(path) or _write(path, backbone, batches)
        yield f"{name}, {side}: {len(tokens):,} items, {tokens.starts[-1]:,} tokens, {path}"


def _backbone(config: Config, facts: Facts, side: str, params: Mapping[str, Any]) -> Backbone:
    """The backbone of one side, compiled."""
    module = build.encoder(config, facts, side).backbone
    variables = {"params": unflatten_dict(params, sep="/")}
    return jax.jit(lambda inputs: module.apply(variables, inputs))


def _batches(config: Config, source: Source, split: Split, side: str) -> Iterator[Inputs]:
    """One side of a whole split, in order."""
    rows = config.evaluate.batch_size
    data = config.data
    if side == "text":
        assert source.tokenizer is not None  # the backbone's own
        ids, mask = source.tokenizer.encode(split.captions(), data.max_words)
        for k in range(0, len(ids), rows):
            yield {"ids": ids[k : k + rows], "mask": mask[k : k + rows]}
    else:
        for k in range(0, len(split), rows):
            records = (split.image(i) for i in range(k, min(k + rows, len(split))))
            yield collate_images(records, data.max_regions, image_transform_of(config, source.facts))


def _write(path: str, backbone: Backbone, batches: Iterator[Inputs]) -> Tokens:
    """Writes the true tokens of all batches; only one batch is in memory at a time."""
    with token_writer(path) as add:
        for inputs in batches:
            tokens = backbone(inputs)
            mask = np.asarray(tokens.mask)
            add(np.asarray(tokens.features, np.float16)[mask], mask.sum(axis=1))
    written = open_tokens(path)
    assert written is not None
    return written
