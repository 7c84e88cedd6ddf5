"""Image metrics against figures worked out by hand."""

import numpy as np
import pytest

from jaxdefect.metrics.image import decision_metrics, image_metrics


def test_against_hand_computed_figures_with_ties_at_the_threshold_and_at_the_lowest_positive():
    labels = np.array([1, 0, 1, 0, 1, 0])
    scores = np.array([0.9, 0.8, 0.6, 0.6, 0.3, 0.3])
    metrics = image_metrics(labels, scores, threshold=0.6)
    # Ranked with ties together: after 0.9 P = 1/1, after 0.6 P = 2/4, after 0.3 P = 3/6; each adds recall 1/3.
    assert metrics["average_precision"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    # Of the 9 pairs the positive wins 3 + 1.5 + 0.5.
    assert metrics["roc_auc"] == pytest.approx(5 / 9)
    # 0.6 itself is predicted defective: TP 2, FP 2, FN 1.
    assert (metrics["false_positives"], metrics["false_negatives"]) == (2, 1)
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == pytest.approx((1 / 2, 2 / 3, 4 / 7))
    assert metrics["false_positives_at_full_recall"] == 3  # the good image that ties with the lowest positive counts
    assert (metrics["num_images"], metrics["num_defective"], metrics["threshold"]) == (6, 3, 0.6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_ranking(label):
    metrics = image_metrics(np.full(3, label), np.array([0.1, 0.2, 0.9]), threshold=0.5)
    assert metrics["average_precision"] is None
    assert metrics["roc_auc"] is None
    assert metrics["recall"] == (1 / 3 if label else None)
    assert metrics["false_positives_at_full_recall"] == (0 if label else None)
    assert metrics["false_positives"] == (0 if label else 1)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], "no images"),
        ([0, 1], [0.5, np.nan], "score 1 is nan"),
        ([0, 2], [0.5, 0.5], "label 1 is 2"),
        ([0, 1, 1], [0.5, 0.5], "one length"),
    ],
)
def test_refuses_what_cannot_be_measured(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        image_metrics(np.array(labels), np.array(scores), threshold=0.5)


def test_three_way_decisions_are_those_worked_out_by_hand():
    labels = np.array([1, 0, 1, 0, 1, 0, 0, 1])
    scores = np.array([0.1, 0.1, 0.3, 0.3, 0.7, 0.5, 0.9, 0.9])
    decided = decision_metrics(labels, scores, threshold=0.3, reject_threshold=0.7)
    assert decided == {
        "false_negatives": 1,
        "false_positives": 1,
        "recall": 3 / 4,
        "precision": 2 / 3,
        "num_inspected": 3,
        "num_inspected_good": 2,
        "share_inspected": 3 / 8,
    }
    two_way = decision_metrics(labels, scores, threshold=0.3)
    assert (two_way["num_inspected"], two_way["false_negatives"], two_way["false_positives"]) == (0, 1, 3)
    nothing = decision_metrics(np.zeros(2, int), np.array([0.1, 0.2]), threshold=0.5)
    assert (nothing["recall"], nothing["precision"]) == (None, None)
