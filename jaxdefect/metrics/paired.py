"""Two detectors on the same images: bootstrap intervals of the differences of their figures, and McNemar's test."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxdefect.metrics.image import checked_scores

_LEVEL = 0.95
# Resamples times images that are computed at once: some 100 MB.
_CHUNK = 2_000_000
FIGURES = ("average_precision", "roc_auc", "f1", "false_positives", "false_negatives")


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


class McNemar(NamedTuple):
    """On how many images only the first or only the second of two detectors is right, and the exact p-value."""

    num_only_first: int
    num_only_second: int
    p_value: float


def percentile_interval(values: np.ndarray) -> Interval:
    """The middle 95 % of values [R] of a bootstrap (the percentile interval)."""
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


def bootstrap_differences(
    labels: np.ndarray,
    scores: Sequence[np.ndarray],
    *,
    thresholds: Sequence[float],
    num_resamples: int,
) -> dict[str, Interval | None]:
    """Intervals of the second detector's figures minus the first's, over images drawn anew.

    Images are drawn with replacement by a fixed seed, the same for both detectors, good and defective ones apart, so
    that every resample has as many of either as the original and all figures are defined. The thresholds stay.

    Args:
      labels: [N] of 0 and 1.
      scores: two of [N] float.
      thresholds: two; an image that scores at least this is called defective.
      num_resamples: R.

    Returns:
      By the names in `FIGURES`; None where a figure is undefined, as ranking is without images of either class.

    Raises:
      ValueError: as `jaxdefect.metrics.image.checked_scores`.

    References:
      Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (the percentile interval).
    """
    checked = [checked_scores(labels, each) for each in scores]
    labels = checked[0][0]
    figures = [
        _resampled_figures(labels, each, threshold=threshold)
        for (_, each), threshold in zip(checked, thresholds, strict=True)
    ]
    rng = np.random.default_rng(0)
    rows = max(1, _CHUNK // len(labels))
    differences: list[dict[str, np.ndarray]] = []
    for start in range(0, num_resamples, rows):
        weights = _draw(labels, num=min(rows, num_resamples - start), rng=rng)
        first, second = (each(weights) for each in figures)
        differences.append({name: second[name] - first[name] for name in FIGURES})
    joined = {name: np.concatenate([each[name] for each in differences]) for name in FIGURES}
    return {name: None if np.isnan(values).any() else percentile_interval(values) for name, values in joined.items()}


def mcnemar(is_first_right: np.ndarray, is_second_right: np.ndarray) -> McNemar:
    """McNemar's exact test whether two detectors err equally often: a fair coin for every image where one alone errs.

    Args:
      is_first_right: [N] bool.
      is_second_right: [N] bool, of the same images.

    Returns:
      The counts, and the two-sided p-value; 1 where the detectors are right and wrong on the same images.

    References:
      McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages".
    """
    first, second = np.asarray(is_first_right, bool), np.asarray(is_second_right, bool)
    counts = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    p_value = float(stats.binomtest(min(counts), sum(counts), 0.5).pvalue) if sum(counts) else 1.0
    return McNemar(*counts, p_value)


def _draw(labels: np.ndarray, *, num: int, rng: np.random.Generator) -> np.ndarray:
    """How often every image is drawn, [num, N] int64; as many of either class as there are."""
    weights = np.zeros((num, len(labels)), np.int64)
    for label in (0, 1):
        of_class = np.flatnonzero(labels == label)
        size = len(of_class)
        if size:
            drawn = rng.integers(0, size, (num, size)) + size * np.arange(num)[:, None]
            weights[:, of_class] = np.bincount(drawn.ravel(), minlength=num * size).reshape(num, size)
    return weights


def _resampled_figures(
    labels: np.ndarray, scores: np.ndarray, *, threshold: float
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from weights [R, N] of the images to the figures [R] of the weighted images; NaN where undefined.

    Average precision and ROC AUC are scikit-learn's, with tied scores as one step.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    is_defective, is_called = labels == 1, scores >= threshold
    has_both = is_defective.any() and not is_defective.all()

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, false_alarms, misses = (
            weights[:, chosen].sum(axis=1).astype(np.float64)
            for chosen in (is_called & is_defective, is_called & ~is_defective, ~is_called & is_defective)
        )
        wrong = 2 * hits + false_alarms + misses
        undefined = np.full(len(weights), np.nan)
        ranking = {"average_precision": undefined, "roc_auc": undefined}
        if has_both:
            in_order = weights[:, order]
            good = np.cumsum(in_order * ~is_defective[order], axis=1)[:, last_of_tie]
            defective = np.cumsum(in_order * is_defective[order], axis=1)[:, last_of_tie]
            num_good, num_defective = good[:, -1], defective[:, -1]
            new_good, new_defective = np.diff(good, prepend=0, axis=1), np.diff(defective, prepend=0, axis=1)
            precision = defective / np.maximum(defective + good, 1)
            ranking = {
                "average_precision": (new_defective * precision).sum(axis=1) / num_defective,
                # A good image ranks behind those defective ones that come before it, half behind those it ties with.
                "roc_auc": (new_good * (defective - new_defective / 2)).sum(axis=1) / (num_good * num_defective),
            }
        return ranking | {
            "f1": np.divide(2 * hits, wrong, out=undefined.copy(), where=wrong > 0),
            "false_positives": false_alarms,
            "false_negatives": misses,
        }

    return figures
