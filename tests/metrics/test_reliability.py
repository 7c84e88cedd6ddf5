"""Reliability against a plain loop over the bins."""

import numpy as np
import pytest

from jaxdefect.metrics.reliability import NUM_BINS, reliability


def test_bins_and_error_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50), np.append(rng.beta(0.5, 0.5, 48), [0.0, 1.0])
    curve, error, filled = reliability(labels, scores), 0.0, []
    for low in range(NUM_BINS):
        inside = (scores >= low / NUM_BINS) & ((scores < (low + 1) / NUM_BINS) | (low == NUM_BINS - 1))
        if inside.any():
            filled.append((scores[inside].mean(), labels[inside].mean(), inside.sum()))
            error += inside.mean() * abs(scores[inside].mean() - labels[inside].mean())
    np.testing.assert_allclose(np.stack([curve.score, curve.defective, curve.count], axis=1), filled)
    assert curve.error == pytest.approx(error)
    assert reliability(np.array([1, 1, 0, 0]), np.array([0.5, 0.5, 0.5, 0.5])).error == 0
    assert reliability(np.array([1, 0]), np.array([0.0, 1.0])).error == 1
