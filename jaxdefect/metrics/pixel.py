"""Pixel-level metrics as counts that add over images, so that no map needs to be kept."""

import numpy as np

from jaxdefect.metrics.counts import hits_and_misses

# A power of two: k / 1024 and 1024 * p are exact in float32, so that the histogram and `probability >= threshold`
# never disagree. The last bin holds p = 1 alone.
NUM_BINS = 1025


def pixel_counts(probability: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """True positives, false positives and false negatives of one map; the counts of several images add.

    Args:
      probability: [H, W] float in [0, 1]; a pixel is predicted defective when probability >= threshold.
      mask: [H, W], hard: defective where above 0; or soft (float): defective from 0.5 on.
      threshold: in [0, 1].

    Returns:
      [3] int64: true positives, false positives, false negatives.
    """
    _check_shapes(probability, mask)
    return hits_and_misses(_is_defective(mask), probability >= threshold)


def pixel_histogram(probability: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How many good and defective pixels have which probability; the histograms of several images add.

    Args:
      probability: [H, W] float32 in [0, 1].
      mask: [H, W], hard: defective where above 0; or soft (float): defective from 0.5 on.

    Returns:
      [2, 1025] int64: row 0 counts good pixels, row 1 defective ones; bin k holds k/1024 <= p < (k + 1)/1024.
    """
    _check_shapes(probability, mask)
    bins = np.clip(probability * np.float32(NUM_BINS - 1), 0, NUM_BINS - 1).astype(np.int64)
    defective = np.bincount(bins[_is_defective(mask)], minlength=NUM_BINS)
    return np.stack([np.bincount(bins.ravel(), minlength=NUM_BINS) - defective, defective])


def best_pixel_threshold(histogram: np.ndarray) -> float:
    """The threshold k/1024 of the best pixel F1 (and so of the best IoU, which grows with F1).

    Where a whole range of thresholds gives the best F1, the middle of its longest unbroken stretch is taken.

    Args:
      histogram: [2, 1025] as `pixel_histogram` gives it, summed over images.

    Raises:
      ValueError: no defective pixel, so that no threshold is better than another.
    """
    good, defective = np.asarray(histogram, np.float64)
    if not defective.sum():
        raise ValueError("no defective pixel in the histogram: a pixel threshold needs at least one annotated defect")
    # [1025] counts of pixels at or above each k/1024.
    false_positives, true_positives = np.cumsum(good[::-1])[::-1], np.cumsum(defective[::-1])[::-1]
    f1 = 2 * true_positives / (true_positives + false_positives + defective.sum())
    return _middle_of_best(f1)


def best_mean_iou_threshold(histograms: np.ndarray) -> float:
    """The threshold k/1024 of the best mean IoU over images (He & Liu 2020, section 3.3).

    Args:
      histograms: [N, 2, 1025], of `pixel_histogram`, one per image with a defect.

    Raises:
      ValueError: an image has no defective pixel, or there is no image.
    """
    good, defective = np.moveaxis(np.asarray(histograms, np.float64), 1, 0)
    if not len(good) or not defective.sum(axis=1).all():
        raise ValueError("a mean IoU needs images that each have a defective pixel")
    false_positives, true_positives = (np.cumsum(rows[:, ::-1], axis=1)[:, ::-1] for rows in (good, defective))
    iou = true_positives / (false_positives + defective.sum(axis=1, keepdims=True))
    return _middle_of_best(iou.mean(axis=0))


def _middle_of_best(values: np.ndarray) -> float:
    """k/1024 in the middle of the longest stretch of bins k in which `values` [1025] is largest."""
    is_best = np.concatenate([[False], values == values.max(), [False]])
    starts, ends = np.flatnonzero(np.diff(is_best.astype(np.int8))).reshape(-1, 2).T
    longest = np.argmax(ends - starts)
    return float((starts[longest] + ends[longest] - 1) // 2 / (NUM_BINS - 1))


def _is_defective(mask: np.ndarray) -> np.ndarray:
    return mask >= 0.5 if np.issubdtype(mask.dtype, np.floating) else mask > 0


def _check_shapes(probability: np.ndarray, mask: np.ndarray) -> None:
    if probability.shape != mask.shape:
        raise ValueError(f"probability {probability.shape} and mask {mask.shape} must have the same size")
