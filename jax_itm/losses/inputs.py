"""What every loss does first: check shapes, widen half precision, split rows over the mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_itm.errors import ArgumentError
from jax_itm.sharded.collectives import Axis, BatchAxes, batch_axes, check_split, split_rows
from jax_itm.sharded.tiles import Matrix, Plan
from jax_itm.types import Array, Float, Int, Shaped


class Pairs(NamedTuple):
    """Matched pairs of a global batch: row k of `images` matches row k of `texts`."""

    images: Float[Array, "b d"]
    texts: Float[Array, "b d"]
    image_ids: Int[Array, "b"]
    axes: BatchAxes

    def matrix(self, plan: Plan) -> Matrix:
        """The matrix of scores of every image with every text."""
        return Matrix(len(self.images), self.axes, plan)

    @property
    def matched(self) -> Float[Array, "b"]:
        """The scores of the matched pairs."""
        return jnp.sum(self.images * self.texts, axis=1)


def pairs(images: Any, texts: Any, image_ids: Any, axis: Axis) -> Pairs:
    """The arguments that contrastive losses share, checked and in float32 at least.

    Raises:
        ArgumentError: shapes do not match; or see `batch_axes` and `check_split`.
    """
    check_shapes(2, images=images, texts=texts)
    image_ids = checked_ids(image_ids, len(images))
    axes, (images, texts, image_ids) = split(axis, images=images, texts=texts, image_ids=image_ids)
    return Pairs(images, texts, image_ids, axes)


def checked_ids(image_ids: Any, rows: int) -> Any:
    """One number a row; all different where there are none."""
    if image_ids is None:
        return jnp.arange(rows, dtype=jnp.int32)
    if jnp.shape(image_ids) != (rows,):
        raise ArgumentError(
            f"image_ids has shape {jnp.shape(image_ids)}: must be one number a row, ({rows},)"
        )
    return image_ids


def check_shapes(dimensions: int, **arrays: Any) -> None:
    """Raises ArgumentError unless all arrays have as many dimensions and equal shapes."""
    (first, x), *others = arrays.items()
    if jnp.ndim(x) != dimensions:
        letters = ", ".join("bnd"[k] if dimensions == 3 else "bd"[k] for k in range(dimensions))
        raise ArgumentError(f"{first} has shape {jnp.shape(x)}: must be ({letters})")
    for name, other in others:
        if jnp.shape(other) != jnp.shape(x):
            raise ArgumentError(
                f"{first} has shape {jnp.shape(x)} and {name} {jnp.shape(other)}: they must be equal, as"
                " row k of one matches row k of the other"
            )


def check_tokens(rows: int | None, **arrays: Any) -> None:
    """Raises ArgumentError unless there are tokens (b, n, d) and, second, their mask (b, n); `rows` is b."""
    (name, tokens), (mask_name, mask) = arrays.items()
    check_shapes(3, **{name: tokens})
    if rows is not None and len(tokens) != rows:
        raise ArgumentError(
            f"{name} has shape {jnp.shape(tokens)}: must be ({rows}, n, {jnp.shape(tokens)[2]}), as many rows"
            " as image_tokens"
        )
    if jnp.shape(mask) != jnp.shape(tokens)[:2]:
        raise ArgumentError(f"{mask_name} has shape {jnp.shape(mask)}: must be {jnp.shape(tokens)[:2]}")


def split(axis: Axis, **arrays: Any) -> tuple[BatchAxes, list[Any]]:
    """The mesh axes, and arrays (or trees of them) with the batch on axis 0, cast and split."""
    axes = batch_axes(axis)
    for name, tree in arrays.items():
        for leaf in jax.tree.leaves(tree):
            check_split(axes, name, leaf)
    return axes, [split_rows(axes, jax.tree.map(widened, tree)) for tree in arrays.values()]


def widened(x: Any) -> Shaped[Array, "..."]:
    """float16 and bfloat16 as float32; all else as it is."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if jnp.issubdtype(x.dtype, jnp.floating) else x
