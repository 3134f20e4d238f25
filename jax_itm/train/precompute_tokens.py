"""Frozen towers over a whole data set, once, instead of in every step of every run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from jax_itm.data import token_cache
from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.images import collate_images
from jax_itm.data.prepared import open_split, splits_of
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.inference.token_cache import _key, _place, cached_sides
from jax_itm.methods.encoders import encoder
from jax_itm.train.init_from import open_start
from jax_itm.types import Array, Config, Inputs


def encode(config: Config) -> list[str]:
    """Makes the tokens of every split of `config.data` that are not there yet; returns a line for each.

    Raises:
        UserError: the config has no side with `cached`, or what `open_start` and `open_split` refuse.
    """
    sides, data, lines = cached_sides(config), config.data, []
    if not sides:
        raise UserError("--encode: config.text.cached and config.image.cached are both False")
    start: Any = open_start(config)
    for side in sides:
        begin = f"{side}/tower/"
        tower = {k.removeprefix(begin): v for k, v in start.params.items() if k.startswith(begin)}
        key = _key(config, side, tower, start.tokenizer)
        run = _tower(config, side, tower, len(start.tokenizer or ()))
        for name in splits_of(data.name, data.data_dir):
            split = open_split(data.name, data.data_dir, name, data.view)
            place = _place(split, side, key)
            if token_cache.find(place) is None:
                _write(place, run, _batches(config, split, side, start.tokenizer))
            found: Any = token_cache.find(place)
            lines.append(f"{name}, {side}: {len(found):,} items, {found.starts[-1]:,} tokens, {place}")
    return lines


def _tower(config: Config, side: str, params: Mapping[str, Any], vocab: int) -> Callable[[Inputs], Array]:
    """The tower of a side alone: inputs -> tokens (b, n, f)."""
    model, tree = encoder(config, side, vocab).tower, unflatten_dict(params, sep="/")
    return jax.jit(lambda inputs: model.apply({"params": tree}, inputs))


def _batches(config: Config, split: Split, side: str, tokenizer: Tokenizer) -> Iterator[Inputs]:
    """A side of a whole split, in order."""
    rows, data = config.evaluate.batch_size, config.data
    if side == "text":
        ids, mask = tokenizer.encode(split.captions(), data.max_words)
        for k in range(0, len(ids), rows):
            yield {"ids": ids[k : k + rows], "mask": mask[k : k + rows]}
    else:
        for k in range(0, len(split), rows):
            records = [split.image(i) for i in range(k, min(k + rows, len(split)))]
            yield collate_images(records, data.max_regions, image_transform_of(config))


def _write(place: str, run: Callable[[Inputs], Array], batches: Iterator[Inputs]) -> None:
    """The true tokens of all batches, as they come: in memory one batch, on disk the rest."""
    with token_cache.writing(place) as add:
        for inputs in batches:
            tokens = np.asarray(run(inputs), np.float16)
            mask = np.asarray(inputs.get("mask", np.ones(tokens.shape[:2], bool)))
            add(tokens[mask], mask.sum(axis=1))
