"""What a run retrieves on a split's first images: ranks, the worst and the typical queries, embeddings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_itm.data.split import Split
from jax_itm.evaluation.evaluate import encode_split
from jax_itm.inference.matcher import Matcher
from jax_itm.losses.token_similarity import TokenSet
from jax_itm.methods.dual_encoder import DualEncoder
from jax_itm.metrics.ranking import Ranks, compare, rank

IMAGES = 1000  # of a split that a dual encoder scores with each other
PAIRED_IMAGES = 40  # that a cross-encoder does: each pair is a forward pass
ANSWERS = 5
QUERIES = 3  # of each kind


class Answer(NamedTuple):
    """One item of a ranking: its number, its place from 1, its score, and whether it is a right one."""

    item: int
    place: int
    score: float
    is_right: bool


class Query(NamedTuple):
    """What was asked, and the answers.

    Attributes:
        item: the number of the caption or the image that was asked for.
        rank: of the right answer, or the best of them.
        answers: the first five; then the best right one, if it is not among them.
    """

    item: int
    rank: int
    answers: list[Answer]


class Retrieval(NamedTuple):
    """All scores of a split's first images with their captions, and what follows from them.

    Attributes:
        split: these images.
        scores: float (i, t).
        ranks: of them.
        embeddings: of images (i, d) and captions (t, d); None of a cross-encoder, which has none.
    """

    split: Split
    scores: np.ndarray
    ranks: Ranks
    embeddings: tuple[np.ndarray, np.ndarray] | None


def retrieve(matcher: Matcher, split: Split) -> Retrieval:
    """Scores a split's first images with all of their captions.

    Raises:
        UserError: the split is not what the run was trained on.
    """
    is_dual = isinstance(matcher.method, DualEncoder)
    split = split.first(IMAGES if is_dual else PAIRED_IMAGES)
    encoded = encode_split(matcher, split)
    scores = matcher.score(encoded.images, encoded.captions)
    pooled = lambda side: np.asarray(side.pooled if isinstance(side, TokenSet) else side)
    embeddings = (pooled(encoded.images), pooled(encoded.captions)) if is_dual else None
    return Retrieval(split, scores, ranks_of(scores, split.caption_image), embeddings)


def ranks_of(scores: np.ndarray, caption_image: np.ndarray) -> Ranks:
    """The ranks in both directions; a tie never helps.

    Args:
        scores: (i, t).
        caption_image: int (t,), the image of each caption.
    """
    images = np.arange(len(scores))
    matched = images[:, None] == caption_image
    best = np.where(matched, scores, -np.inf).max(axis=1)
    own = scores[caption_image, np.arange(len(caption_image))]
    counts = compare(scores, best, own, images, caption_image)
    return Ranks(rank(counts.rows), rank(counts.columns))


def text_query(retrieval: Retrieval, caption: int) -> Query:
    """A caption's answers: images."""
    right = np.arange(len(retrieval.scores)) == retrieval.split.caption_image[caption]
    return _query(caption, int(retrieval.ranks.t2i[caption]), retrieval.scores[:, caption], right)


def image_query(retrieval: Retrieval, image: int) -> Query:
    """An image's answers: captions."""
    right = retrieval.split.caption_image == image
    return _query(image, int(retrieval.ranks.i2t[image]), retrieval.scores[image], right)


def _query(item: int, rank: int, scores: np.ndarray, right: np.ndarray) -> Query:
    # Wrong ones first among equal scores, as in the ranks.
    order = np.lexsort((right, -scores))
    places = list(range(min(ANSWERS, len(order))))
    if not right[order[places]].any():
        places.append(int(np.argmax(right[order])))
    answers = [
        Answer(int(order[place]), place + 1, float(scores[order[place]]), bool(right[order[place]]))
        for place in places
    ]
    return Query(item, rank, answers)


def worst(ranks: np.ndarray, group: np.ndarray) -> list[int]:
    """The queries of the largest ranks, no two of one group.

    Args:
        ranks: of all queries.
        group: of each query: of one image's captions one is enough.
    """
    return _one_of_each(np.argsort(-ranks, kind="stable"), group)


def typical(ranks: np.ndarray, group: np.ndarray) -> list[int]:
    """The queries whose ranks are nearest to the median, no two of one group."""
    distance = np.abs(ranks - np.median(ranks))
    return _one_of_each(np.argsort(distance, kind="stable"), group)


def _one_of_each(order: Sequence[int] | np.ndarray, group: np.ndarray) -> list[int]:
    chosen: dict[int, int] = {}
    for query in order:
        chosen.setdefault(int(group[query]), int(query))
        if len(chosen) == QUERIES:
            break
    return list(chosen.values())
