"""Defect-level metrics against scikit-learn, against matching by trying again at every threshold, and by hand."""

import numpy as np
import pytest
from scipy import integrate
from sklearn import metrics as sklearn_metrics

from jaxdefect.metrics import defect
from jaxdefect.metrics.defect import DefectMatch


def test_mean_iou_leaves_out_images_without_anything():
    assert defect.mean_iou([0.0, None, 0.5]) == 0.25
    assert defect.mean_iou([None]) is None


def test_average_recall_is_twice_the_integral_of_recall_from_a_half_to_one():
    ious = np.random.default_rng(0).random(50)
    thresholds = np.linspace(0.5, 1, 20001)
    recall = (ious[:, None] >= thresholds).mean(axis=0)
    assert defect.average_recall(ious) == pytest.approx(2 * integrate.trapezoid(recall, thresholds), abs=1e-4)
    assert defect.average_recall(np.array([1.0, 0.75, 0.5, 0.0])) == 0.375
    assert defect.average_recall(np.zeros(0)) is None


def test_overlaps_of_label_maps_and_of_overlapping_masks_by_brute_force():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (12, 15)).astype(np.int32)
    labels[labels == 2] = 3  # a number that occurs nowhere
    masks = (rng.random((3, 12, 15)) < 0.4).astype(np.uint8)
    planes = {"labels": [labels == k for k in (1, 2, 3, 4)], "masks": list(masks > 0)}
    for true, predicted, rows, columns in (
        (labels, masks, planes["labels"], planes["masks"]),
        (masks, labels, planes["masks"], planes["labels"]),
        (masks, masks[:1], planes["masks"], planes["masks"][:1]),
    ):
        expected = [[(a & b).sum() / max((a | b).sum(), 1) for b in columns] for a in rows]
        np.testing.assert_allclose(defect.defect_ious(true, predicted), expected)
    assert defect.defect_ious(0 * labels, masks).shape == (0, 3)
    assert defect.defect_ious(masks, masks[:0]).shape == (3, 0)
    with pytest.raises(ValueError, match="must be of one height and width"):
        defect.defect_ious(labels, masks[:, 1:])


def _random_images(seed: int) -> list[DefectMatch]:
    """Images with 0 to 5 true and predicted defects, many overlaps the same and many none."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(12):
        num_true, num_predicted = rng.integers(0, 6, 2)
        ious = np.maximum(rng.integers(-5, 11, (num_true, num_predicted)) / 10, 0)
        true_classes, predicted_classes = (tuple(rng.choice(["a", "b"], n).tolist()) for n in (num_true, num_predicted))
        images.append(DefectMatch(ious, true_classes, predicted_classes))
    return images


def _num_found(image: DefectMatch, threshold: float, with_class: bool) -> int:
    """Takes the best pair that is left, again and again."""
    left = {
        (true, predicted): iou
        for (true, predicted), iou in np.ndenumerate(image.ious)
        if iou >= threshold and iou > 0
        if not with_class or image.true_classes[true] == image.predicted_classes[predicted]
    }
    count = 0
    while left:
        best = max(left, key=lambda pair: (left[pair], -pair[0], -pair[1]))
        left = {pair: iou for pair, iou in left.items() if pair[0] != best[0] and pair[1] != best[1]}
        count += 1
    return count


@pytest.mark.parametrize("with_class", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_by_matching_anew_at_every_threshold(seed, with_class):
    images = _random_images(seed)
    thresholds = np.array([0, 0.1, 0.3, 0.5, 0.75, 1])
    curve = defect.precision_recall_by_iou(images, thresholds=thresholds, with_class=with_class)
    found = np.array([sum(_num_found(image, threshold, with_class) for image in images) for threshold in thresholds])
    assert found[0] > found[3] > 0
    np.testing.assert_allclose(curve.precision, found / sum(len(image.predicted_classes) for image in images))
    np.testing.assert_allclose(curve.recall, found / sum(len(image.true_classes) for image in images))
    for image in images:
        assert len(defect.match(image.ious, threshold=0.3)) == _num_found(image, 0.3, with_class=False)


def test_the_better_overlap_is_matched_first_and_each_defect_once():
    ious = np.array([[0.6, 0.7, 0.0], [0.5, 0.65, 0.0]])
    assert defect.match(ious) == [(0, 1), (1, 0)]
    assert defect.match(ious, threshold=0.55) == [(0, 1)]
    assert defect.match(np.zeros((2, 2))) == []
    image = DefectMatch(ious, ("a", "b"), ("a", "b", "a"))
    np.testing.assert_array_equal(defect.matched_ious(image, with_class=False), [0.7, 0.5])
    np.testing.assert_array_equal(defect.matched_ious(image, with_class=True), [0.6, 0.65])


def test_without_predictions_or_defects_the_figure_is_undefined():
    nothing = DefectMatch(np.zeros((0, 0)), (), ())
    missed, false_alarm = DefectMatch(np.zeros((1, 0)), ("a",), ()), DefectMatch(np.zeros((0, 2)), (), ("a", "b"))
    thresholds = np.array([0.5])

    def figures(*images: DefectMatch) -> tuple[list[float] | None, list[float] | None]:
        curve = defect.precision_recall_by_iou(images, thresholds=thresholds, with_class=True)
        return tuple(None if values is None else values.tolist() for values in curve[1:])  # type: ignore[return-value]

    assert figures() == figures(nothing) == (None, None)
    assert figures(nothing, missed) == (None, [0])
    assert figures(nothing, false_alarm) == ([0], None)
    with pytest.raises(ValueError, match=r"overlaps of shape \(1, 0\) for 1 true and 1 predicted classes"):
        DefectMatch(np.zeros((1, 0)), ("a",), ("a",))


def test_confusion_matrix_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    true[true == 2] = 3  # a class that does not occur keeps its row
    expected = sklearn_metrics.confusion_matrix(true, predicted, labels=range(5))
    np.testing.assert_array_equal(defect.confusion_matrix(true, predicted, 5), expected)
    np.testing.assert_array_equal(defect.confusion_matrix([], [], 2), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"predicted class 1 is 5: must be in 0 \.\. 4"):
        defect.confusion_matrix(np.array([0, 1]), np.array([0, 5]), 5)
    with pytest.raises(ValueError, match="two vectors of one length"):
        defect.confusion_matrix(true, predicted[1:], 5)
