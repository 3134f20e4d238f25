"""A baseline that ignores the order of a caption's words, with the run's own image embeddings.

A ridge regression maps a caption's bag of words onto the run's embedding of its image. Scores are cosines.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.watchdog import heartbeat
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import split_folds
from jax_itm.inference.matcher import Matcher
from jax_itm.metrics import RetrievalCounter

CHUNK = 4096  # captions whose bags are held at once
PENALTIES = (0.01, 0.1, 1.0, 10.0)
HELD_OUT_EVERY = 5  # every fifth training image chooses the penalty


def bag_of_words(matcher: Matcher, training: Split, split: Split, protocol: str = "full") -> dict[str, Any]:
    """Retrieval on `split` by a ridge regression that is fitted on `training`.

    The penalty is the best of `PENALTIES` on every fifth image of `training`. The regression is then fitted
    on all of it.

    Args:
        matcher: a run with an embedding for each image.
        training: the split to fit on.
        split: the split to evaluate on.
        protocol: that of `evaluate`.

    Returns:
        {"name", "i2t", "t2i", "rsum"}, the numbers as `evaluate` returns them.

    Raises:
        UserError: the run has no embedding of an image, or the protocol does not take the split.
    """
    folds = split_folds(split, protocol)
    training_images = embed_images(matcher, training)
    centre = training_images.mean(axis=0)
    training_images = _normalise(training_images - centre)
    images = _normalise(embed_images(matcher, split) - centre)
    bags = Bags.fit(matcher.tokenizer, matcher.config.data.max_words, training.captions())
    weights = fit(bags, training, training_images)
    texts = predict(bags, weights, split.captions())
    return {"name": "bag of words, same vision", **_retrieval(images, texts, split.caption_image, folds)}


def embed_images(matcher: Matcher, split: Split) -> np.ndarray:
    """The run's embeddings (i, d) of a split's images; UserError if it has token sets instead."""
    images = matcher.encode_records(split.image(k) for k in range(len(split)))
    if isinstance(images, tuple):  # such as a cross-encoder's regions
        raise UserError(f"--bag_of_words: {matcher.method.label} has no embedding of a whole image")
    return np.asarray(images)


class Bags:
    """Word counts times the words' inverse document frequencies, L2-normalised.

    Words that the training captions lack are left out: no regression can say anything of them, and a
    published vocabulary of 30,000 would need a matrix of 7 GB.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int, ids: np.ndarray, inverse_frequency: np.ndarray):
        self.tokenizer = tokenizer
        self.max_words = max_words
        self.ids = ids  # of the words, ascending
        self.inverse_frequency = inverse_frequency

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def fit(cls, tokenizer: Tokenizer, max_words: int, captions: list[str]) -> "Bags":
        """With the document frequencies of `captions`."""
        every = cls(tokenizer, max_words, np.arange(len(tokenizer)), np.ones(len(tokenizer)))
        documents = np.zeros(len(tokenizer), np.int64)
        for counts in every._counts(captions):
            documents += np.sum(counts > 0, axis=0)
        ids = np.flatnonzero(documents)
        return cls(tokenizer, max_words, ids, np.log(len(captions) / documents[ids]))

    def __call__(self, captions: list[str]) -> Iterator[np.ndarray]:
        """Yields the bags (n, words) of `CHUNK` captions at a time."""
        for counts in self._counts(captions):
            yield _normalise(counts * self.inverse_frequency)

    def _counts(self, captions: list[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(captions), CHUNK):
            heartbeat()
            ids, mask = self.tokenizer.encode(captions[start : start + CHUNK], self.max_words)
            counts = np.zeros((len(ids), len(self.tokenizer)), np.float32)
            np.add.at(counts, (np.arange(len(ids))[:, None], ids), mask)
            yield counts[:, self.ids]


class Moments(NamedTuple):
    """What a ridge regression needs of bags x and targets y: x^T x and x^T y, summed over captions."""

    gram: np.ndarray
    cross: np.ndarray

    def weights(self, penalty: float) -> np.ndarray:
        """The regression (vocabulary, d)."""
        return np.linalg.solve(self.gram + penalty * np.eye(len(self.gram)), self.cross)


def fit(bags: Bags, training: Split, images: np.ndarray) -> np.ndarray:
    """The regression (vocabulary, d) from the bags of the training captions onto their images (i, d)."""
    image = training.caption_image
    is_held_out = image % HELD_OUT_EVERY == 0
    captions = training.captions()
    held_out = [captions[k] for k in np.flatnonzero(is_held_out)]
    kept = [captions[k] for k in np.flatnonzero(~is_held_out)]
    held_out_moments = moments(bags, held_out, images[image[is_held_out]])
    kept_moments = moments(bags, kept, images[image[~is_held_out]])

    def rsum(penalty: float) -> float:
        texts = predict(bags, kept_moments.weights(penalty), held_out)
        caption_image = image[is_held_out] // HELD_OUT_EVERY
        return _retrieval(images[::HELD_OUT_EVERY], texts, caption_image, 1)["rsum"]

    penalty = max(PENALTIES, key=rsum)
    both = Moments(kept_moments.gram + held_out_moments.gram, kept_moments.cross + held_out_moments.cross)
    return both.weights(penalty)


def moments(bags: Bags, captions: list[str], targets: np.ndarray) -> Moments:
    """The moments of captions and the embeddings (t, d) of their images."""
    size = len(bags)
    gram = np.zeros((size, size))
    cross = np.zeros((size, targets.shape[1]))
    done = 0
    for chunk in bags(captions):
        gram += chunk.T @ chunk
        cross += chunk.T @ targets[done : done + len(chunk)]
        done += len(chunk)
    return Moments(gram, cross)


def predict(bags: Bags, weights: np.ndarray, captions: list[str]) -> np.ndarray:
    """The predicted embeddings (t, d) of captions."""
    return np.concatenate([_normalise(chunk @ weights) for chunk in bags(captions)])


def _retrieval(
    images: np.ndarray, texts: np.ndarray, caption_image: np.ndarray, folds: int
) -> dict[str, Any]:
    counter = RetrievalCounter(caption_image, folds)
    for rows, columns in counter.blocks():
        counter.add(rows, columns, images[rows] @ texts[columns].T)
    return counter.result()


def _normalise(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
