"""Image-level metrics: ranking quality, and the decisions at one threshold."""

from typing import Any

import numpy as np

from jaxdefect.metrics.counts import count_figures, hits_and_misses, ratio


def image_metrics(labels: np.ndarray, scores: np.ndarray, *, threshold: float) -> dict[str, Any]:
    """Ranking and decision metrics of image scores; an image is predicted defective when score >= threshold.

    Average precision and ROC AUC are scikit-learn's. What is undefined is None (JSON null): with only one class
    present there is no ranking of one class against the other, so `average_precision` and `roc_auc`; without
    positives `recall` and `false_positives_at_full_recall`; without a positive prediction `precision`; without
    either `f1`.

    Args:
      labels: [N] of 0 (good) and 1 (defective).
      scores: [N] float, larger is more probably defective.
      threshold: the smallest score that is predicted defective.

    Returns:
      num_images, num_defective, average_precision, roc_auc, f1, precision, recall, threshold, false_positives,
      false_negatives and false_positives_at_full_recall: the negatives that score at least as high as the
      lowest-scoring positive, that is the false alarms of the highest threshold that misses no defect.

    Raises:
      ValueError: no images, labels other than 0 and 1, scores that are not finite, or lengths that differ.
    """
    from sklearn import metrics as sklearn_metrics  # not above: it takes 0.8 s of a start, and may not be needed

    labels, scores = checked_scores(labels, scores)
    is_defective = labels == 1
    predicted = scores >= threshold
    counts = hits_and_misses(is_defective, predicted)
    figures = count_figures(counts)
    num_defective = int(is_defective.sum())
    has_both = 0 < num_defective < len(labels)
    return {
        "num_images": len(labels),
        "num_defective": num_defective,
        "average_precision": float(sklearn_metrics.average_precision_score(labels, scores)) if has_both else None,
        "roc_auc": float(sklearn_metrics.roc_auc_score(labels, scores)) if has_both else None,
        "f1": figures.f1,
        "precision": figures.precision,
        "recall": figures.recall,
        "threshold": float(threshold),
        "false_positives": int(counts[1]),
        "false_negatives": int(counts[2]),
        "false_positives_at_full_recall": (
            int(np.sum(scores[~is_defective] >= scores[is_defective].min())) if num_defective else None
        ),
    }


def decision_metrics(
    labels: np.ndarray, scores: np.ndarray, *, threshold: float, reject_threshold: float | None = None
) -> dict[str, Any]:
    """What accepting, inspecting by hand and rejecting come to: the figures of a zero-miss policy's price.

    Below `threshold` an image is accepted, from `reject_threshold` on (None: the same) rejected, between inspected.

    Args:
      labels: [N] of 0 (good) and 1 (defective).
      scores: [N] float.
      threshold: see above.
      reject_threshold: at least `threshold`.

    Returns:
      false_negatives (defective, accepted), false_positives (good, rejected), recall (of the defective, those not
      accepted), precision (of the rejected, the defective), num_inspected, num_inspected_good, share_inspected; None
      where undefined.

    Raises:
      ValueError: as `image_metrics`.
    """
    labels, scores = checked_scores(labels, scores)
    is_defective = labels == 1
    is_accepted = scores < threshold
    is_rejected = ~is_accepted & (scores >= (threshold if reject_threshold is None else reject_threshold))
    is_inspected = ~is_accepted & ~is_rejected
    return {
        "false_negatives": int(np.sum(is_accepted & is_defective)),
        "false_positives": int(np.sum(is_rejected & ~is_defective)),
        "recall": ratio(int(np.sum(~is_accepted & is_defective)), int(is_defective.sum())),
        "precision": ratio(int(np.sum(is_rejected & is_defective)), int(is_rejected.sum())),
        "num_inspected": int(is_inspected.sum()),
        "num_inspected_good": int(np.sum(is_inspected & ~is_defective)),
        "share_inspected": float(is_inspected.mean()),
    }


def checked_scores(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`labels` as int [N] and `scores` as float64 [N], or a ValueError that names the first entry that is wrong."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: two vectors of one length are wanted")
    if not len(labels):
        raise ValueError("no images: at least one label and score are wanted")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(f"score {bad[0]} is {scores[bad[0]]}: scores must be finite")
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise ValueError(f"label {bad[0]} is {labels[bad[0]]}: labels must be 0 or 1")
    return labels.astype(int), scores
