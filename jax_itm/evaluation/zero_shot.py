"""Zero-shot classification (Radford et al., ICML 2021): the class whose name describes a picture best."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_itm.arrays import l2_normalise
from jax_itm.data.images import IMAGE_SUFFIXES, read_picture
from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher
from jax_itm.metrics import class_ranks, top_accuracy
from jax_itm.progress import track
from jax_itm.types import PyTree

TEMPLATES = ("a photo of a {}.",)
NAMES = "classes.json"


class Classes(NamedTuple):
    """Pictures by class.

    Attributes:
        names: of the classes, as texts have them.
        files: the pictures.
        labels: int (n,), the number of each picture's class.
    """

    names: list[str]
    files: list[Path]
    labels: np.ndarray


class ClassTexts(NamedTuple):
    """The encoded texts of the classes, class by class, and how many each class has."""

    encoded: PyTree
    each: int


def classify(matcher: Matcher, classes: Classes, templates: Sequence[str] = TEMPLATES) -> dict[str, Any]:
    """Top-1 and top-5 accuracy of a run that has seen no labels.

    A class's texts are the templates with its name. Where the run has one embedding a text, their mean,
    normalised, is the class's, as in CLIP; else its score is the mean of their scores. The protocol says
    which.

    Args:
        matcher: a run on pictures (`data.modality`).
        classes: what `read_classes` returns.
        templates: texts with {} for the name of a class.

    Returns:
        {"images", "classes", "templates": the texts, "averaged": "embeddings" or "scores", "top1", "top5",
        "mean_per_class"}; the last three are percentages. A class that scores as high counts as better.

    Raises:
        UserError: a template has no {}, a picture cannot be read, or a score is
            not finite.
    """
    check_templates(templates)
    texts = _encode_classes(matcher, classes.names, templates)
    ranks = []
    starts = range(0, len(classes.files), matcher.method.block_images)
    for start in track(starts, len(starts), "classifying blocks of pictures"):
        block = slice(start, start + matcher.method.block_images)
        scores = _scores(matcher, classes.files[block], texts)
        ranks.append(class_ranks(scores, classes.labels[block]))
    return {
        "images": len(classes.files),
        "classes": len(classes.names),
        "templates": list(templates),
        "averaged": "embeddings" if texts.each == 1 else "scores",
        **top_accuracy(np.concatenate(ranks), classes.labels, len(classes.names)),
    }


def check_templates(templates: Sequence[str]) -> None:
    """Raises UserError where a template has not one {} for the name of a class."""
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"--templates {template!r}: must have {{}} once, for the name of a class")


def _encode_classes(matcher: Matcher, names: Sequence[str], templates: Sequence[str]) -> ClassTexts:
    texts = [template.replace("{}", name) for name in names for template in templates]
    encoded = matcher.encode_texts(texts)
    if not isinstance(encoded, jax.Array):  # such as token sets, which have no mean
        return ClassTexts(encoded, len(templates))
    by_class = encoded.reshape(len(names), len(templates), -1)
    return ClassTexts(l2_normalise(by_class.mean(axis=1)), 1)


def _scores(matcher: Matcher, files: Sequence[Path], texts: ClassTexts) -> np.ndarray:
    """The scores (n, classes) of some pictures."""
    limit = matcher.config.data.max_pixels
    images = matcher.encode_records({"pixels": read_picture(file, max_pixels=limit)} for file in files)
    scores = matcher.score(images, texts.encoded)
    return scores.reshape(len(files), -1, texts.each).mean(axis=2)


def read_classes(folder: Path) -> Classes:
    """The pictures of a folder with a folder for each class.

    A class is called as its folder, with blanks for underscores, or as classes.json says: {folder: name}.

    Raises:
        UserError: there are fewer than two classes, or classes.json is wrong.
    """
    names = _names(folder / NAMES)
    found = sorted(_pictures(folder), key=lambda file: (file.parent.name, file.name))
    by_class = {name: list(files) for name, files in groupby(found, key=lambda file: file.parent.name)}
    if len(by_class) < 2:
        raise UserError(f"{folder}: needs a folder of pictures for each of at least two classes")
    labels = np.repeat(np.arange(len(by_class)), [len(files) for files in by_class.values()])
    texts = [names.get(name, name.replace("_", " ")) for name in by_class]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise UserError(f"{folder}: two classes are called {twice!r}")
    return Classes(texts, found, labels)


def _pictures(folder: Path) -> Iterator[Path]:
    """The pictures in the folders of a folder."""
    if not folder.is_dir():
        raise UserError(f"--classes {folder}: no such directory")
    for place in folder.iterdir():
        if place.is_dir():
            yield from (file for file in place.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _names(path: Path) -> dict[str, str]:
    """The names of the classes by folder; {} where there is no file of them."""
    if not path.exists():
        return {}
    table = read_table(path)
    for folder, name in table.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: {folder}: the name of a class is {name!r}, must be text")
    return table
