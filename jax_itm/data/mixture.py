"""Trains on several sets: each has its share of every batch, and its own stream of epochs.

Which rows a batch takes from which set is a pure function of (seed, step), as with a single set.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_itm.data.batch_options import BatchOptions
from jax_itm.data.order import permutation
from jax_itm.data.pairs import Pairs, PairSource, pair_source
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError

RESOLUTION = 2**20  # weights are rounded to so many parts of their sum


class MixedRows(NamedTuple):
    """What the rows of a global batch are.

    Attributes:
        sets: int64 (b,), the number of the set of each row.
        positions: int64 (b,), its position in the stream of that set.
    """

    sets: np.ndarray
    positions: np.ndarray


class Mixture(NamedTuple):
    """Training splits and how much of each batch they have.

    Attributes:
        splits: of the sets.
        weights: of the sets; a set's share is its weight over their sum.
    """

    splits: tuple[Split, ...]
    weights: tuple[float, ...]


def mixed_rows(weights: Sequence[float], batch_size: int, seed: int, step: int) -> MixedRows:
    """The rows of the batch at `step`.

    A set has as many rows of the first batches as its share says, to within one, so that its stream has
    neither gaps nor repetitions; inside a batch the rows are shuffled, as processes read slices of it.
    """
    parts = np.round(np.cumsum([0.0, *weights]) / sum(weights) * RESOLUTION)
    bounds = [int(part) for part in parts]

    def rows_before(at: int) -> np.ndarray:
        return np.diff([at * batch_size * bound // RESOLUTION for bound in bounds])

    starts = rows_before(step)
    counts = rows_before(step + 1) - starts
    sets = np.repeat(np.arange(len(weights)), counts)
    first_rows = np.cumsum(counts) - counts
    positions = starts[sets] + np.arange(batch_size) - first_rows[sets]
    order = permutation(batch_size, seed, step, 0, 1)
    return MixedRows(sets[order], positions[order])


class MixedPairs:
    """The stream of a mixture: `PairSource`, whose pairs have `sets`.

    Raises:
        UserError: a set has less than one row of a batch.
    """

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, options: BatchOptions):
        self._weights = mixture.weights
        self._options = options
        least = min(mixture.weights) / sum(mixture.weights) * options.batch_size
        if least < 1:
            raise UserError(
                f"config.data.mixture: a set has {least:.2g} rows of a batch of {options.batch_size}; give it"
                " at least one, by its weight or config.batch_size"
            )
        self._sources: list[PairSource] = [pair_source(each, tokenizer, options) for each in mixture.splits]
        self._first_image = np.cumsum([0, *map(len, mixture.splits)])

    def at(self, positions: np.ndarray) -> Pairs:
        """The pairs at positions of the stream, all of one batch."""
        step = int(positions[0]) // self._options.batch_size
        rows = mixed_rows(self._weights, self._options.batch_size, self._options.seed, step)
        places = positions - step * self._options.batch_size
        sets = rows.sets[places]
        parts = []
        order = []
        for number in np.unique(sets):
            here = np.flatnonzero(sets == number)
            pairs = self._sources[number].at(rows.positions[places][here])
            parts.append(pairs._replace(images=pairs.images + self._first_image[number]))
            order.append(here)
        back = np.argsort(np.concatenate(order))
        records = [record for part in parts for record in part.records]
        images = np.concatenate([part.images for part in parts])
        text = {key: np.concatenate([part.text[key] for part in parts])[back] for key in parts[0].text}
        return Pairs([records[k] for k in back], images[back], text, sets.astype(np.int32))
