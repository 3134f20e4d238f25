"""How scores agree with human ratings."""

import numpy as np

from jax_itm.errors import UserError


def correlations(scores: np.ndarray, ratings: np.ndarray) -> dict[str, float]:
    """Rank correlations of scores with ratings, by scipy.

    Args:
        scores: float (n,).
        ratings: (n,), of the same pairs. A pair that was rated thrice may be there thrice.

    Returns:
        {"spearman", "kendall_tau_b", "kendall_tau_c"}, each in [-1, 1]. Tau-c suits ratings of few values.

    Raises:
        UserError: a score is not finite, or all scores or all ratings are equal: no correlation.

    Example:
        >>> correlations(np.array([0.1, 0.2, 0.3]), np.array([1, 2, 3]))["kendall_tau_b"]
        1.0
    """
    from scipy import stats  # takes a second to import

    if not np.all(np.isfinite(scores)):
        raise UserError("scores are not all finite: no correlation")
    if len(np.unique(scores)) < 2 or len(np.unique(ratings)) < 2:
        raise UserError(f"all of {len(scores)} scores or ratings are equal: no correlation")
    return {
        "spearman": _statistic(stats.spearmanr(scores, ratings)),
        "kendall_tau_b": _statistic(stats.kendalltau(scores, ratings, variant="b")),
        "kendall_tau_c": _statistic(stats.kendalltau(scores, ratings, variant="c")),
    }


def _statistic(result: tuple[float, float]) -> float:
    """Of scipy's (statistic, p-value)."""
    return float(result[0])
