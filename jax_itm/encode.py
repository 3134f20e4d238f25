"""Frozen towers over a whole data set, once, instead of in every step of every run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.data import encoded
from jax_itm.data.builders import open_split, splits_of
from jax_itm.data.collate import collate_images
from jax_itm.data.frames import frame_of
from jax_itm.data.split import Split
from jax_itm.data.text import Tokenizer
from jax_itm.methods.base import encoder
from jax_itm.parallel import whole
from jax_itm.start import SIDES, open_start
from jax_itm.types import Array, Config, Inputs, Params, UserError


def cached_sides(config: Config) -> list[str]:
    """The sides whose tokens a config wants from `prepare --encode`; runs of old have no such field."""
    return [side for side in SIDES if config[side].get("cached")]


def attached(
    config: Config, params: Params, tokenizer: Tokenizer, *splits: Split, needed: bool
) -> list[Split]:
    """Splits with the tokens that were made of them, for each side of a run that wants them.

    Args:
        config: of the run.
        params: its parameters, towers among them; where processes share them, all must call this.
        tokenizer: its tokenizer.
        splits: stay as they are, for other runs.
        needed: whether to refuse where there are none; else the towers run.

    Returns:
        Splits like the given ones, with `tokens` of this run alone.

    Raises:
        UserError: `needed`, and the tokens were not made, or they are damaged.
    """
    made = [split.with_tokens({}) for split in splits]
    for side in cached_sides(config):
        tower = whole(flatten_dict(params[side]["tower"], sep="/"))
        key = _key(config, side, tower, tokenizer)
        for split in made:
            found = encoded.find(_place(split, side, key))
            if found is None and needed:
                raise UserError(
                    f"config.{side}.cached: {split.name}/{split.split} was not encoded by this tower: python"
                    f" -m jax_itm prepare --encode --config FILE, with the same settings"
                )
            if found is not None:
                split.tokens[side] = found
    return made


def _key(config: Config, side: str, tower: Mapping[str, Any], tokenizer: Tokenizer | None) -> str:
    """Of all that the tokens of one side depend on."""
    settings = {"dtype": config.dtype}  # how pictures are framed is in the description
    if side == "text" and tokenizer:
        settings |= {"words": config.data.max_words, "by": tokenizer.to_json()}
    return encoded.key(tower, config[side].arch.to_dict(), settings)


def _place(split: Split, side: str, key: str) -> str:
    """The beginning of a split's files: the set's folder, the key, the split, and what was encoded."""
    return str(split.path.parent / "towers" / key / f"{split.split}-{side}-{split.digest(side)}")


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
            if encoded.find(place) is None:
                _write(place, run, _batches(config, split, side, start.tokenizer))
            found: Any = encoded.find(place)
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
            yield collate_images(records, data.max_regions, frame_of(config))


def _write(place: str, run: Callable[[Inputs], Array], batches: Iterator[Inputs]) -> None:
    """The true tokens of all batches, as they come: in memory one batch, on disk the rest."""
    with encoded.writing(place) as add:
        for inputs in batches:
            tokens = np.asarray(run(inputs), np.float16)
            mask = np.asarray(inputs.get("mask", np.ones(tokens.shape[:2], bool)))
            add(tokens[mask], mask.sum(axis=1))
