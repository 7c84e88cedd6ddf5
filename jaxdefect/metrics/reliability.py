"""Whether a score of 0.8 means four defective images in five: reliability curve and expected calibration error."""

import dataclasses

import numpy as np

from jaxdefect.metrics.image import checked_scores

NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Images binned by score, bins of one width over [0, 1], B of them not empty.

    `score` [B]: mean score; `defective` [B]: share of defective images; `count` [B]; `error`: the expected calibration
    error, the mean of |score - defective| weighted by count.
    """

    score: np.ndarray
    defective: np.ndarray
    count: np.ndarray
    error: float


def reliability(labels: np.ndarray, scores: np.ndarray) -> Reliability:
    """Reliability of scores in [0, 1] in `NUM_BINS` bins.

    Args:
      labels: [N] of 0 and 1.
      scores: [N] in [0, 1].

    Raises:
      ValueError: what `jaxdefect.metrics.image.checked_scores` refuses.

    References:
      Naeini et al., 2015; Guo et al., 2017, On calibration of modern neural networks.
    """
    labels, scores = checked_scores(labels, scores)
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    is_filled = count > 0
    score, defective = (
        np.bincount(bins, weights=values, minlength=NUM_BINS)[is_filled] / count[is_filled]
        for values in (scores, labels)
    )
    error = float(np.average(np.abs(score - defective), weights=count[is_filled]))
    return Reliability(score, defective, count[is_filled], error)
