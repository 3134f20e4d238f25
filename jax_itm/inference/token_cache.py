"""The cached tokens of a run's frozen encoders: which sides want them, and where they lie."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from jax_itm.data import token_cache
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import to_host
from jax_itm.errors import UserError
from jax_itm.types import Config, Params

SIDES = ("image", "text")


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
        tower = to_host(flatten_dict(params[side]["tower"], sep="/"))
        key = _key(config, side, tower, tokenizer)
        for split in made:
            found = token_cache.find(_place(split, side, key))
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
    return token_cache.key(tower, config[side].arch.to_dict(), settings)


def _place(split: Split, side: str, key: str) -> str:
    """The beginning of a split's files: the set's folder, the key, the split, and what was encoded."""
    return str(split.path.parent / "towers" / key / f"{split.split}-{side}-{split.checksum(side)}")
