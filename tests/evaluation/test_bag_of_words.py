"""The bag of words: a closed form that matches words, and cannot see their order."""

import numpy as np

from jax_itm.checkpoint.checkpoints import Description
from jax_itm.config import Facts, default
from jax_itm.data.split import Split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.evaluation.bag_of_words import Bags, bag_of_words
from jax_itm.inference.matcher import Matcher


class FakeSplit(Split):
    def __init__(self, images, captions):
        self.name, self.split = "fake", "test"
        self._images, self._captions = images, captions
        self.caption_image = np.repeat(np.arange(len(images), dtype=np.int32), 2)

    def __len__(self):
        return len(self._images)

    def image(self, i):
        return {"regions": self._images[i]}

    def captions(self):
        return self._captions


class FakeMatcher(Matcher):
    """Its vision gives the image as it is."""

    def __init__(self, tokenizer):
        config = default("info_nce")
        config.data.max_words = 8
        self.description = Description(config, Facts(), tokenizer)

    def encode_records(self, records):
        return np.stack([record["regions"] for record in records])


def split(seed, images=100, words=12, ordered=False):
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.permutation(words)[:2] for _ in range(images)])
    vectors = np.eye(words)[pairs]
    vision = vectors[:, 0] - vectors[:, 1] if ordered else vectors.sum(axis=1)
    captions = [f"w{a} and w{b}" for a, b in pairs for _ in range(2)]
    return FakeSplit(vision + 0.01 * rng.normal(size=vision.shape), captions)


def rsum(ordered):
    training, test = split(0, ordered=ordered), split(1, images=40, ordered=ordered)
    matcher = FakeMatcher(Tokenizer.fit(training.captions(), "words", 1, 100))
    return bag_of_words(matcher, training, test)["rsum"]


def test_words_are_enough_where_order_says_nothing():
    assert rsum(ordered=False) > 480


def test_words_that_the_training_captions_lack_take_no_room():
    """Of a published vocabulary most words do not occur."""
    large = Tokenizer.fit([f"word{k}" for k in range(500)])
    bags = Bags.fit(large, 8, ["word1 word2", "word2 word7", "word7"])
    [counts] = bags(["word2 word400", "word7 word7"])
    assert len(bags) == 5 and counts.shape == (2, 5)  # three words, [CLS] and [SEP]
    assert np.count_nonzero(counts, axis=1).tolist() == [1, 1]  # those in every caption say nothing


def test_words_are_not_enough_where_order_decides():
    assert rsum(ordered=True) < 350
