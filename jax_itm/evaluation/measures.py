"""Measures in addition to recall, from the same pass over the scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_itm.data.scenes.captions import CAPTIONS
from jax_itm.data.scenes.render import GROUP, has_distractors
from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.blocks import common_part
from jax_itm.evaluation.eccv import EccvCaption
from jax_itm.evaluation.evaluate import Measure
from jax_itm.metrics import (
    Ranks,
    TopCandidates,
    TopRelevance,
    by_label,
    group_scores,
    hubness,
    length_labels,
    recalls_of_all,
    worst,
)
from jax_itm.metrics.ranking import KS
from jax_itm.protocols import PROTOCOLS

NEIGHBOURS = 10  # k of the k-occurrence, as is usual
WORST = 20  # queries that a breakdown lists in each direction


class AllRelevant:
    """Recall that divides by all relevant items: of an image's five captions, how many are in the first K.

    From text to image it equals the usual recall, as a caption has one image.

    Args:
        caption_image: int (t,), the image of each caption, ascending.
    """

    name = "all_relevant"

    def __init__(self, caption_image: np.ndarray):
        images = int(caption_image[-1]) + 1
        captions = len(caption_image)
        first = np.searchsorted(caption_image, np.arange(images + 1)).tolist()
        own = {image: range(first[image], first[image + 1]) for image in range(images)}
        image_of = {caption: [image] for caption, image in enumerate(caption_image.tolist())}
        self._i2t = TopRelevance(own, captions, max(KS))
        self._t2i = TopRelevance(image_of, images, max(KS))

    def add(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Takes in a block."""
        self._i2t.add(rows, columns, scores)
        self._t2i.add(columns, rows, scores.T)

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """{"i2t": {"all_relevant_r1", ..}, "t2i": {..}}."""
        return {"i2t": recalls_of_all(self._i2t), "t2i": recalls_of_all(self._t2i)}


class Hubness:
    """The skewness of how often a caption is among the first 10 of the images, and an image of the captions.

    Args:
        images: their number.
        captions: their number.
    """

    name = "hubness"

    def __init__(self, images: int, captions: int):
        self._size = images, captions
        self._top = TopCandidates(images, captions, NEIGHBOURS)

    def add(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Takes in a block."""
        self._top.add(rows, columns, scores)

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """{"k", "i2t": of the captions {"skewness", "max", "never_retrieved"}, "t2i": of the images}."""
        images, captions = self._size
        return {
            "k": NEIGHBOURS,
            "i2t": hubness(self._top.captions, captions),
            "t2i": hubness(self._top.images, images),
        }


class Breakdown:
    """Recalls by the length of the caption and by set, and the queries that fare worst.

    Ranks stay those among all items of the split: the parts say where the whole result comes from.

    Args:
        split: that is evaluated.
    """

    name = "breakdown"

    def __init__(self, split: Split):
        self._split = split

    def add(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Needs the ranks alone."""

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """The parts.

        Returns:
            {"t2i_by_length": {"01-08 words": {"queries", "r1", ..}, ..}, "i2t_by_set", "t2i_by_set": {set:
            {..}} (`set_labels`), "i2t_worst": [{"rank", "image", "name"}], "t2i_worst": [{"rank", "caption",
            "text", "image"}]}.
        """
        captions = self._split.captions()
        sets = set_labels(self._split)
        image_of = self._split.caption_image.tolist()
        return {
            "t2i_by_length": by_label(ranks.t2i, length_labels(captions)),
            "i2t_by_set": by_label(ranks.i2t, sets),
            "t2i_by_set": by_label(ranks.t2i, [sets[image] for image in image_of]),
            "i2t_worst": [
                {"rank": int(ranks.i2t[image]), "image": image, "name": self._split.image_name(image)}
                for image in worst(ranks.i2t, WORST).tolist()
            ],
            "t2i_worst": [
                {"rank": int(ranks.t2i[k]), "caption": k, "text": captions[k], "image": image_of[k]}
                for k in worst(ranks.t2i, WORST).tolist()
            ],
        }


class Distractors:
    """The groups of four images of `scenes` that differ in what is where, scored as Winoground scores pairs.

    A caption is clearly true of its own image and clearly false of the other three. The four images and the
    k-th caption of each, k = 1 to 5, are one group of `metrics.group_scores`: a quarter of single choices
    are right by chance.

    Args:
        split: of `scenes`.

    Raises:
        UserError: it is another data set's, or has no complete group.
    """

    name = "distractors"

    def __init__(self, split: Split):
        firsts = [image for image in range(0, len(split) - GROUP + 1, GROUP) if has_distractors(image)]
        if split.name != "scenes" or not firsts:
            raise UserError(
                f"--measures distractors: {split.name}/{split.split} has no groups of distractors"
            )
        self._scores = {first: np.full((GROUP, GROUP * CAPTIONS), np.nan) for first in firsts}

    def add(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Takes in a block."""
        for first, group in self._scores.items():
            own = slice(first, first + GROUP)
            captions = slice(first * CAPTIONS, (first + GROUP) * CAPTIONS)
            if part := common_part((rows, columns), (own, captions)):
                inside = part.within((own, captions))
                group[inside] = scores[part.within((rows, columns))]

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """{"groups", "text", "image", "group", "text_choice", "image_choice"} (`metrics.group_scores`)."""
        by_member = np.stack(list(self._scores.values())).reshape(-1, GROUP, GROUP, CAPTIONS)
        groups = np.moveaxis(by_member, 3, 1).reshape(-1, GROUP, GROUP)
        return {"groups": len(groups), **group_scores(groups)}


def make_measures(names: Sequence[str], split: Split, protocol: str = "full") -> list[Measure]:
    """The measures of these names (`protocols.MEASURES`) for a split, each once.

    Raises:
        UserError: a measure does not take the split, or the protocol has several folds.
    """
    if names and PROTOCOLS[protocol].folds > 1:
        raise UserError(f"--measures: only with --protocol full or coco_5k, not {protocol}")
    makers = {
        "all_relevant": lambda: AllRelevant(split.caption_image),
        "hubness": lambda: Hubness(len(split), len(split.caption_image)),
        "breakdown": lambda: Breakdown(split),
        "distractors": lambda: Distractors(split),
        "eccv_caption": lambda: EccvCaption(split),
    }
    return [makers[name]() for name in dict.fromkeys(names)]


def set_labels(split: Split) -> list[str]:
    """The set of each image: the folder in its name, or for `scenes` whether it has distractors."""
    if split.name == "scenes":
        words = {True: "with distractors", False: "without distractors"}
        return [words[has_distractors(image)] for image in range(len(split))]
    folders = (split.image_name(image).rpartition("/")[0] for image in range(len(split)))
    return [folder or "(no folder)" for folder in folders]
