"""Figures by group and by class, worked out by hand; their order, their limit, and the file that holds them all."""

import csv
import io

import numpy as np
import pytest

from jaxdefect.inference.defects import ImageDefects
from jaxdefect.inference.evaluation import Evaluation
from jaxdefect.metrics.defect import DefectMatch
from jaxdefect.reports import breakdown
from jaxdefect.reports.breakdown import Row, break_down


def _compared(hits: int, false_alarms: int, misses: int, predicted: tuple[str, ...] = ()) -> ImageDefects:
    match = DefectMatch(np.zeros((0, len(predicted))), (), predicted)
    return ImageDefects(match, np.array([hits, false_alarms, misses]), None)


def _evaluation(**values) -> Evaluation:
    """Two items of three images. At 0.5: of item a one dent missed, of item b a good one stopped and no mask known."""
    fields = {
        "ids": tuple("abcdef"),
        "labels": np.array([1, 1, 0, 1, 0, 0]),
        "scores": np.array([0.9, 0.2, 0.3, 0.8, 0.7, 0.1]),
        "counts": np.zeros(3, np.int64),
        "num_masked": 2,
        "gallery": (),
        "compared": (_compared(6, 1, 1), _compared(0, 2, 8), _compared(0, 2, 0), None, *[_compared(0, 0, 0)] * 2),
        "classes": (("scratch",), ("dent",), (), ("dent", "scratch"), (), ()),
        "groups": ("a", "a", "a", "b", "b", "b"),
    }
    return Evaluation(**{**fields, **values})


def test_rows_are_those_worked_out_by_hand_worst_first() -> None:
    rows = break_down(_evaluation(), threshold=0.5)
    assert rows.groups == (
        # Both have one wrong decision of three; the one with a known, bad overlap comes first.
        Row("a", 3, 2, pytest.approx((1 + 2 / 3) / 2), 0, 1, pytest.approx(6 / (6 + 1 + 1 + 2 + 8 + 2))),
        Row("b", 3, 1, 1.0, 1, 0, None),
    )
    # Dents score 0.8 and 0.2 against good 0.7, 0.3, 0.1: one before all, one behind two.
    assert rows.classes == (
        Row("dent", 2, 2, pytest.approx((1 + 2 / 4) / 2), None, 1, 0.0),
        Row("scratch", 2, 2, 1.0, None, 0, pytest.approx(6 / 8)),
    )


def test_wrongly_named_images_count_where_the_run_names_classes() -> None:
    scores = {"dent": np.array([0.9, 0.9, 0.6, 0.1, 0.1, 0.1]), "scratch": np.zeros(6)}
    by_name = {
        row.name: row.false_positives for row in break_down(_evaluation(class_scores=scores), threshold=0.5).classes
    }
    assert by_name == {"dent": 2, "scratch": 0}  # images a and c have no dent
    named = (_compared(1, 0, 0, ("dent",)), *[_compared(0, 0, 0)] * 4, _compared(0, 5, 0, ("dent", "scratch")))
    classified = _evaluation(compared=named, detected=named)
    by_name = {row.name: row.false_positives for row in break_down(classified, threshold=0.5).classes}
    assert by_name == {"dent": 2, "scratch": 1}


def test_groups_of_one_image_each_say_nothing_and_many_are_cut_but_all_are_in_the_file() -> None:
    assert break_down(_evaluation(groups=tuple("abcdef")), threshold=0.5).groups == ()
    assert break_down(_evaluation(groups=("",) * 6, classes=((),) * 6), threshold=0.5) == ((), ())
    num = 2 * breakdown.MAX_ROWS
    labels = np.arange(2 * num) % 2
    many = Evaluation(
        tuple(map(str, range(2 * num))),
        labels,
        np.where(np.arange(2 * num) < 10, 1 - labels, labels).astype(float),
        np.zeros(3, np.int64),
        0,
        (),
        compared=(None,) * 2 * num,
        classes=((),) * 2 * num,
        groups=tuple(f"g{i // 2:03}" for i in range(2 * num)),
    )
    rows = break_down(many, threshold=0.5)
    assert [row["name"] for row in breakdown.to_dicts(rows.groups)][:6] == [f"g{i:03}" for i in range(6)]
    assert len(breakdown.to_dicts(rows.groups)) == breakdown.MAX_ROWS
    lines = list(csv.DictReader(io.StringIO(breakdown.to_csv(rows))))
    assert len(lines) == num
    assert lines[0] == {
        "kind": "group",
        "name": "g000",
        "num_images": "2",
        "num_defective": "1",
        "average_precision": "0.5",
        "false_positives": "1",
        "false_negatives": "1",
        "pixel_iou": "",
    }
