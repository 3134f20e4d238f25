"""ECCV Caption and CxC: COCO's test split with the positives that its own captions leave out.

The package `eccv-caption` (Chun et al., ECCV 2022) lists the matches; `pip install -e .[eccv]`.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.blocks import common_part
from jax_itm.metrics import (
    Ranks,
    RetrievalCounter,
    TopRelevance,
    hit_rate,
    map_at_r,
    r_precision,
    summary,
)
from jax_itm.metrics.ranking import KS
from jax_itm.metrics.relevance import Relevant

PACKAGE = "eccv_caption"
FOLDS = 5  # of COCO 1K


class Numbers(NamedTuple):
    """Where in the split each of COCO's images and captions is, by its id."""

    image: dict[int, int]
    caption: dict[int, int]


class EccvCaption:
    """mAP@R, R-Precision and R@1 of ECCV Caption, CxC's recalls, and COCO's 5K and 1K of the same scores.

    Args:
        split: COCO's test split by Karpathy, prepared with the ids of its captions.

    Raises:
        UserError: the package is not installed, or this is not that split.
    """

    name = "eccv_caption"

    def __init__(self, split: Split):
        folder = _package_data()
        numbers = _numbers(split, folder)
        self._caption_image = split.caption_image
        self._folds = RetrievalCounter(split.caption_image, FOLDS)
        self._eccv = _tops("eccv", folder, numbers)
        self._cxc = _tops("cxc", folder, numbers)

    def add(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Takes in a block."""
        for by_image, by_caption in (self._eccv, self._cxc):
            by_image.add(rows, columns, scores)
            by_caption.add(columns, rows, scores.T)
        self._add_to_folds(rows, columns, scores)

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """The numbers, percentages.

        Returns:
            {"eccv": {"i2t": {"map_at_r", "r_precision", "r1"}, "t2i": {..}}, "cxc": {"i2t": {"r1", "r5",
            "r10"}, "t2i": {..}}, "coco_5k", "coco_1k": as `evaluate` returns them}.
        """
        names = Ranks._fields
        return {
            "eccv": dict(zip(names, map(_precision, self._eccv), strict=True)),
            "cxc": dict(zip(names, map(_recalls, self._cxc), strict=True)),
            "coco_5k": summary(ranks),
            "coco_1k": self._folds.result(),
        }

    def _add_to_folds(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        """Counts the parts of a block that pair images and captions of one fold."""
        size = self._folds.images // FOLDS
        for first in range(0, self._folds.images, size):
            captions = np.searchsorted(self._caption_image, [first, first + size]).tolist()
            fold = slice(first, first + size), slice(*captions)
            if part := common_part((rows, columns), fold):
                self._folds.add(part.rows, part.columns, scores[part.within((rows, columns))])


def _precision(top: TopRelevance) -> dict[str, float]:
    return {"map_at_r": map_at_r(top), "r_precision": r_precision(top), "r1": hit_rate(top, 1)}


def _recalls(top: TopRelevance) -> dict[str, float]:
    return {f"r{k}": hit_rate(top, k) for k in KS}


def _package_data() -> Path:
    """The folder of the package's files; its code, which warns of what it lacks, is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("--measures eccv_caption: needs the package eccv-caption: pip install -e .[eccv]")
    return Path(spec.submodule_search_locations[0]) / "data"


def _numbers(split: Split, folder: Path) -> Numbers:
    """The images and captions of a split by COCO's ids; UserError if it is not COCO's test split."""
    label = f"{split.name}/{split.split}"
    if not split.source_ids:
        raise UserError(
            f"--measures eccv_caption: {label} has no ids of COCO's captions: remove it, and prepare it again"
            " from Karpathy's dataset_coco.json"
        )
    image_of = _read(folder / "original_caption_to_image.json")
    if sorted(split.source_ids) != sorted(image_of):
        raise UserError(
            f"--measures eccv_caption: {label} has {len(split.source_ids):,} captions, which are not those"
            f" {len(image_of):,} of COCO's test split by Karpathy"
        )
    images = [image_of[caption][0] for caption in split.source_ids]
    return Numbers(
        dict(zip(images, split.caption_image.tolist(), strict=True)),
        {caption: number for number, caption in enumerate(split.source_ids)},
    )


def _tops(name: str, folder: Path, numbers: Numbers) -> tuple[TopRelevance, TopRelevance]:
    """What is relevant to the images, and to the captions, of one of the package's sets."""
    images, captions = numbers
    by_image = _relevant(folder / f"{name}_image_to_caption.json", images, captions)
    by_caption = _relevant(folder / f"{name}_caption_to_image.json", captions, images)
    top = lambda relevant, items: TopRelevance(relevant, items, max(*KS, *map(len, relevant.values())))
    return top(by_image, len(captions)), top(by_caption, len(images))


def _relevant(path: Path, queries: dict[int, int], items: dict[int, int]) -> Relevant:
    """A file's relations by the numbers of the split; an item that is not in it has a number below 0."""
    # ECCV Caption names two captions beyond the first five of their images.
    return {
        queries[query]: [items.get(item, -item) for item in found] for query, found in _read(path).items()
    }


def _read(path: Path) -> dict[int, list[int]]:
    table = json.loads(path.read_text())
    return {int(query): [int(item) for item in items] for query, items in table.items()}
