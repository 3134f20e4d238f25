"""A result broken down: recalls of groups of queries, and the worst queries."""

from collections.abc import Sequence

import numpy as np

from jax_itm.metrics.ranking import KS, direction_summary

LENGTHS = (8, 11, 15, 20)  # words: the last of each bin of caption lengths but the open one


def by_label(
    ranks: np.ndarray, labels: Sequence[str], ks: Sequence[int] = KS
) -> dict[str, dict[str, int | float]]:
    """Recall@K, median and mean rank of the queries of each label; ranks stay those among all items.

    Args:
        ranks: int (q,), from 1.
        labels: of the queries.
        ks: the K of Recall@K.

    Returns:
        {label: {"queries": how many, "r1": percentage, .., "medr", "meanr"}}, sorted by label.

    Example:
        >>> by_label(np.array([1, 2, 7]), ["a", "b", "a"], ks=(1,))["a"]
        {'queries': 2, 'r1': 50.0, 'medr': 4.0, 'meanr': 4.0}
    """
    label_array = np.array(labels)
    parts: dict[str, dict[str, int | float]] = {}
    for label in np.unique(label_array):
        part = ranks[label_array == label]
        parts[str(label)] = {"queries": len(part), **direction_summary(part, ks)}
    return parts


def length_labels(captions: Sequence[str]) -> list[str]:
    """The bin of each caption's number of words, as "09-11 words"; the same bins for every data set.

    >>> length_labels(["a red ring", "one two three four five six seven eight nine"])
    ['01-08 words', '09-11 words']
    """
    starts = (1, *(last + 1 for last in LENGTHS))
    names = [f"{start:02d}-{last:02d} words" for start, last in zip(starts, LENGTHS, strict=False)]
    names.append(f"{starts[-1]:02d} words or more")
    lengths = [len(caption.split()) for caption in captions]
    return [names[index] for index in np.searchsorted(LENGTHS, lengths)]


def worst(ranks: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the queries of the highest ranks, the worst first; of equal ones the first.

    >>> worst(np.array([1, 9, 3, 9]), 3)
    array([1, 3, 2])
    """
    return np.argsort(-ranks, kind="stable")[:count]
