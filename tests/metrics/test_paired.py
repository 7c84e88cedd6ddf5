"""Paired differences against scikit-learn on every resample, their coverage, and McNemar's test against its sum."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxdefect.metrics import paired


def test_figures_of_resamples_are_those_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(60) < 0.3).astype(int)
    scores = np.round(rng.random(60) + 0.4 * labels, 1)  # many ties
    weights = paired._draw(labels, num=20, rng=rng)
    assert (weights[:, labels == 1].sum(axis=1) == labels.sum()).all()
    assert (weights.sum(axis=1) == 60).all()
    figures = paired._resampled_figures(labels, scores, threshold=0.8)(weights)
    for i, weight in enumerate(weights):
        called = scores >= 0.8
        expected = {
            "average_precision": sklearn_metrics.average_precision_score(labels, scores, sample_weight=weight),
            "roc_auc": sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weight),
            "f1": sklearn_metrics.f1_score(labels, called, sample_weight=weight),
            "false_positives": weight[called & (labels == 0)].sum(),
            "false_negatives": weight[~called & (labels == 1)].sum(),
        }
        assert {name: figures[name][i] for name in paired.FIGURES} == pytest.approx(expected)


def test_intervals_hold_the_true_difference_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    quality, num_trials = (1.0, 1.6), 150
    # Scores N(quality, 1) of defective and N(0, 1) of good images: AUC = Phi(quality / sqrt(2)).
    true = math.erf(quality[1] / 2) / 2 - math.erf(quality[0] / 2) / 2
    num_covered = 0
    for _ in range(num_trials):
        labels = np.repeat([0, 1], 60)
        shared = rng.normal(size=120)  # the same images are hard for both
        scores = [0.8 * shared + 0.6 * rng.normal(size=120) + each * labels for each in quality]
        interval = paired.bootstrap_differences(labels, scores, thresholds=(0.5, 0.5), num_resamples=300)["roc_auc"]
        assert interval is not None
        num_covered += interval.low <= true <= interval.high
    assert 0.88 < num_covered / num_trials < 0.99


def test_one_detector_twice_differs_by_nothing_and_one_class_has_no_ranking() -> None:
    scores = np.linspace(0, 1, 10)
    same = paired.bootstrap_differences(np.arange(10) % 2, [scores, scores], thresholds=(0.5, 0.5), num_resamples=50)
    assert all(interval == (0, 0) for interval in same.values())
    good = paired.bootstrap_differences(np.zeros(10), [scores, 1 - scores], thresholds=(0.5, 0.2), num_resamples=50)
    assert good["average_precision"] is good["roc_auc"] is None
    assert good["false_negatives"] == (0, 0)
    assert good["false_positives"] is not None
    assert good["false_positives"].high > 0


def test_mcnemar_is_the_binomial_sum() -> None:
    # 1 against 8: 2 (C(9, 0) + C(9, 1)) / 2^9.
    first = np.array([True] * 1 + [False] * 8 + [True] * 5 + [False] * 2)
    second = np.array([False] * 1 + [True] * 8 + [True] * 5 + [False] * 2)
    assert paired.mcnemar(first, second) == (1, 8, pytest.approx(2 * (1 + 9) / 2**9))
    assert paired.mcnemar(first, first) == (0, 0, 1.0)
