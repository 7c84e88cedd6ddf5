"""Pixel counts against scikit-learn, and the pixel threshold against trying every one."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxdefect.metrics.counts import count_figures
from jaxdefect.metrics.pixel import NUM_BINS, best_pixel_threshold, pixel_counts, pixel_histogram


def _maps(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three probability maps in steps of 1/4096, many of them right at a bin's edge, and their noisy masks."""
    rng = np.random.default_rng(seed)
    maps = []
    for shape in ((20, 30), (8, 8), (1, 50)):
        probability = (rng.integers(0, 4097, shape) / 4096).astype(np.float32)
        maps.append((probability, (probability + rng.normal(0, 0.4, shape) > 0.8).astype(np.uint8)))
    return maps


def test_counts_add_over_images_to_the_figures_of_all_pixels_together():
    maps = _maps(seed=0)
    counts = np.sum([pixel_counts(probability, mask, 0.5) for probability, mask in maps], axis=0)
    predicted = np.concatenate([probability.ravel() >= 0.5 for probability, _ in maps])
    actual = np.concatenate([mask.ravel() for _, mask in maps])
    assert count_figures(counts).iou == pytest.approx(sklearn_metrics.jaccard_score(actual, predicted))
    assert count_figures(counts).f1 == pytest.approx(sklearn_metrics.f1_score(actual, predicted))


def test_a_soft_mask_counts_from_one_half_on():
    probability, soft = np.full((1, 4), 0.75, np.float32), np.array([[0.0, 0.49, 0.5, 1.0]], np.float32)
    np.testing.assert_array_equal(pixel_counts(probability, soft, 0.5), (2, 2, 0))
    assert pixel_histogram(probability, soft)[:, 768].tolist() == [2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_is_as_good_as_the_best_of_all_thresholds(seed):
    maps = _maps(seed)
    histogram = np.sum([pixel_histogram(probability, mask) for probability, mask in maps], axis=0)

    def f1(threshold: float) -> float:
        return count_figures(np.sum([pixel_counts(p, mask, threshold) for p, mask in maps], axis=0)).f1 or 0.0

    assert f1(best_pixel_threshold(histogram)) == max(f1(k / (NUM_BINS - 1)) for k in range(NUM_BINS))


def test_separable_pixels_get_the_middle_of_the_gap():
    probability, mask = np.array([[0.0, 0.25, 0.75, 1.0]], np.float32), np.array([[0, 0, 1, 1]])
    assert best_pixel_threshold(pixel_histogram(probability, mask)) == pytest.approx(0.5, abs=1 / 1024)


def test_no_defective_pixel_is_refused():
    with pytest.raises(ValueError, match="no defective pixel"):
        best_pixel_threshold(pixel_histogram(np.zeros((2, 2), np.float32), np.zeros((2, 2))))
