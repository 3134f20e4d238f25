"""Tests whether a run can distinguish texts with the same words: SugarCrepe, Winoground, ARO."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_itm.errors import UserError
from jax_itm.evaluation.compositional_sets import Item
from jax_itm.inference.matcher import Matcher
from jax_itm.methods.base import PairScorer
from jax_itm.metrics import first_is_best, group_scores
from jax_itm.progress import track

MIN_OF_LABEL = {"visual_genome_attribution": 25}  # ARO leaves rarer pairs of attributes out of the mean

Numbers = dict[str, Any]


def score_sets(matcher: Matcher, sets: Mapping[str, list[Item]]) -> dict[str, Numbers]:
    """The scores of each set.

    Args:
        matcher: a run on pictures.
        sets: what `read_sets` returns.

    Returns:
        For each set {"items", "text"}, the percentage of items whose right text is strictly best; of groups
        of pictures also "image", "group", "text_choice" and "image_choice" (`metrics.group_scores`). Where
        items have labels also "labels": {label: {"items", "text", ..}}, and of single pictures
        "mean_over_labels", the mean of their percentages.

    Raises:
        UserError: the run is not on pictures or scores no single pairs, or a score is not finite.
    """
    check_takes_pictures(matcher, "--compositional")
    return {name: _score_set(matcher, name, items) for name, items in sets.items()}


def check_takes_pictures(matcher: Matcher, option: str) -> None:
    """Raises UserError if a run cannot score single pairs of pictures and texts."""
    if matcher.config.data.modality != "pixels":
        raise UserError(f"{option}: needs pictures, but this run was trained on region features")
    if not isinstance(matcher.method, PairScorer):
        raise UserError(f"{option}: {matcher.method.label} scores no single pairs")


def _score_set(matcher: Matcher, name: str, items: Sequence[Item]) -> Numbers:
    scores = _pair_scores(matcher, name, items)
    numbers = _numbers(scores)
    labels = np.array([item.label for item in items])
    if not np.any(labels != ""):
        return numbers
    by_label = {str(label): _numbers(scores[labels == label]) for label in np.unique(labels)}
    if scores.shape[1] == 1:
        enough = [part for part in by_label.values() if part["items"] >= MIN_OF_LABEL.get(name, 1)]
        if enough:
            numbers["mean_over_labels"] = float(np.mean([part["text"] for part in enough]))
    return numbers | {"labels": by_label}


def _numbers(scores: np.ndarray) -> Numbers:
    """The percentages of items with scores (n, pictures, texts)."""
    if scores.shape[1] == 1:
        return {"items": len(scores), "text": 100 * float(np.mean(first_is_best(scores[:, 0])))}
    return {"items": len(scores), **group_scores(scores)}


def _pair_scores(matcher: Matcher, name: str, items: Sequence[Item]) -> np.ndarray:
    """The scores (n, pictures, texts) of every item's pictures with its texts; each is encoded once."""
    pictures = list(dict.fromkeys(picture for item in items for picture in item.pictures))
    texts = list(dict.fromkeys(text for item in items for text in item.texts))
    limit = matcher.config.data.max_pixels
    records = ({"pixels": picture.pixels(limit)} for picture in pictures)
    images = matcher.encode_records(track(records, len(pictures), f"encoding the pictures of {name}"))
    encoded_texts = matcher.encode_texts(texts)
    picture_row = {picture: row for row, picture in enumerate(pictures)}
    text_row = {text: row for row, text in enumerate(texts)}
    image_index = np.array([[picture_row[picture] for picture in item.pictures] for item in items])
    text_index = np.array([[text_row[text] for text in item.texts] for item in items])
    shape = (len(items), image_index.shape[1], text_index.shape[1])
    image_pairs = np.broadcast_to(image_index[:, :, None], shape).ravel()
    text_pairs = np.broadcast_to(text_index[:, None, :], shape).ravel()
    return matcher.score_pairs(images, encoded_texts, image_pairs, text_pairs).reshape(shape)
