"""Choosing the score from which an image counts as defective."""

import numpy as np

from jaxdefect.metrics.image import checked_scores


def best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold whose decisions (score >= threshold) have the best F1 on these images.

    F1 changes only where the threshold passes a score, so the candidates are the gaps between neighbouring distinct
    scores. Of the gaps with the best F1 the widest is taken, and its middle, which is the farthest from the images
    on both sides; classes that do not overlap get the middle between them. Where calling every image defective is
    strictly best there is no gap below the scores, and the lowest score is returned.

    Args:
      labels: [N] of 0 (good) and 1 (defective), at least one of them 1.
      scores: [N] finite float.

    Raises:
      ValueError: no defective image, or what `jaxdefect.metrics.image.checked_scores` refuses.
    """
    labels, scores = checked_scores(labels, scores)
    num_defective = int(labels.sum())
    if not num_defective:
        raise ValueError("no defective image among the labels: F1 is undefined, so no threshold can be chosen")
    distinct, inverse = np.unique(scores, return_inverse=True)
    # Cut k predicts distinct[k] and everything above it: [K] counts from the highest score down, then turned back.
    num_predicted = np.cumsum(np.bincount(inverse)[::-1])[::-1]
    true_positives = np.cumsum(np.bincount(inverse, weights=labels)[::-1])[::-1]
    f1 = 2 * true_positives / (num_predicted + num_defective)
    gaps = np.diff(distinct, prepend=distinct[0])
    best = int(np.argmax(np.where(f1 == f1.max(), gaps, -1.0)))
    if best == 0:
        return float(distinct[0])
    middle = distinct[best - 1] + gaps[best] / 2
    # Between neighbouring floats there is no middle: the upper one makes the same decisions as the gap.
    return float(middle if middle > distinct[best - 1] else distinct[best])
