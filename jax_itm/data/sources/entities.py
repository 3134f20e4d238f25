"""Flickr30k Entities (Plummer et al., ICCV 2015): which words of a caption name which boxes."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.sources.raw import Raw, Read, Record, read_text
from jax_itm.errors import UserError

MIN_IOU = 0.5  # above it, a region is the box of a phrase, as in phrase grounding
STEPS = "unpack annotations.zip of https://github.com/BryanPlummer/flickr30k_entities there"
MARKED = re.compile(r"\[/EN#(\d+)(?:/[^\s\[\]]+)? ([^\[\]]*)\]")


class Phrase(NamedTuple):
    """A phrase of a sentence.

    Attributes:
        start: the number of its first character, counting only letters and digits of the sentence.
        end: the number of the one after its last.
        chain: the coreference chain whose boxes it names.
    """

    start: int
    end: int
    chain: str


def with_phrases(raw: Raw, folder: Path) -> Raw:
    """A data set whose records also have the phrases of Flickr30k Entities.

    `folder` has Sentences/ID.txt, a caption a line such as `[/EN#283585/people Two men] wait .`, and
    Annotations/ID.xml, whose objects name chains (283585) and their box in pixels. ID is the name of the
    record's picture without folder and suffix. A caption is matched to a sentence by its letters and digits
    alone, so that tokenised and lower-cased captions match theirs; one without a sentence has no phrases.

    A phrase becomes {"caption", "start", "end", "box"}, once for each of its boxes. In a set with regions,
    `box` is the region of the highest IoU with the annotated box, if that is above 0.5; a phrase without such
    a region is left out. In a set of pictures alone, the annotated boxes become the records' `boxes`.
    `Raw.tally` counts the captions and phrases that were matched and those that were not.

    Raises:
        UserError: a file is missing or wrong, no caption of a split is among the sentences, or the set has
            regions without boxes.
    """
    for part in ("Sentences", "Annotations"):
        if not (folder / part).is_dir():
            raise UserError(f"--entities {folder}: no folder {part}: {STEPS}")
    if "regions" in raw.features and "boxes" not in raw.features:
        raise UserError(f"--entities {folder}: the set has regions without boxes; phrases need them")
    tally = raw.tally
    splits = {split: partial(_records, split, read, folder, tally) for split, read in raw.splits.items()}
    features = tuple(dict.fromkeys((*raw.features, "boxes", "phrases")))
    files = sorted((*folder.glob("Sentences/*.txt"), *folder.glob("Annotations/*.xml")))
    return replace(raw, splits=splits, features=features, files=(*raw.files, *files))


def _records(
    split: str, read: Read, folder: Path, tally: Counter[str], start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    matched = False
    for record in read(start, stop):
        name = Path(record["name"]).stem
        sentences = _read_sentences(folder / "Sentences" / f"{name}.txt")
        boxes, chains = _read_boxes(folder / "Annotations" / f"{name}.xml")
        if "regions" in record:
            box_of = _nearest_regions(boxes, record["boxes"])
        else:
            box_of = np.arange(len(boxes))
            record = record | {"boxes": boxes}
        phrases = []
        for number, caption in enumerate(record["captions"]):
            sentence = sentences.get(_key(caption))
            tally["captions with a sentence" if sentence is not None else "captions without one"] += 1
            matched = matched or sentence is not None
            for phrase in sentence or ():
                named = sorted({int(box_of[k]) for k in chains.get(phrase.chain, ()) if box_of[k] >= 0})
                tally["phrases" if named else "phrases without a box"] += 1
                span = _span(caption, phrase)
                phrases += [{"caption": number, **span, "box": box} for box in named]
        yield record | {"phrases": phrases}
    if not matched:
        raise UserError(f"{folder / 'Sentences'}: no caption of {split} is among the sentences of its image")


def _key(text: str) -> str:
    """A text's letters and digits, in lower case."""
    return "".join(text[k].lower() for k in _letters(text))


def _letters(text: str) -> list[int]:
    """The positions of a text's letters and digits."""
    return [k for k, character in enumerate(text) if character.isalnum()]


def _span(caption: str, phrase: Phrase) -> dict[str, int]:
    """Where a phrase starts and ends in a caption."""
    letters = _letters(caption)
    return {"start": letters[phrase.start], "end": letters[phrase.end - 1] + 1}


def _read_sentences(file: Path) -> dict[str, list[Phrase]]:
    """The phrases of each sentence, by the sentence's `_key`."""
    sentences: dict[str, list[Phrase]] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        parts = []
        phrases = []
        read = 0  # characters of the line
        end = 0  # letters and digits of the sentence
        for match in MARKED.finditer(line):
            between = line[read : match.start()]
            start = end + len(_letters(between))
            end = start + len(_letters(match[2]))
            if start < end:
                phrases.append(Phrase(start, end, match[1]))
            parts += [between, match[2]]
            read = match.end()
        sentence = "".join([*parts, line[read:]])
        if "[/EN#" in sentence:
            raise UserError(f"{file}:{number}: a phrase must be [/EN#CHAIN/TYPE WORDS]")
        sentences.setdefault(_key(sentence), phrases)
    return sentences


def _read_boxes(file: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The annotated boxes (n, 4) in units of the image, and the numbers of those that each chain has."""
    boxes = []
    chains: dict[str, list[int]] = {}
    try:
        text = read_text(file)
        if "<!" in text.replace("<!--", ""):  # entities may expand without end, or read other files
            raise ValueError("it has a DOCTYPE")
        root = ElementTree.fromstring(text)
        size = [int(root.findtext(f"size/{side}", "")) for side in ("width", "height")]
        for thing in root.iter("object"):
            box = thing.find("bndbox")
            if box is None:  # a scene, or something that is not visible
                continue
            for name in thing.findall("name"):
                chains.setdefault((name.text or "").strip(), []).append(len(boxes))
            boxes.append([int(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax")])
        corners = np.array(boxes, np.int32).reshape(-1, 4)
        extent = np.array(size * 2, np.int32)
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: not an annotation of Flickr30k Entities ({error})") from error
    for row in np.flatnonzero(np.any(corners[:, :2] > corners[:, 2:], axis=1) | (min(extent) < 1)):
        raise UserError(f"{file}: bndbox {row} is not xmin ymin xmax ymax: {boxes[row]} of {size}")
    # Not all boxes end within their picture.
    scaled = corners / np.maximum(extent, 1).astype(np.float32)
    return np.clip(scaled, 0, 1).astype(np.float32), chains


def _nearest_regions(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The region (r, 4) of the highest IoU with each box (n, 4); -1 where that is 0.5 or less."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    box_areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    region_areas = np.prod(regions[:, 2:] - regions[:, :2], axis=-1)
    union = box_areas[:, None] + region_areas - intersection
    iou = intersection / np.maximum(union, 1e-12)
    return np.where(iou.max(axis=1) > MIN_IOU, iou.argmax(axis=1), -1)
