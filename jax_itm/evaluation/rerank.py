"""Re-ranking: a fast score ranks all, a slow one orders its first candidates anew.

An exhaustive evaluation of a cross-encoder scores every pair (COCO 5K: 125 million passes through the
model); this one scores `top_k` an image and `top_k` a caption.
"""

import time
from typing import Any

import numpy as np

from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import COMPARE, described, encoded, score_blocks
from jax_itm.inference.matcher import Matcher
from jax_itm.metrics import retrieval
from jax_itm.metrics.reranking import Nearest, Pairs, joined, reordered


def rerank(matcher: Matcher, split, source: Matcher, top_k: int, first_weight: float = 0.0) -> dict[str, Any]:
    """Retrieval by `source`, its first `top_k` ordered anew by `matcher`, which scores single pairs.

    A source with a score for first passes (CDDS's `pooled`) ranks by that. With `first_weight` the source's
    own scores have a say in the new order (`joined`).

    Returns what `evaluate` returns, under the full protocol; `cost` counts the pairs that `matcher`
    scored and all the time, that of `source` included.

    Raises:
        UserError: `matcher` scores no single pairs, `top_k` is not positive, `first_weight` is negative or
            not finite, or a score is not finite.
    """
    if not hasattr(matcher.method, "score_pairs"):
        raise UserError(f"--mode rerank: {matcher.config.method.name} is no cross-encoder")
    if top_k < 1:
        raise UserError(f"--top_k {top_k}: must be at least 1")
    if not 0 <= first_weight < np.inf:
        raise UserError(f"--first_weight {first_weight}: must be a number from 0")
    start, owner = time.perf_counter(), split.caption_image
    nearest = Nearest(len(split), len(owner), top_k)
    first = score_blocks(source, *encoded(source, split), first=True)

    def blocks():
        for rows, columns in retrieval.block_plan(owner, source.method.block_images):
            block = rows, columns, first(rows, columns)
            nearest.add(block)
            yield block

    ranks = retrieval.ranks(blocks(), owner, COMPARE)
    ways = []
    for found, known, by_image in (
        (nearest.texts, nearest.of_texts, True),
        (nearest.images, nearest.of_images, False),
    ):
        anchor = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
        image, caption = (anchor, found) if by_image else (found, anchor)
        ways.append(Pairs(image, caption, owner[caption] == image, known))
    asked = np.concatenate([np.stack([w.image.ravel(), w.caption.ravel()], axis=1) for w in ways])
    pairs, place = np.unique(asked, axis=0, return_inverse=True)
    scores = matcher.score_pairs(*encoded(matcher, split), pairs[:, 0], pairs[:, 1])
    if not np.all(np.isfinite(scores)):
        raise UserError("scores of the candidates are not all finite: no rank")
    parts = np.split(scores[place.ravel()], [ways[0].image.size])
    again = [
        reordered(rank, way.right, joined(part.reshape(way.image.shape), way.first, first_weight))
        for rank, way, part in zip(ranks, ways, parts, strict=True)
    ]
    cost = {"pairs": len(pairs), "seconds": time.perf_counter() - start}
    by = source.config.name
    if name := getattr(source.method, "first_name", ""):
        by += f", {name}"
    also = f" + {first_weight:g} x the first" if first_weight else ""
    how = f"{matcher.method.score_name}{also} (of the first {top_k} by {by})"
    protocol = described(matcher, split, how) | {"first_step": source.step}
    return {"protocol": protocol, **retrieval.metrics(*again), "cost": cost}
