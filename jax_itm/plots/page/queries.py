"""The worst and the typical queries on a page, each with the first results of every run."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jax_itm.data.split import Split
from jax_itm.plots.page.embedded import thumbnail_uri
from jax_itm.plots.page.retrieval import Query, Retrieval, image_query, text_query, typical, worst


class Item(NamedTuple):
    """An image or a caption on a page.

    Attributes:
        text: the caption; of an image, the first of its captions, in words for those who do not see it.
        number: in the split, from 0.
        picture: a data URI; "" of a caption, and of an image whose data set has no pictures.
        is_image: whether it is an image.
    """

    text: str
    number: int
    picture: str
    is_image: bool


class ShownAnswer(NamedTuple):
    """One answer: its item, its place from 1, its score, and whether it is a right one."""

    item: Item
    place: int
    score: float
    is_right: bool


class ShownRow(NamedTuple):
    """What one run answered: its name, the rank of the right answer of how many, and the answers."""

    run: str
    rank: int
    of: int
    answers: list[ShownAnswer]


class ShownQuery(NamedTuple):
    """What was asked, and a row for each run."""

    asked: Item
    rows: list[ShownRow]


class Block(NamedTuple):
    """Queries of one kind under one heading."""

    heading: str
    queries: list[ShownQuery]


class Gallery:
    """The images and captions of a split as items; a picture is read once."""

    def __init__(self, split: Split):
        self._split = split
        self._captions = split.captions()
        self._pictures: dict[int, str] = {}

    def caption(self, number: int) -> Item:
        """A caption."""
        return Item(self._captions[number], number, "", False)

    def image(self, number: int) -> Item:
        """An image with its picture, if the data set has any."""
        text = self._captions[int(np.searchsorted(self._split.caption_image, number))]
        if "image" in self._split.features and number not in self._pictures:
            self._pictures[number] = thumbnail_uri(self._split.picture(number))
        return Item(text, number, self._pictures.get(number, ""), True)


def query_blocks(retrievals: Sequence[tuple[str, Retrieval]]) -> list[Block]:
    """The first run's worst and typical queries in both directions, with the answers of all runs.

    Args:
        retrievals: of runs by name, on the same split, the smallest number of images in each.
    """
    first = retrievals[0][1]
    gallery = Gallery(first.split)
    own_image = first.split.caption_image
    images = np.arange(len(first.split))
    captions_asked = {
        "worst": worst(first.ranks.t2i, own_image),
        "typical": typical(first.ranks.t2i, own_image),
    }
    images_asked = {"worst": worst(first.ranks.i2t, images), "typical": typical(first.ranks.i2t, images)}

    def captions_block(kind: str) -> Block:
        shown = [
            _shown(retrievals, text_query, number, gallery.caption(number), gallery.image)
            for number in captions_asked[kind]
        ]
        return Block(f"Caption to image: the {kind} queries", shown)

    def images_block(kind: str) -> Block:
        shown = [
            _shown(retrievals, image_query, number, gallery.image(number), gallery.caption)
            for number in images_asked[kind]
        ]
        return Block(f"Image to caption: the {kind} queries", shown)

    kinds = ("worst", "typical")
    return [captions_block(kind) for kind in kinds] + [images_block(kind) for kind in kinds]


def _shown(
    retrievals: Sequence[tuple[str, Retrieval]],
    ask: Callable[[Retrieval, int], Query],
    number: int,
    asked: Item,
    item: Callable[[int], Item],
) -> ShownQuery:
    rows = []
    for name, retrieval in retrievals:
        query = ask(retrieval, number)
        answers = [ShownAnswer(item(one.item), one.place, one.score, one.is_right) for one in query.answers]
        count = len(retrieval.split) if not asked.is_image else len(retrieval.split.caption_image)
        rows.append(ShownRow(name, query.rank, count, answers))
    return ShownQuery(asked, rows)
