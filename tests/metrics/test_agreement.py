"""Agreement of raters, against scikit-learn and the published example."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxdefect.metrics import agreement


def test_cohens_kappa_is_scikit_learns():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 50)
    second = np.where(rng.random(50) < 0.8, first, 1 - first)
    assert agreement.cohen_kappa(first, second) == pytest.approx(sklearn_metrics.cohen_kappa_score(first, second))
    assert agreement.cohen_kappa(np.ones(4), np.ones(4)) is None


def test_fleiss_kappa_by_hand():
    """Three raters, four images with 3, 2, 1 and 0 votes: p_o = (1 + 1/3 + 1/3 + 1) / 4 = 2/3, p_e = 1/2."""
    votes = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert agreement.fleiss_kappa(votes) == pytest.approx((2 / 3 - 1 / 2) / (1 / 2))
    assert agreement.fleiss_kappa(np.zeros((3, 4))) is None


def test_a_tie_is_a_defect_and_counts_are_those_of_the_confusion():
    np.testing.assert_array_equal(agreement.majority(np.array([[1, 0, 0], [0, 0, 1]])), [True, False, True])
    counts = agreement.counts_against(np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1]))
    np.testing.assert_array_equal(counts, [2, 1, 1])
    figures = agreement.precision_recall(counts)
    assert figures == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "iou": 1 / 2})
    assert set(agreement.precision_recall(np.zeros(3, int)).values()) == {None}
