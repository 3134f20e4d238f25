"""What an order-blind reading of the captions reaches with the same vision."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jax_itm.distributed.watchdog import heartbeat
from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher
from jax_itm.metrics import retrieval

CHUNK = 4096  # captions whose bags are held at once
PENALTIES = (0.01, 0.1, 1.0, 10.0)


def bag_of_words(matcher: Matcher, training, split, protocol: str = "full") -> dict[str, Any]:
    """Ridge regression from bags of words onto a run's own image embeddings.

    A caption becomes its words' counts, times the words' inverse document frequencies, at length
    one; the regression maps it onto the centred embedding of its image, fitted in closed form on
    `training`; retrieval on `split` is by cosine. It has the run's vision and the captions' words,
    and not their order. The penalty is the best of `PENALTIES` on every fifth image of `training`.

    Returns:
        {"name", "i2t", "t2i", "rsum"}, as `evaluate` returns them.
    """
    seen, shown = _vision(matcher, training), _vision(matcher, split)
    centre = seen.mean(axis=0)
    seen, shown = _unit(seen - centre), _unit(shown - centre)
    captions, image = training.captions(), training.caption_image
    idf = np.log(len(captions) / np.maximum(sum(np.sum(b > 0, axis=0) for b in _bags(matcher, captions)), 1))

    def texts(captions: list[str], weights: np.ndarray) -> np.ndarray:
        return np.concatenate([_unit(_unit(b * idf) @ weights) for b in _bags(matcher, captions)])

    def moments(captions: list[str], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gram, cross, done = 0.0, 0.0, 0
        for bags in _bags(matcher, captions):
            x = _unit(bags * idf)
            gram, cross = gram + x.T @ x, cross + x.T @ targets[done : done + len(x)]
            done += len(x)
        return np.asarray(gram), np.asarray(cross)

    def numbers(weights, captions, images, caption_image, protocol):
        found = texts(captions, weights)
        block = lambda i, t: images[slice(*i)] @ found[slice(*t)].T
        return retrieval.evaluate(block, caption_image, protocol=protocol)

    held = image % 5 == 0
    part = lambda keep: [caption for caption, kept in zip(captions, keep, strict=True) if kept]
    fitted, left_out = moments(part(~held), seen[image[~held]]), moments(part(held), seen[image[held]])
    trial = lambda p: numbers(_ridge(*fitted, p), part(held), seen[::5], image[held] // 5, "full")["rsum"]
    best = max(PENALTIES, key=trial)
    weights = _ridge(fitted[0] + left_out[0], fitted[1] + left_out[1], best)
    found = numbers(weights, split.captions(), shown, split.caption_image, protocol)
    return {"name": "bag of words, same vision", **found}


def _vision(matcher: Matcher, split) -> np.ndarray:
    images = matcher.encode_records(split.image(i) for i in range(len(split)))
    if isinstance(images, tuple):  # regions, for a cross-encoder
        raise UserError(f"--bag_of_words: {matcher.config.method.name} has no embedding of a whole image")
    return np.asarray(images)


def _bags(matcher: Matcher, captions: list[str]) -> Iterator[np.ndarray]:
    """Word counts (n, vocabulary), `CHUNK` captions at a time."""
    for start in range(0, len(captions), CHUNK):
        ids, mask = matcher.tokenizer.encode(captions[start : start + CHUNK], matcher.config.data.max_words)
        bags = np.zeros((len(ids), len(matcher.tokenizer)), np.float32)
        np.add.at(bags, (np.arange(len(ids))[:, None], ids), mask)
        heartbeat()
        yield bags


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _ridge(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)
