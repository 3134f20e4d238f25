"""Flickr30k Entities (Plummer et al., ICCV 2015): which words of a caption name which boxes."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from jax_itm.data.sources.raw import Raw, Record, read_text
from jax_itm.errors import UserError

LEAST_IOU = 0.5  # a region is a phrase's box only above it, as in phrase grounding
STEPS = "unpack annotations.zip of https://github.com/BryanPlummer/flickr30k_entities there"
MARKED = re.compile(r"\[/EN#(\d+)(?:/[^\s\[\]]+)? ([^\[\]]*)\]")

Phrase = tuple[int, int, str]  # start and end in the sentence, the chain of its boxes


def with_phrases(raw: Raw, folder: Path) -> Raw:
    """A data set whose records also have the phrases of Flickr30k Entities.

    `folder` has Sentences/ID.txt, a caption a line such as `[/EN#283585/people Two men] wait .`, and
    Annotations/ID.xml, whose objects name chains (283585) and their box in pixels. ID is the name of the
    record's picture without folder and suffix. A caption is matched to a sentence by its letters and
    digits alone, so that tokenised and lower-cased captions find theirs; one without a sentence has no
    phrases.

    A phrase is {"caption", "start", "end", "box"}; one with several boxes is there once for each. In a
    set with regions, `box` is the region of the highest IoU with the annotated box, where that is above
    0.5; a phrase without such a region is left out. In a set of pictures alone, records get the annotated
    boxes themselves as `boxes`. `Raw.tally` counts what was found and what was left out.

    Raises:
        UserError: a file is missing or wrong, no caption of a split is among the sentences, or the set
            has regions without boxes.
    """
    for part in ("Sentences", "Annotations"):
        if not (folder / part).is_dir():
            raise UserError(f"--entities {folder}: no folder {part}: {STEPS}")
    if "regions" in raw.holds and "boxes" not in raw.holds:
        raise UserError(f"--entities {folder}: the set has regions without boxes; phrases need them")
    tally: Counter[str] = Counter()
    splits = {split: partial(_read, split, read, folder, tally) for split, read in raw.splits.items()}
    holds = tuple(dict.fromkeys((*raw.holds, "boxes", "phrases")))
    return replace(raw, splits=splits, holds=holds, tally=tally)


def _read(
    split: str, read: Callable[[], Iterator[Record]], folder: Path, tally: Counter[str]
) -> Iterator[Record]:
    matched = 0
    for record in read():
        name = Path(record["name"]).stem
        sentences = _sentences(folder / "Sentences" / f"{name}.txt")
        boxes, chains = _boxes(folder / "Annotations" / f"{name}.xml")
        if "regions" in record:
            near = _nearest(boxes, record["boxes"])
        else:
            near, record = np.arange(len(boxes)), record | {"boxes": boxes}
        phrases = []
        for number, caption in enumerate(record["captions"]):
            found = sentences.get(_key(caption))
            tally["captions with a sentence" if found is not None else "captions without one"] += 1
            matched += found is not None
            for start, end, chain in found or ():
                named = sorted({int(near[k]) for k in chains.get(chain, ()) if near[k] >= 0})
                tally["phrases" if named else "phrases without a box"] += 1
                span = _place(caption, start, end)
                phrases += [{"caption": number, **span, "box": box} for box in named]
        yield record | {"phrases": phrases}
    if not matched:
        raise UserError(f"{folder / 'Sentences'}: no caption of {split} is among the sentences of its image")


def _key(text: str) -> str:
    return "".join(text[k].lower() for k in _letters(text))


def _letters(text: str) -> list[int]:
    """Where a text's letters and digits are."""
    return [k for k, letter in enumerate(text) if letter.isalnum()]


def _place(caption: str, start: int, end: int) -> dict[str, int]:
    """Of the letters and digits from number `start` to before `end`."""
    letters = _letters(caption)
    return {"start": letters[start], "end": letters[end - 1] + 1}


def _sentences(file: Path) -> dict[str, list[Phrase]]:
    """The phrases of each sentence, by its letters; they start and end at numbers of letters."""
    found: dict[str, list[Phrase]] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        parts, phrases, last, end = [], [], 0, 0
        for match in MARKED.finditer(line):
            parts += [line[last : match.start()], match[2]]
            start = end + len(_letters(parts[-2]))
            end = start + len(_letters(match[2]))
            if start < end:
                phrases.append((start, end, match[1]))
            last = match.end()
        plain = "".join([*parts, line[last:]])
        if "[/EN#" in plain:
            raise UserError(f"{file}:{number}: a phrase must be [/EN#CHAIN/TYPE WORDS]")
        found.setdefault(_key(plain), phrases)
    return found


def _boxes(file: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The annotated boxes (n, 4) in units of the image, and which of them each chain has."""
    try:
        text = read_text(file)
        if "<!" in text.replace("<!--", ""):  # entities that expand each other, and others' files
            raise ValueError("it has a DOCTYPE")
        root = ElementTree.fromstring(text)
        extent = [int(root.findtext(f"size/{side}", "")) for side in ("width", "height")] * 2
        boxes, chains = [], {}
        for thing in root.iter("object"):
            box = thing.find("bndbox")
            if box is None:  # of a scene, or what is not in the picture
                continue
            for name in thing.findall("name"):
                chains.setdefault((name.text or "").strip(), []).append(len(boxes))
            boxes.append([int(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax")])
        corners = np.array(boxes, np.int32).reshape(-1, 4)
        extent = np.array(extent, np.int32)
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: not an annotation of Flickr30k Entities ({error})") from error
    for row in np.flatnonzero(np.any(corners[:, :2] > corners[:, 2:], axis=1) | (min(extent) < 1)):
        raise UserError(
            f"{file}: bndbox {row} is not xmin ymin xmax ymax: {boxes[row]} of {extent[:2].tolist()}"
        )
    # Not all boxes end within their picture.
    return np.clip(corners / np.maximum(extent, 1).astype(np.float32), 0, 1).astype(np.float32), chains


def _nearest(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The region (r, 4) of the highest IoU with each box (n, 4); -1 where that is 0.5 or less."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(some[:, 2:] - some[:, :2], axis=-1) for some in (boxes, regions)]
    iou = common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-12)
    return np.where(iou.max(axis=1) > LEAST_IOU, iou.argmax(axis=1), -1)
