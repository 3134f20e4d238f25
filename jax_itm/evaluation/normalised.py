"""Retrieval by normalised scores: a protocol of its own, since each score depends on all queries."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from jax_itm.data.split import Split
from jax_itm.evaluation.evaluate import (
    EncodedSplit,
    describe,
    device_counter,
    encode_split,
    score_blocks,
    split_folds,
)
from jax_itm.evaluation.results import QUERIES, Queries
from jax_itm.inference.matcher import Matcher
from jax_itm.metrics import (
    QuerySums,
    Ranks,
    RetrievalCounter,
    TopCandidates,
    csls,
    inverted_softmax,
    neighbour_mean,
)
from jax_itm.metrics.ranking import KS
from jax_itm.types import Array

# The usual values: Conneau et al. (ICLR 2018) and the code that they released.
NEIGHBOURS = 10  # of CSLS
TEMPERATURE = 1 / 30  # of the inverted softmax

Normalise = Callable[[slice, slice, Array], Array]
_csls = jax.jit(csls)
_inverted_softmax = jax.jit(partial(inverted_softmax, temperature=TEMPERATURE))


def evaluate_normalised(
    matcher: Matcher, split: Split, method: str, protocol: str = "full"
) -> dict[str, Any]:
    """Retrieval in both directions by normalised scores; all pairs are scored twice.

    Args:
        matcher: the run.
        split: an opened split.
        method: one of `METHODS`: "csls" or "inverted_softmax".
        protocol: that of `evaluate`. The queries and neighbours are those of a fold.

    Returns:
        What `evaluate` returns; its protocol names the normalisation in "score" and "normalised".

    Raises:
        UserError: as `evaluate`.
    """
    folds = split_folds(split, protocol)
    start = time.perf_counter()
    encoded = encode_split(matcher, split)
    first = Pass(matcher, encoded, device_counter(split.caption_image, folds))
    score, directions = METHODS[method](first)
    counters = {name: device_counter(split.caption_image, folds) for name in directions}
    for name, normalise in directions.items():
        for rows, columns, scores in score_blocks(matcher, encoded, counters[name]):
            counters[name].add(rows, columns, normalise(rows, columns, scores))
    by_image, by_caption = counters["i2t"], counters.get("t2i", counters["i2t"])
    i2t, t2i = by_image.result()["i2t"], by_caption.result()["t2i"]
    ranks = Ranks(by_image.ranks().i2t, by_caption.ranks().t2i)
    pairs = (1 + len(directions)) * len(split) * len(split.caption_image) // folds
    described = describe(matcher, split, f"{matcher.method.score_name} + {score}", folds)
    return {
        "protocol": described | {"normalised": method},
        "i2t": i2t,
        "t2i": t2i,
        "rsum": sum(direction[f"r{k}"] for direction in (i2t, t2i) for k in KS),
        QUERIES: Queries(ranks, split.caption_image),
        "cost": {"pairs": pairs, "seconds": time.perf_counter() - start},
    }


class Pass(NamedTuple):
    """What scores all pairs once."""

    matcher: Matcher
    encoded: EncodedSplit
    counter: RetrievalCounter

    def feed(self, statistic: TopCandidates | QuerySums) -> None:
        """Feeds a statistic all blocks of scores."""
        for rows, columns, scores in score_blocks(self.matcher, self.encoded, self.counter):
            statistic.add(rows, columns, scores)


def _by_csls(first: Pass) -> tuple[str, dict[str, Normalise]]:
    """What the protocol says of the scores, and how both directions normalise them: one pass serves both."""
    top = TopCandidates(first.counter.images, first.counter.captions, NEIGHBOURS)
    first.feed(top)
    image_mean = neighbour_mean(top.caption_scores)
    caption_mean = neighbour_mean(top.image_scores)
    normalise = lambda rows, columns, scores: _csls(scores, image_mean[rows], caption_mean[columns])
    return f"CSLS ({NEIGHBOURS} neighbours, sees all queries)", {"i2t": normalise}


def _by_inverted_softmax(first: Pass) -> tuple[str, dict[str, Normalise]]:
    """What the protocol says of the scores, and how each direction normalises them."""
    sums = QuerySums(first.counter.images, first.counter.captions, TEMPERATURE)
    first.feed(sums)
    by_image = lambda rows, columns, scores: _inverted_softmax(scores, sums.captions[columns])
    by_caption = lambda rows, columns, scores: _inverted_softmax(scores.T, sums.images[rows]).T
    text = f"inverted softmax (temperature 1/{1 / TEMPERATURE:g}, sees all queries)"
    return text, {"i2t": by_image, "t2i": by_caption}


METHODS = {"csls": _by_csls, "inverted_softmax": _by_inverted_softmax}
