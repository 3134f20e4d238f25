"""Right choices among a few texts or images: compositional sets, and classification. A tie is wrong."""

from collections.abc import Sequence

import numpy as np

from jax_itm.errors import UserError


def first_is_best(scores: np.ndarray) -> np.ndarray:
    """Whether the first of each row is *strictly* better than all others of the row.

    Args:
        scores: (n, c), the right choice first.

    Returns:
        bool (n,).

    Raises:
        UserError: a score is not finite.

    Example:
        >>> first_is_best(np.array([[0.9, 0.1], [0.5, 0.5]]))
        array([ True, False])
    """
    _check_finite(scores)
    return scores[:, 0] > np.max(scores[:, 1:], axis=1)


def group_scores(scores: np.ndarray) -> dict[str, float]:
    """Winoground's text, image and group score (Thrush et al., CVPR 2022), of groups of m images and m texts.

    A group counts for *text* if each of its images scores strictly higher with its own text than with the
    others of the group; for *image* if each text does so among the images; for *group* if both hold.
    "text_choice" and "image_choice" are the percentages of single images and texts whose choice is right.

    Args:
        scores: (n, m, m), images by texts; text j of a group belongs to image j.

    Returns:
        {"text", "image", "group", "text_choice", "image_choice"}, percentages.

    Raises:
        UserError: a score is not finite.

    Example:
        >>> result = group_scores(np.array([[[0.9, 0.8], [0.1, 0.2]]]))
        >>> result["text"], result["image"], result["image_choice"]
        (100.0, 0.0, 50.0)
    """
    _check_finite(scores)
    own = np.diagonal(scores, axis1=1, axis2=2)
    others = np.where(np.eye(scores.shape[1], dtype=bool), -np.inf, scores)
    text = own > others.max(axis=2)
    image = own > others.max(axis=1)
    percentage = lambda is_right: 100 * float(np.mean(is_right))
    return {
        "text": percentage(text.all(axis=1)),
        "image": percentage(image.all(axis=1)),
        "group": percentage(text.all(axis=1) & image.all(axis=1)),
        "text_choice": percentage(text),
        "image_choice": percentage(image),
    }


def class_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rank of each item's own class: 1 + the other classes that score at least as high.

    Args:
        scores: (n, classes).
        labels: int (n,), the class of each item.

    Returns:
        int (n,).

    Raises:
        UserError: a score is not finite.

    Example:
        >>> class_ranks(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
        array([1, 2])
    """
    _check_finite(scores)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    return np.sum(scores >= own, axis=1)  # its own among them


def top_accuracy(
    ranks: np.ndarray, labels: np.ndarray, classes: int, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Top-k accuracy from the ranks of the items' own classes.

    Args:
        ranks: int (n,), of `class_ranks`.
        labels: int (n,), the class of each item.
        classes: their number.
        ks: each k; those that are not below the number of classes are left out.

    Returns:
        {"top1", "top5", "mean_per_class": the mean of the classes' own top-1 accuracies}, percentages.

    Example:
        >>> top_accuracy(np.array([1, 2]), np.array([0, 1]), classes=2)
        {'top1': 50.0, 'mean_per_class': 50.0}
    """
    accuracy = {f"top{k}": 100 * float(np.mean(ranks <= k)) for k in ks if k < classes}
    means = [float(np.mean(ranks[labels == label] == 1)) for label in np.unique(labels)]
    return accuracy | {"mean_per_class": 100 * float(np.mean(means))}


def _check_finite(scores: np.ndarray) -> None:
    if not np.all(np.isfinite(scores)):
        raise UserError("scores are not all finite: no choice")
