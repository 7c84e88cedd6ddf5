"""Choosing the score from which an image counts as defective, and how many misses a promise leaves room for.

A decision is score >= threshold. It changes only where the threshold passes a score, so every threshold here is chosen
among the cuts below the distinct scores and lies in the middle of the gap under its cut, which is the farthest from the
images on both sides. Images of one score are decided alike: ties are never parted.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from jaxdefect.metrics.image import checked_scores

NEVER = float(np.nextafter(1.0, 2.0))  # the threshold that no score in [0, 1] reaches


class _Cuts(NamedTuple):
    """All ways to part N images by their score, [K + 1] each: cut k calls distinct[k] and all above it defective, the
    last one nothing.
    """

    distinct: np.ndarray  # [K]
    true_positives: np.ndarray
    false_positives: np.ndarray

    def place(self, cut: int) -> float:
        """A threshold that decides like the cut. Below the lowest score there is no gap: that score itself."""
        if cut == 0:
            return float(self.distinct[0])
        below = float(self.distinct[cut - 1])
        above = float(self.distinct[cut]) if cut < len(self.distinct) else NEVER
        middle = below + (above - below) / 2
        # Between neighbouring floats there is no middle: the upper one makes the same decisions as the gap.
        return middle if middle > below else above


def _cuts(labels: np.ndarray, scores: np.ndarray) -> tuple[_Cuts, int]:
    """The cuts and the number of defective images."""
    labels, scores = checked_scores(labels, scores)
    distinct, inverse = np.unique(scores, return_inverse=True)
    # Counts from the highest score down, then turned back.
    predicted = np.cumsum(np.bincount(inverse)[::-1])[::-1]
    found = np.cumsum(np.bincount(inverse, weights=labels)[::-1])[::-1].astype(int)
    return _Cuts(distinct, np.append(found, 0), np.append(predicted - found, 0)), int(labels.sum())


def best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold whose decisions (score >= threshold) have the best F1 on these images.

    Of the gaps with the best F1 the widest is taken; classes that do not overlap get the middle between them. Where
    calling every image defective is strictly best there is no gap below the scores, and the lowest score is returned.

    Args:
      labels: [N] of 0 (good) and 1 (defective), at least one of them 1.
      scores: [N] finite float.

    Raises:
      ValueError: no defective image, or what `jaxdefect.metrics.image.checked_scores` refuses.
    """
    cuts, num_defective = _cuts(labels, scores)
    if not num_defective:
        raise ValueError("no defective image among the labels: F1 is undefined, so no threshold can be chosen")
    f1 = 2 * cuts.true_positives / (cuts.true_positives + cuts.false_positives + num_defective)
    return _in_widest_gap(cuts, f1[:-1] == f1.max())


def lowest_cost_threshold(labels: np.ndarray, scores: np.ndarray, *, cost_ratio: float) -> float:
    """The threshold of the lowest cost on these images: `cost_ratio` for each miss, 1 for each false alarm.

    Of the gaps with the lowest cost the widest is taken. Where a miss costs so little that nothing should be called
    defective, the threshold lies above all scores. The shares of good and defective images are taken as they are here.

    Raises:
      ValueError: as `best_f1_threshold`.
    """
    cuts, num_defective = _cuts(labels, scores)
    cost = cost_ratio * (num_defective - cuts.true_positives) + cuts.false_positives
    return _in_widest_gap(cuts, cost == cost.min())


def _in_widest_gap(cuts: _Cuts, is_best: np.ndarray) -> float:
    """`is_best`: of the cuts from the first on; the one above all scores is taken only where no other is best."""
    if not is_best[: len(cuts.distinct)].any():
        return cuts.place(len(cuts.distinct))
    gaps = np.diff(cuts.distinct, prepend=cuts.distinct[0])
    return cuts.place(int(np.argmax(np.where(is_best[: len(gaps)], gaps, -1.0))))


def threshold_of_misses(labels: np.ndarray, scores: np.ndarray, *, num_misses: int) -> float:
    """The highest threshold that misses at most `num_misses` of these defective images.

    Ties are never parted, so it may miss fewer. It lies below the score of the defective image number
    `num_misses` + 1 from below, and so keeps whatever is promised of that order statistic.

    Args:
      labels: [N] of 0 and 1, more of them 1 than `num_misses`.
      scores: [N] finite float.
      num_misses: 0 or more.

    Raises:
      ValueError: too few defective images, or what `jaxdefect.metrics.image.checked_scores` refuses.
    """
    cuts, num_defective = _cuts(labels, scores)
    if not 0 <= num_misses < num_defective:
        raise ValueError(f"{num_misses} misses of {num_defective} defective images: fewer are wanted than there are")
    is_allowed = num_defective - cuts.true_positives <= num_misses
    return cuts.place(int(np.flatnonzero(is_allowed)[-1]))


def precise_threshold(labels: np.ndarray, scores: np.ndarray, *, precision: float) -> float:
    """The lowest threshold from which on at least this share of these images is defective; 1: no false alarm.

    Where even the highest score falls short, a threshold above all scores: nothing is called defective.

    Raises:
      ValueError: what `jaxdefect.metrics.image.checked_scores` refuses.
    """
    cuts, _ = _cuts(labels, scores)
    is_precise = cuts.true_positives >= precision * (cuts.true_positives + cuts.false_positives) - 1e-9
    return cuts.place(int(np.flatnonzero(is_precise)[0]))


def misses_at_recall(num_defective: int, recall: float) -> int:
    """How many of the defective images may be missed at this recall or more."""
    return min(math.floor((1 - recall) * num_defective + 1e-9), num_defective - 1)


def guaranteed_misses(num_defective: int, *, alpha: float, delta: float) -> int | None:
    """How many calibration defects may be missed so that, with confidence 1 - delta, the true miss rate is <= alpha.

    With the threshold at the (k + 1)-th lowest score of n independent defective images, the share of all defective
    images that score lower is distributed as Beta(k + 1, n - k), or smaller where scores are tied. It exceeds alpha
    with probability P(Binomial(n, alpha) <= k): the largest k is taken for which that is at most delta. (A one-sided
    tolerance interval; the same k as the largest whose Clopper-Pearson upper bound is at most alpha.)

    Returns:
      k; None when not even k = 0 can promise it: (1 - alpha)^n > delta.

    References:
      Wilks, 1941, Determination of sample sizes for setting tolerance limits; Clopper and Pearson, 1934.
    """
    allowed = np.flatnonzero(special.bdtr(np.arange(num_defective), num_defective, alpha) <= delta)
    return int(allowed[-1]) if len(allowed) else None


def conformal_misses(num_defective: int, *, alpha: float) -> int | None:
    """How many calibration defects may be missed so that a new defect is missed with probability at most alpha.

    The probability is over the calibration images and the new one together, which need only be exchangeable: with the
    threshold at the (k + 1)-th lowest of n scores it is at most (k + 1) / (n + 1). None when k = 0 is too many.

    References:
      Angelopoulos et al., 2022, Conformal risk control.
    """
    allowed = math.floor(alpha * (num_defective + 1) + 1e-9) - 1
    return min(allowed, num_defective - 1) if allowed >= 0 and num_defective else None


def num_needed(*, alpha: float, delta: float) -> int:
    """The fewest calibration defects with which `guaranteed_misses` can promise anything: (1 - alpha)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-12)


def num_needed_on_average(alpha: float) -> int:
    """The fewest calibration defects with which `conformal_misses` can promise anything: 1 / (n + 1) <= alpha."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def miss_rate_bound(num_misses: int, num_defective: int, *, delta: float) -> float:
    """Clopper-Pearson: the upper bound on the true miss rate, with confidence 1 - delta."""
    if num_misses >= num_defective:
        return 1.0
    return float(special.betaincinv(num_misses + 1, num_defective - num_misses, 1 - delta))
