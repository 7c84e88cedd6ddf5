"""Counts and what they come to, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxdefect.metrics.counts import count_figures, hits_and_misses


def test_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    actual, predicted = rng.random((20, 30)) < 0.3, rng.random((20, 30)) < 0.4
    expected = [
        function(actual.ravel(), predicted.ravel())
        for function in (
            sklearn_metrics.precision_score,
            sklearn_metrics.recall_score,
            sklearn_metrics.f1_score,
            sklearn_metrics.jaccard_score,
        )
    ]
    assert count_figures(hits_and_misses(actual, predicted)) == pytest.approx(expected)
    nothing = np.zeros_like(actual)
    assert count_figures(hits_and_misses(nothing, nothing)) == (None, None, None, None)
    assert count_figures(hits_and_misses(actual, nothing)) == (None, 0, 0, 0)
    assert count_figures(hits_and_misses(nothing, predicted)) == (0, None, 0, 0)
    with pytest.raises(ValueError, match="must have the same shape"):
        hits_and_misses(actual, predicted[1:])
