"""What an index stores for an item: one vector, and its true tokens if the score uses token sets."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jax_itm.data.image_transforms import image_transform_of
from jax_itm.data.token_cache import cache_key
from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher
from jax_itm.losses.token_similarity import TokenSet
from jax_itm.methods.dual_encoder import DualEncoder
from jax_itm.types import PyTree


class Items(NamedTuple):
    """Encoded items, as an index keeps them.

    Attributes:
        vectors: float32 (n, d), L2-normalised.
        tokens: the true tokens of each, float32 (r, d); none for methods that score by the vectors alone.
    """

    vectors: np.ndarray
    tokens: list[np.ndarray] | None


def check_searchable(matcher: Matcher, option: str) -> None:
    """Raises UserError where a run cannot search in pictures; `option` is the option that named the run."""
    if not isinstance(matcher.method, DualEncoder):
        raise UserError(
            f"{option}: {matcher.method.label} scores every pair anew and has no embeddings to index; name"
            " the run of a dual encoder"
        )
    if matcher.config.data.modality != "pixels":
        raise UserError(
            f"{option}: this run was trained on region features, not on picture files; an index needs a run"
            " with config.data.modality='pixels'"
        )


def to_items(encoded: PyTree) -> Items:
    """What an index keeps of the encodings of a dual encoder."""
    if not isinstance(encoded, TokenSet):
        return Items(np.asarray(encoded, np.float32), None)
    tokens, mask = np.asarray(encoded.tokens, np.float32), np.asarray(encoded.mask)
    return Items(np.asarray(encoded.pooled, np.float32), [a[m] for a, m in zip(tokens, mask, strict=True)])


def token_sets(vectors: np.ndarray, tokens: Sequence[np.ndarray], width: int) -> TokenSet:
    """The token sets of items, padded to `width` tokens, as a score takes them."""
    padded = np.zeros((len(tokens), width, vectors.shape[1]), np.float32)
    mask = np.zeros((len(tokens), width), bool)
    for row, own in enumerate(tokens):
        padded[row, : len(own)] = own
        mask[row, : len(own)] = True
    return TokenSet(jax.numpy.asarray(padded), jax.numpy.asarray(mask), jax.numpy.asarray(vectors))


def fingerprint(matcher: Matcher) -> str:
    """A digest of all that the encodings of a run depend on: its parameters and how its inputs are made."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(matcher.params)
    params = {jax.tree_util.keystr(path): np.asarray(value) for path, value in leaves}
    tokenizer = hashlib.sha256(matcher.tokenizer.to_json().encode()).hexdigest()
    config = matcher.config
    inputs = {"tokenizer": tokenizer, "max_words": config.data.max_words, "dtype": config.dtype}
    transform = list(image_transform_of(config, matcher.facts))
    return cache_key(params, {"score": matcher.method.score_name}, inputs | {"transform": transform})
