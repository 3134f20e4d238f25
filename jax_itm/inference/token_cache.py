"""The cached tokens of a run's frozen backbones: which sides use them, and where they are stored."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from jax_itm.checkpoint.checkpoints import Description
from jax_itm.data import token_cache
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import to_host
from jax_itm.errors import UserError
from jax_itm.models.lora import BACKBONE
from jax_itm.types import SIDES, Config, Params


def cached_sides(config: Config) -> list[str]:
    """The sides whose tokens a run reads from the cache."""
    return [side for side in SIDES if config[side].cached]


def attach_tokens(run: Description, params: Params, splits: tuple[Split, ...], required: bool) -> list[Split]:
    """Splits with their cached tokens, for each side of a run that uses the cache.

    Args:
        run: its config, facts and tokenizer.
        params: of the run, its backbones among them; if several processes share them, all must call this.
        splits: which stay as they are, for other runs.
        required: whether missing tokens are an error; otherwise the backbone will run.

    Returns:
        Copies of the splits that have the `tokens` of this run alone.

    Raises:
        UserError: tokens are required and missing, or they are damaged.
    """
    copies = [split.with_tokens({}) for split in splits]
    for side in cached_sides(run.config):
        backbone = to_host(flatten_dict(params[side][BACKBONE], sep="/"))
        key = side_key(run.config, run.facts.architecture(side), side, backbone, run.tokenizer)
        for split in copies:
            tokens = token_cache.open_tokens(tokens_path(split, side, key))
            if tokens is not None:
                split.tokens[side] = tokens
            elif required:
                raise UserError(
                    f"config.{side}.cached: {split.name}/{split.split} was not encoded by this backbone:"
                    f" python -m jax_itm prepare --encode --config FILE, with the same settings"
                )
    return copies


def side_key(
    config: Config, architecture: Config, side: str, backbone: Mapping[str, Any], tokenizer: Tokenizer | None
) -> str:
    """A digest of all that the tokens of one side depend on; `backbone` are its parameters by path."""
    settings = {"dtype": config.dtype}  # the image transform is part of the architecture
    if side == "text" and tokenizer:
        settings |= {"words": config.data.max_words, "by": tokenizer.to_json()}
    return token_cache.cache_key(backbone, architecture.to_dict(), settings)


def tokens_path(split: Split, side: str, key: str) -> str:
    """The path of a split's files: the set's folder, the key, the split, and what was encoded."""
    return str(split.path.parent / "tokens" / key / f"{split.split}-{side}-{split.checksum(side)}")
