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


def test_a_tie_is_a_defect():
    np.testing.assert_array_equal(agreement.majority(np.array([[1, 0, 0], [0, 0, 1]])), [True, False, True])
