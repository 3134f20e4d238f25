"""Batches of pools of similar pairs, from a file of a dual encoder's nearest neighbours.

A matcher that sees random pairs learns to tell any captions from any images, not a dual encoder's nearest
candidates from one another. Each pool is a pair of the training stream with others near it. Which ones is a
pure function of (seed, step), as the whole batch is.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.errors import UserError
from jax_itm.storage import replacing


class Neighbours(NamedTuple):
    """The nearest items of other images, by a dual encoder.

    Attributes:
        captions: int (images, k), the captions nearest each image.
        images: int (captions, k), the images nearest each caption.
    """

    captions: np.ndarray
    images: np.ndarray


class Pools(NamedTuple):
    """How the pools of a batch are made.

    Attributes:
        size: pairs of a pool.
        neighbours: of the training split.
        near: fraction of a pool's other pairs that are near its first, at the end of the ramp.
        start: step until which all are random.
        ramp: steps in which the fraction then rises from 0 to `near`.
    """

    size: int
    neighbours: Neighbours
    near: float
    start: int
    ramp: int

    def share(self, step: int) -> float:
        """The fraction at a step."""
        risen = (step - self.start) / self.ramp if self.ramp else float(step >= self.start)
        return self.near * min(max(risen, 0.0), 1.0)


def pool_captions(
    anchors: np.ndarray, caption_image: np.ndarray, pools: Pools, seed: int, step: int
) -> np.ndarray:
    """The captions of a batch of pools, each an anchor and then the others of its pool.

    A near pair is one of the anchor's image with its nearest captions, or of the anchor's caption with the
    nearest images, one of whose captions is drawn: either half of the time.

    Args:
        anchors: int (n,), the captions that the pools begin with.
        caption_image: int (captions,), the image of each caption, ascending.
        pools: how they are made.
        seed: of the run.
        step: of the batch.

    Returns:
        int (n * size,).
    """
    # RandomState, because numpy keeps its streams the same.
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, step, pools.size))))
    shape = (len(anchors), pools.size - 1)
    column = rng.randint(pools.neighbours.captions.shape[1], size=shape)
    near_captions = np.take_along_axis(pools.neighbours.captions[caption_image[anchors]], column, axis=1)
    image = np.take_along_axis(pools.neighbours.images[anchors], column, axis=1)
    first, end = (np.searchsorted(caption_image, image, side) for side in ("left", "right"))
    of_image = first + (rng.random_sample(shape) * (end - first)).astype(int)
    others = np.where(rng.random_sample(shape) < 0.5, near_captions, of_image)
    is_near = rng.random_sample(shape) < pools.share(step)
    others = np.where(is_near, others, rng.randint(len(caption_image), size=shape))
    return np.concatenate([anchors[:, None], others], axis=1).ravel()


def write_neighbours(neighbours: Neighbours, identity: str, path: Path) -> None:
    """Writes a file for `config.mining.neighbours`; `identity` says of which split (`Split.identity`)."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **neighbours._asdict(), identity=identity)


def read_neighbours(path: str, identity: str) -> Neighbours:
    """The neighbours in a file.

    Raises:
        UserError: there is none, it is damaged, or it is of another split.
    """
    field = f"config.mining.neighbours={path}"
    if not Path(path).is_file():
        raise UserError(f"{field}: no such file; python -m jax_itm neighbours --workdir RUN --out {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            theirs = str(arrays["identity"])
            neighbours = Neighbours(arrays["captions"], arrays["images"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{field}: damaged ({error})") from error
    if theirs != identity:
        raise UserError(f"{field}: is of {theirs}, not of {identity}")
    return neighbours
