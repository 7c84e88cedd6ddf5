"""The decision table: thresholds from the calibration images, figures from those evaluated, worked out by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxdefect.inference import policies
from jaxdefect.inference.calibration import Calibration, CalibrationImages
from jaxdefect.inference.evaluation import Evaluation
from jaxdefect.inference.score_maps import Platt
from jaxdefect.reports.breakdown import Breakdown
from jaxdefect.reports.decisions import decision_rows
from jaxdefect.reports.evaluation import evaluation_metrics, metrics_table, render_html, scores_csv

# In order: 0.1 -, 0.3 +, 0.4 -, 0.5 -, 0.6 +, 0.9 +, and many clear good ones.
CHOSEN = CalibrationImages(tuple("abcdefgh"), (0, 1, 0, 0, 1, 1, 0, 0), (0.1, 0.3, 0.4, 0.5, 0.6, 0.9, 0.02, 0.04))
LABELS = np.array([0, 1, 0, 1, 1, 0])
SCORES = np.array([0.15, 0.25, 0.45, 0.55, 0.7, 0.75])


def make(policy: policies.Policy, threshold: float, **others) -> Calibration:
    return Calibration(threshold, 0.5, "validation", 7, policy=policy, images=CHOSEN, **others)


def test_every_policy_decides_by_the_calibration_images_and_the_oracle_by_these():
    rows = decision_rows(make(policies.make("f1"), 0.55), LABELS, SCORES)
    by_name = {row["policy"]: row for row in rows}
    assert [row["is_in_use"] for row in rows] == [True] + [False] * 5
    assert rows[0]["threshold"] == 0.55

    recall = by_name["recall ≥ 99 %"]
    assert recall["threshold"] == pytest.approx(0.2)  # between 0.1 - and 0.3 +
    assert (recall["figures"]["false_negatives"], recall["figures"]["false_positives"]) == (0, 2)
    assert recall["oracle"]["threshold"] == pytest.approx(0.2)

    three_way = by_name["three-way: no miss; no false alarm"]
    assert (three_way["threshold"], three_way["reject_threshold"]) == (pytest.approx(0.2), pytest.approx(0.55))
    figures = three_way["figures"]  # inspected: 0.25 +, 0.45 -; rejected: 0.55 +, 0.7 +, 0.75 -
    assert (figures["num_inspected"], figures["num_inspected_good"], figures["false_positives"]) == (2, 1, 1)
    assert three_way["oracle"]["num_inspected"] == 5  # no image here can be rejected without a mistake
    assert three_way["oracle"]["reject_threshold"] > 0.75

    guarantee = by_name["miss rate ≤ 5 %, confidence 95 %"]
    assert guarantee["figures"] is None
    assert "3 defective images are too few" in guarantee["why_not"]
    assert guarantee["oracle"]["false_negatives"] == 0


def test_calibrated_scores_have_thresholds_on_their_own_scale():
    platt = Platt(2.0, 1.0)
    mapped = platt(SCORES)
    raw = decision_rows(make(policies.make("f1"), 0.55), LABELS, SCORES)
    rows = decision_rows(make(policies.make("f1"), 0.55, score_map=platt), LABELS, mapped)
    for before, after in zip(raw[1:], rows[1:], strict=True):  # a growing map changes no decision but for the gaps
        if before["figures"]:
            assert after["threshold"] != before["threshold"]
            assert after["oracle"]["false_positives"] == before["oracle"]["false_positives"]


def test_a_promise_is_not_given_on_training_images_and_old_files_have_one_row():
    rows = decision_rows(make(policies.make("f1"), 0.55, num_trained=8), LABELS, SCORES)
    why = [row["why_not"] for row in rows if row["parameters"]["name"] in ("guarantee", "conformal")]
    assert all("the network was trained on 8 of the 8" in text for text in why)
    assert len(decision_rows(Calibration(0.5, 0.5, "validation", 7), LABELS, SCORES)) == 1


def test_the_report_shows_the_table_the_promise_and_what_weakens_it():
    ids = ("a", "v", "w", "x", "y", "z")
    raw = Platt(2.0, 1.0)
    evaluation = Evaluation(ids, LABELS, raw(SCORES), np.zeros(3, np.int64), 0, (), raw_scores=SCORES)
    calibration = make(
        policies.make("recall", recall=1.0, reject_precision=1.0),
        0.2,
        reject_threshold=0.8,
        promise="Nothing <b>bold</b>.",
        notes=("One item.",),
        score_map=raw,
    )
    metrics = evaluation_metrics(evaluation, calibration, part="test", workdir=Path("run"))
    figures = {"precision_recall": "", "score_histogram": "", "reliability": "<svg/>"}
    page = render_html(metrics, [], figures=figures, rows=Breakdown((), ()))
    assert "<b>three-way: no miss; no false alarm</b> (in use)" in page
    assert "Nothing &lt;b&gt;bold&lt;/b&gt;." in page
    assert '<p class="note">One item.</p>' in page
    assert "The threshold was chosen on 1 of these very images" in page
    num_inspected = metrics["decisions"][0]["figures"]["num_inspected"]
    assert re.search(rf"inspected by hand between them:\s+{num_inspected} of 6 images", page)
    assert metrics["expected_calibration_error_raw"] != metrics["expected_calibration_error"]
    assert scores_csv(evaluation, threshold=0.2).splitlines()[1].endswith(",0.15")
    names = list(metrics_table(metrics).columns[0].cells)
    assert "inspected by hand" in names
