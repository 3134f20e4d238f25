"""Re-ranking: a fast score ranks everything, and a slow one puts its first candidates in a new order.

An exhaustive evaluation of a cross-encoder scores every pair (COCO 5K: 125 million passes through the model).
This one scores `top_k` candidates of every image and of every caption.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import describe, device_counter, encode_split
from jax_itm.evaluation.results import QUERIES, Queries
from jax_itm.inference.matcher import Matcher, has_first_score
from jax_itm.methods.base import PairScorer
from jax_itm.metrics import Candidates, Ranks, TopCandidates, combine_scores, reranked, summary
from jax_itm.progress import track


class FirstPass(NamedTuple):
    """What the fast score gives: all ranks, and the candidates that are scored again."""

    ranks: Ranks
    top: TopCandidates


class PairScores(NamedTuple):
    """The slow scores of both directions' candidates, (queries, k) each, and how many pairs were scored."""

    i2t: np.ndarray
    t2i: np.ndarray
    pairs: int


def rerank(
    matcher: Matcher, split: Split, source: Matcher, top_k: int, first_weight: float = 0.0
) -> dict[str, Any]:
    """Retrieval by `source`, whose first `top_k` candidates `matcher` puts in a new order.

    A source with a score for first passes (CDDS) ranks by that score.

    Args:
        matcher: a run that scores single pairs.
        split: an opened split.
        source: the run that ranks first.
        top_k: candidates of every image and of every caption.
        first_weight: weight of the source's scores in the new order (`metrics.combine_scores`); 0: none.

    Returns:
        What `evaluate` returns, under the full protocol. `cost` has the number of pairs that `matcher`
        scored, and the seconds of everything, the first pass included.

    Raises:
        UserError: `matcher` scores no single pairs, `top_k` is not positive, `first_weight` is negative or
            not finite, or a score is not finite.
    """
    check_options(matcher, top_k, first_weight)
    start = time.perf_counter()
    ranks, top = first_pass(source, split, top_k)
    by_image, by_caption = candidates(top, split.caption_image)
    scores = score_candidates(matcher, split, by_image, by_caption)
    reordered = Ranks(
        reorder(ranks.i2t, by_image, scores.i2t, first_weight),
        reorder(ranks.t2i, by_caption, scores.t2i, first_weight),
    )
    cost = {"pairs": scores.pairs, "seconds": time.perf_counter() - start}
    protocol = describe(matcher, split, describe_score(matcher, source, top_k, first_weight))
    return {
        "protocol": protocol | {"first_step": source.step},
        **summary(reordered),
        QUERIES: Queries(reordered, split.caption_image),
        "cost": cost,
    }


def check_options(matcher: Matcher, top_k: int, first_weight: float) -> None:
    """Raises UserError if `rerank` cannot work with these."""
    if not isinstance(matcher.method, PairScorer):
        raise UserError(f"--mode rerank: {matcher.method.label} is no cross-encoder")
    if top_k < 1:
        raise UserError(f"--top_k {top_k}: must be at least 1")
    if not 0 <= first_weight < np.inf:
        raise UserError(f"--first_weight {first_weight}: must be a finite number, 0 or more")


def first_pass(source: Matcher, split: Split, top_k: int) -> FirstPass:
    """Ranks everything by the fast score of `source`, and keeps the best `top_k` of each query."""
    encoded = encode_split(source, split)
    top = TopCandidates(len(split), len(split.caption_image), top_k)
    counter = device_counter(split.caption_image)
    blocks = list(counter.blocks(source.method.block_images))
    for rows, columns in track(blocks, len(blocks), "scoring by the first run"):
        scores = source.first_score_block(*encoded.block(rows, columns))
        counter.add(rows, columns, scores)
        top.add(rows, columns, scores)
    return FirstPass(counter.ranks(), top)


def candidates(top: TopCandidates, caption_image: np.ndarray) -> tuple[Candidates, Candidates]:
    """The candidate captions of every image, and the candidate images of every caption."""
    query = lambda items: np.broadcast_to(np.arange(len(items))[:, None], items.shape)
    image = query(top.captions)
    by_image = Candidates(image, top.captions, caption_image[top.captions] == image, top.caption_scores)
    caption = query(top.images)
    by_caption = Candidates(top.images, caption, caption_image[caption] == top.images, top.image_scores)
    return by_image, by_caption


def score_candidates(
    matcher: Matcher, split: Split, by_image: Candidates, by_caption: Candidates
) -> PairScores:
    """Scores the pairs of both directions, each once.

    Raises:
        UserError: a score is not finite.
    """
    both = [np.stack([side.image.ravel(), side.caption.ravel()], axis=1) for side in (by_image, by_caption)]
    pairs, index = np.unique(np.concatenate(both), axis=0, return_inverse=True)
    encoded = encode_split(matcher, split)
    scores = matcher.score_pairs(encoded.images, encoded.captions, pairs[:, 0], pairs[:, 1])
    if not np.all(np.isfinite(scores)):
        raise UserError("scores of the candidates are not all finite: no rank")
    i2t, t2i = np.split(scores[index.ravel()], [by_image.image.size])
    return PairScores(i2t.reshape(by_image.image.shape), t2i.reshape(by_caption.image.shape), len(pairs))


def reorder(first_ranks: np.ndarray, side: Candidates, scores: np.ndarray, first_weight: float) -> np.ndarray:
    """The ranks of one direction, its candidates in the order of their new scores."""
    return reranked(first_ranks, side.is_match, combine_scores(scores, side.first_scores, first_weight))


def describe_score(matcher: Matcher, source: Matcher, top_k: int, first_weight: float) -> str:
    """What the protocol calls the scores: "cross-encoder + 1 x the first (of the first 20 by dias)"."""
    by = source.config.name
    if has_first_score(source.method):
        by += f", {source.method.first_name}"
    also = f" + {first_weight:g} x the first" if first_weight else ""
    return f"{matcher.method.score_name}{also} (of the first {top_k} by {by})"
