"""Policies: what they promise, what they refuse and offer instead, and three-way decisions."""

import re

import numpy as np
import pytest

from jaxdefect.inference import policies
from jaxdefect.metrics.image import decision_metrics
from jaxdefect.types import InputError


def images(num_defective: int, num_good: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [num_defective, num_good])
    return labels, np.clip(rng.normal(0.35 + 0.3 * labels, 0.15), 0, 1)


@pytest.mark.parametrize("num_defective", [1, 10, 18, 58])
def test_too_few_defects_for_a_guarantee_say_how_many_are_needed_and_what_they_can_have(num_defective):
    labels, scores = images(num_defective)
    with pytest.raises(InputError, match=rf"{num_defective} defective images are too few .* 59 are needed") as error:
        policies.choose(policies.make("guarantee"), labels, scores)
    offers = re.findall(r"--(alpha|delta)=([0-9.]+)", str(error.value).split("What they allow:")[1])
    assert ("conformal" in str(error.value)) == (num_defective >= 19)
    for name, value in offers[:2]:
        assert policies.choose(policies.make("guarantee", **{name: float(value)}), labels, scores).promise
        with pytest.raises(InputError, match="too few"):  # and it is the least that can be had
            policies.choose(policies.make("guarantee", **{name: float(value) - 0.0011}), labels, scores)


def test_enough_defects_are_promised_in_a_sentence():
    labels, scores = images(59)
    choice = policies.choose(policies.make("guarantee"), labels, scores)
    assert "With confidence 95 % over the draw of the 59 defective calibration images" in (choice.promise or "")
    assert "at most 5 % of all defective images are missed" in (choice.promise or "")
    assert np.sum(scores[labels == 1] < choice.threshold) == 0
    labels, scores = images(19)
    assert "with probability at most 5 %" in (policies.choose(policies.make("conformal"), labels, scores).promise or "")
    # No miss among 30: the rule of three, exactly 1 - 0.05^(1/30).
    choice = policies.choose(policies.make("recall", recall=1.0), *images(30))
    assert "at most 9.6 % of all" in (choice.promise or "")
    assert policies.choose(policies.make("f1"), labels, scores).promise is None


@pytest.mark.parametrize("name", policies.POLICY_NAMES)
@pytest.mark.parametrize("precision", [0.7, 1.0])
def test_a_three_way_decision_inspects_what_is_neither_safe_to_accept_nor_to_reject(name, precision):
    labels, scores = images(80)
    two_way = policies.choose(policies.make(name), labels, scores)
    choice = policies.choose(policies.make(name, reject_precision=precision), labels, scores)
    assert choice.reject_threshold is not None
    assert choice.threshold <= min(two_way.threshold, choice.reject_threshold)
    decided = decision_metrics(labels, scores, threshold=choice.threshold, reject_threshold=choice.reject_threshold)
    assert decided["precision"] >= precision
    if choice.threshold < choice.reject_threshold:
        assert decided["num_inspected"] > 0


def test_classes_that_do_not_overlap_leave_nothing_to_inspect():
    labels, scores = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.6, 0.7, 0.8])
    for recall in (1.0, 0.4):  # the second allows a miss, which is not needed
        choice = policies.choose(policies.make("recall", recall=recall, reject_precision=1.0), labels, scores)
        assert choice.threshold == choice.reject_threshold == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("f1", {"alpha": 0.1}, "--alpha=0.1: has no meaning with --policy=f1; it belongs to --policy=guarantee or"),
        ("recall", {"recall": 0.0}, "--recall=0: must be above 0, at most 1"),
        ("guarantee", {"alpha": 1.0}, "--alpha=1: must be above 0 and below 1"),
        ("cost", {"cost_ratio": -1.0}, "--cost_ratio=-1: must be above 0"),
        ("f2", {}, "--policy=f2: must be one of f1, recall"),
    ],
)
def test_parameters_of_another_policy_or_out_of_range_are_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        policies.make(name, **given)
