"""Metrics of single defects: which true defect was found by which prediction, and of what class.

All figures are float64. What is undefined is None, as in the other metrics: nothing there to divide by.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse


@dataclasses.dataclass(frozen=True)
class DefectMatch:
    """The T true and P predicted defects of one image, by overlap and class.

    `ious` [T, P] float64, as `defect_ious` gives it. The classes may be numbers or names; those of a prediction that
    the classifier calls no defect are the caller's to leave out, columns included.
    """

    ious: np.ndarray
    true_classes: tuple[int | str | None, ...]
    predicted_classes: tuple[int | str | None, ...]

    def __post_init__(self) -> None:
        if self.ious.shape != (len(self.true_classes), len(self.predicted_classes)):
            raise ValueError(
                f"overlaps of shape {self.ious.shape} for {len(self.true_classes)} true and "
                f"{len(self.predicted_classes)} predicted classes"
            )


class DefectCurve(NamedTuple):
    """Precision and recall of single defects at each of K IoU thresholds, [K] float64 each.

    `precision` is None where nothing was predicted, `recall` where there is no true defect.
    """

    thresholds: np.ndarray
    precision: np.ndarray | None
    recall: np.ndarray | None


def mean_iou(ious: Sequence[float | None]) -> float | None:
    """The mean over images; those with neither a defect nor a prediction (None) do not count."""
    defined = [iou for iou in ious if iou is not None]
    return float(np.mean(defined)) if defined else None


def average_recall(ious: np.ndarray) -> float | None:
    """AR = 2/n * sum over the n true defects of max(IoU - 0.5, 0): twice the integral of recall over IoU from 0.5 to 1.

    Args:
      ious: [n], of each true defect with its prediction, 0 where it was missed: `matched_ious` of all images.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), equation 3, after
      Hosang et al.: What makes for effective detection proposals? (2016).
    """
    return float(2 * np.maximum(np.asarray(ious, np.float64) - 0.5, 0).mean()) if len(ious) else None


def defect_ious(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Intersection over union of every true with every predicted defect of an image.

    Args:
      true: a label map [H, W] of integers, 0 where there is no defect and k for the k-th; or masks [T, H, W], which
        may overlap, defective where above 0.
      predicted: likewise, [H, W] or [P, H, W].

    Returns:
      [T, P] float64. A label that occurs nowhere in a label map below its largest overlaps nothing.

    Raises:
      ValueError: the sizes of the planes differ.
    """
    if true.shape[-2:] != predicted.shape[-2:]:
        raise ValueError(f"true {true.shape} and predicted {predicted.shape} must be of one height and width")
    rows, columns = _membership(true), _membership(predicted)
    intersection = (rows @ columns.T).toarray().astype(np.float64)
    union = np.diff(rows.indptr)[:, None] + np.diff(columns.indptr) - intersection
    return intersection / np.maximum(union, 1)


def match(ious: np.ndarray, *, threshold: float = 0.0) -> list[tuple[int, int]]:
    """Pairs (true, predicted) with an IoU above 0 and of at least `threshold`, the best first, each defect only once.

    Args:
      ious: [T, P].
      threshold: in [0, 1].
    """
    pairs, free_true, free_predicted = [], np.ones(ious.shape[0], bool), np.ones(ious.shape[1], bool)
    candidates = np.argwhere((ious >= threshold) & (ious > 0))
    order = np.argsort(-ious[tuple(candidates.T)], kind="stable")
    for true, predicted in candidates[order]:
        if free_true[true] and free_predicted[predicted]:
            free_true[true] = free_predicted[predicted] = False
            pairs.append((int(true), int(predicted)))
    return pairs


def matched_ious(image: DefectMatch, *, with_class: bool) -> np.ndarray:
    """The IoU of each true defect with the prediction it is matched to, [T] float64, 0 where there is none.

    Args:
      image: the defects of one image.
      with_class: only defects of the same class can be matched.
    """
    ious = image.ious
    if with_class:
        agrees = [[true == predicted for predicted in image.predicted_classes] for true in image.true_classes]
        ious = ious * np.array(agrees, np.float64).reshape(ious.shape)
    best = np.zeros(len(image.true_classes))
    for true, predicted in match(ious):
        best[true] = ious[true, predicted]
    return best


def precision_recall_by_iou(images: Sequence[DefectMatch], *, thresholds: np.ndarray, with_class: bool) -> DefectCurve:
    """Precision and recall of single defects over all images, against the IoU from which one counts as found.

    Args:
      images: the defects of each image, with those of images where nothing was found or nothing is.
      thresholds: [K] IoUs; at 0 any overlap will do.
      with_class: a defect counts as found only if its class is right too.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), figures 9 and 13.
    """
    thresholds = np.asarray(thresholds, np.float64)
    # Matching takes the best overlap first, so the pairs at a threshold are those of the full matching that reach it.
    ious = np.concatenate([np.zeros(0), *(matched_ious(image, with_class=with_class) for image in images)])
    found = np.array([np.count_nonzero((ious >= threshold) & (ious > 0)) for threshold in thresholds], np.float64)
    num_predicted = sum(len(image.predicted_classes) for image in images)
    return DefectCurve(
        thresholds=thresholds,
        precision=found / num_predicted if num_predicted else None,
        recall=found / len(ious) if len(ious) else None,
    )


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How many of each true class (row) were predicted as which (column).

    Args:
      true: [N] of class numbers from 0.
      predicted: [N], likewise.
      num_classes: K.

    Returns:
      [K, K] int64.

    Raises:
      ValueError: the lengths differ, or a number is not in 0 .. K - 1.
    """
    true, predicted = np.asarray(true, np.int64), np.asarray(predicted, np.int64)
    if true.shape != predicted.shape or true.ndim != 1:
        raise ValueError(f"true {true.shape} and predicted {predicted.shape}: two vectors of one length are wanted")
    for name, classes in (("true", true), ("predicted", predicted)):
        bad = np.flatnonzero((classes < 0) | (classes >= num_classes))
        if len(bad):
            raise ValueError(f"{name} class {bad[0]} is {classes[bad[0]]}: must be in 0 .. {num_classes - 1}")
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def _membership(defects: np.ndarray) -> sparse.csr_array:
    """Which pixel belongs to which defect: [T, H W] int64 of 0 and 1, from a label map or a stack of masks."""
    if defects.ndim == 2:
        pixels = np.flatnonzero(defects)
        numbers, count = defects.ravel()[pixels] - 1, int(defects.max(initial=0))
    else:
        numbers, rows, columns = np.nonzero(defects > 0)
        pixels, count = rows * defects.shape[2] + columns, len(defects)
    shape = (count, defects.shape[-2] * defects.shape[-1])
    return sparse.csr_array((np.ones(len(pixels), np.int64), (numbers, pixels)), shape=shape)
