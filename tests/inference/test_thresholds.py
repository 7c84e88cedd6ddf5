"""The F1 threshold against trying every cut."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxdefect.inference.thresholds import best_f1_threshold


def _brute_force(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The best F1 of all cuts, and the width of the widest gap between scores in which it is reached."""
    distinct = np.unique(scores)
    f1 = [sklearn_metrics.f1_score(labels, scores >= cut) for cut in distinct]
    gaps = [0.0, *np.diff(distinct)]
    return max(f1), max(gap for value, gap in zip(f1, gaps, strict=True) if np.isclose(value, max(f1), rtol=1e-12))


@pytest.mark.parametrize("num_levels", [3, 20, 10**9])  # few levels: many ties
def test_has_the_best_f1_in_the_middle_of_the_widest_gap(num_levels):
    rng = np.random.default_rng(num_levels)
    for _ in range(100):
        num_images = int(rng.integers(1, 30))
        labels = rng.integers(0, 2, num_images)
        labels[rng.integers(num_images)] = 1
        scores = np.clip(np.round(rng.normal(0.3 + 0.3 * labels, 0.25) * num_levels) / num_levels, 0, 1)
        threshold = best_f1_threshold(labels, scores)
        best, widest = _brute_force(labels, scores)
        assert sklearn_metrics.f1_score(labels, scores >= threshold) == pytest.approx(best, rel=1e-12)
        if threshold != scores.min():  # with everything called defective there is no gap to be in the middle of
            assert np.abs(scores - threshold).min() == pytest.approx(widest / 2, rel=1e-9)


def test_separable_classes_get_the_middle_between_them():
    assert best_f1_threshold(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.3, 0.5])) == pytest.approx(0.4)


def test_neighbouring_floats_are_still_told_apart():
    low = 0.7
    high = np.nextafter(low, 1)
    threshold = best_f1_threshold(np.array([0, 1]), np.array([low, high]))
    assert low < threshold <= high


def test_only_defective_images_are_all_called_defective():
    assert best_f1_threshold(np.array([1, 1]), np.array([0.4, 0.6])) == 0.4


def test_no_defective_image_is_refused():
    with pytest.raises(ValueError, match="no defective image"):
        best_f1_threshold(np.array([0, 0]), np.array([0.4, 0.6]))
