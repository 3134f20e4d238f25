"""What an order-blind reading of the captions reaches with the same vision."""

from typing import Any

import numpy as np

from jax_itm import retrieval
from jax_itm.infer import Matcher


def bag_of_words(matcher: Matcher, training, split, protocol: str = "full") -> dict[str, Any]:
    """Ridge regression from bags of words onto a run's own image embeddings.

    A caption becomes its words' counts, times the words' inverse document frequencies, at length
    one; the regression maps it onto the embedding of its image, fitted in closed form on `training`;
    retrieval on `split` is by cosine. It has the run's vision and the captions' words, and not their
    order. The penalty is the best of a few on every fifth image of `training`, held out.

    Returns:
        {"name", "i2t", "t2i", "rsum"}, as `evaluate` returns them.
    """
    size = len(matcher.tokenizer)

    def counts(captions: list[str]) -> np.ndarray:
        ids, mask = matcher.tokenizer.encode(captions, matcher.config.data.max_words)
        bags = np.zeros((len(captions), size), np.float32)
        np.add.at(bags, (np.arange(len(captions))[:, None], ids), mask)
        return bags

    def vision(part) -> np.ndarray:
        images = matcher.encode_records(part.image(i) for i in range(len(part)))
        return np.asarray(images)

    bags, images = counts(training.captions()), vision(training)
    idf = np.log(len(bags) / np.maximum(np.sum(bags > 0, axis=0), 1)).astype(np.float32)
    weigh = lambda bags: _unit(bags * idf)
    bags, centre = weigh(bags), images.mean(axis=0)
    targets = _unit(images - centre)[training.caption_image]

    def numbers(weights, bags, images, caption_image, protocol):
        texts, images = _unit(bags @ weights), _unit(images - centre)
        block = lambda i, t: images[slice(*i)] @ texts[slice(*t)].T
        return retrieval.evaluate(block, caption_image, protocol=protocol)

    held = training.caption_image % 5 == 0
    held_images, held_captions = images[::5], training.caption_image[held] // 5

    def held_out(penalty):
        weights = _ridge(bags[~held], targets[~held], penalty)
        return numbers(weights, bags[held], held_images, held_captions, "full")["rsum"]

    penalty = max((0.01, 0.1, 1.0, 10.0), key=held_out)
    weights = _ridge(bags, targets, penalty)
    result = numbers(weights, weigh(counts(split.captions())), vision(split), split.caption_image, protocol)
    return {"name": "bag of words, same vision", **result}


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    gram = x.T @ x + penalty * np.eye(x.shape[1], dtype=x.dtype)
    return np.linalg.solve(gram, x.T @ y)
