"""Precision, recall, F1 and intersection over union, from counts that add over images."""

from typing import NamedTuple

import numpy as np


class Figures(NamedTuple):
    """What counts of hits, false alarms and misses come to; None where there is nothing to divide by."""

    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None


def hits_and_misses(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[3] int64: true positives, false positives and false negatives, of arrays of bool or numbers (true unless 0).

    Raises:
      ValueError: the shapes differ.
    """
    actual, predicted = np.asarray(actual, bool), np.asarray(predicted, bool)
    if actual.shape != predicted.shape:
        raise ValueError(f"actual {actual.shape} and predicted {predicted.shape} must have the same shape")
    hits = np.count_nonzero(predicted & actual)
    return np.array([hits, np.count_nonzero(predicted) - hits, np.count_nonzero(actual) - hits], np.int64)


def count_figures(counts: np.ndarray) -> Figures:
    """Figures of counts [3]: true positives, false positives, false negatives."""
    hits, false_alarms, misses = (int(count) for count in counts)
    return Figures(
        precision=ratio(hits, hits + false_alarms),
        recall=ratio(hits, hits + misses),
        f1=ratio(2 * hits, 2 * hits + false_alarms + misses),
        iou=ratio(hits, hits + false_alarms + misses),
    )


def ratio(numerator: int, denominator: int) -> float | None:
    """The quotient, None where the denominator is 0."""
    return numerator / denominator if denominator else None
