"""How a run's scores agree with human ratings: Flickr8k-Expert and CrowdFlower.

Both rate captions of Flickr8k for images that they may or may not describe (Hodosh et al., JAIR 2013). They
come in Flickr8k_text.zip, as does Flickr8k.token.txt, which has the captions:

    ExpertAnnotations.txt        IMAGE.jpg <tab> IMAGE.jpg#k <tab> 1 to 4, by each of three people
    CrowdFlowerAnnotations.txt   IMAGE.jpg <tab> IMAGE.jpg#k <tab> the fraction of yes, the yeses, the noes
"""

import math
import posixpath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_itm.data.sources.raw import read_lines
from jax_itm.data.split import Split
from jax_itm.errors import UserError
from jax_itm.evaluation.evaluate import check_fits
from jax_itm.inference.matcher import Matcher
from jax_itm.methods.base import PairScorer
from jax_itm.metrics import correlations
from jax_itm.progress import track

TOKENS = "Flickr8k.token.txt"
EXPERT = "flickr8k_expert"
CROWDFLOWER = "flickr8k_crowdflower"

Numbers = dict[str, int | float]


class Judgement(NamedTuple):
    """What people said of an image and a caption.

    Attributes:
        image: the name of the image.
        caption: the id of the caption, "IMAGE.jpg#k".
        ratings: three of 1 to 4, or the fraction of yes.
    """

    image: str
    caption: str
    ratings: tuple[float, ...]

    @property
    def is_own(self) -> bool:
        """Whether the caption was written for the image."""
        return self.caption.partition("#")[0] == self.image


class Judgements(NamedTuple):
    """A file of judgements: which set it is, its lines, and the texts of all captions by their ids."""

    name: str
    lines: list[Judgement]
    texts: dict[str, str]


def judge(matcher: Matcher, split: Split, judgements: Judgements) -> dict[str, Numbers]:
    """The correlations of a run's scores with ratings, with and without the images' own captions.

    Every rating counts for itself, as is usual: a pair that three people rated is there three times.

    Args:
        matcher: the run.
        split: a split that has the images.
        judgements: what `read_judgements` returns.

    Returns:
        {"all": {"pairs", "ratings", "spearman", "kendall_tau_b", "kendall_tau_c"}, "without_own": {..}}.

    Raises:
        UserError: the split lacks an image, the run scores no single pairs, or a score is not finite.
    """
    if not isinstance(matcher.method, PairScorer):
        raise UserError(f"--judgements: {matcher.method.label} scores no single pairs")
    lines = judgements.lines
    scores = _score(matcher, split, judgements)
    is_own = np.array([line.is_own for line in lines])
    parts = {"all": np.ones(len(lines), bool), "without_own": ~is_own}
    return {name: _agreement(lines, scores, is_in) for name, is_in in parts.items() if np.any(is_in)}


def _agreement(lines: list[Judgement], scores: np.ndarray, is_in: np.ndarray) -> Numbers:
    """The correlations of the lines that are in a part."""
    chosen = np.flatnonzero(is_in)
    ratings = [lines[k].ratings for k in chosen]
    repeated = np.repeat(scores[chosen], [len(one) for one in ratings])
    flat = np.array([rating for one in ratings for rating in one])
    return {"pairs": len(chosen), "ratings": len(flat), **correlations(repeated, flat)}


def _score(matcher: Matcher, split: Split, judgements: Judgements) -> np.ndarray:
    """The scores (n,) of the lines' pairs."""
    check_fits(matcher.config, matcher.facts, split)
    number = {posixpath.basename(split.image_name(k)): k for k in range(len(split))}
    names = list(dict.fromkeys(line.image for line in judgements.lines))
    missing = [name for name in names if name not in number]
    if missing:
        raise UserError(
            f"--judgements: {split.name}/{split.split} has no image {missing[0]}"
            f" ({len(missing):,} of {len(names):,} judged images are missing)"
        )
    captions = list(dict.fromkeys(line.caption for line in judgements.lines))
    records = (split.image(number[name]) for name in names)
    images = matcher.encode_records(track(records, len(names), "encoding judged images"))
    texts = matcher.encode_texts([judgements.texts[caption] for caption in captions])
    image_row = {name: row for row, name in enumerate(names)}
    caption_row = {caption: row for row, caption in enumerate(captions)}
    rows = np.array([image_row[line.image] for line in judgements.lines])
    columns = np.array([caption_row[line.caption] for line in judgements.lines])
    return matcher.score_pairs(images, texts, rows, columns)


def read_judgements(path: Path) -> Judgements:
    """Reads a file of judgements, and the captions from Flickr8k.token.txt beside it.

    Raises:
        UserError: a file is missing, a line is of neither form or of the other than the first, or a caption
            is unknown.
    """
    texts = _texts(path.parent / TOKENS)
    lines: list[Judgement] = []
    forms = set()
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        cells = line.split("\t")
        form = _form(cells)
        forms.add(form)
        if form is None or len(forms) > 1:
            raise UserError(
                f"{where}: must be image, caption and three ratings of 1 to 4, or the fraction of yes, the"
                " yeses and the noes, with tabs, as all other lines"
            )
        if cells[1] not in texts:
            raise UserError(f"{where}: no caption {cells[1]} in {path.parent / TOKENS}")
        ratings = cells[2:] if form == EXPERT else cells[2:3]
        lines.append(Judgement(cells[0], cells[1], tuple(map(float, ratings))))
    if not lines:
        raise UserError(f"{path}: no judgements")
    return Judgements(forms.pop(), lines, texts)


def _form(cells: list[str]) -> str | None:
    """Of which set a line is; None if of neither. No line can be of both."""
    try:
        first, second, third = map(float, cells[2:])
    except ValueError:
        return None
    if {first, second, third} <= {1.0, 2.0, 3.0, 4.0}:
        return EXPERT
    votes = second + third
    is_fraction = votes > 0 and math.isclose(first, second / votes, abs_tol=1e-3)
    return CROWDFLOWER if is_fraction and min(second, third) >= 0 else None


def _texts(path: Path) -> dict[str, str]:
    """The caption of each id."""
    texts = {}
    for number, line in enumerate(read_lines(path), start=1):
        identity, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{path}:{number}: must be ID.jpg#k, a tab and the caption")
        texts[identity] = text
    return texts


def judge_all(matcher: Matcher, split: Split, files: list[Judgements]) -> dict[str, Any]:
    """`judge` for each file, by the name of its set."""
    return {judgements.name: judge(matcher, split, judgements) for judgements in files}
