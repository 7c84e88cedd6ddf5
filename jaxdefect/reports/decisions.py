"""The decision table: what the thresholds of every policy, chosen on the calibration images, do to those evaluated."""

import dataclasses
from typing import Any

import numpy as np

from jaxdefect.inference import policies
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.choosing import Wish, decide
from jaxdefect.inference.evaluation import Evaluation
from jaxdefect.inference.policies import Policy
from jaxdefect.metrics.image import decision_metrics
from jaxdefect.metrics.reliability import reliability
from jaxdefect.types import InputError

# Shown beside the one in use; those of its kind stand in for it.
_SHOWN = (
    policies.make("f1"),
    policies.make("recall"),
    policies.make("cost"),
    policies.make("guarantee"),
    policies.make("conformal"),
    policies.make("recall", recall=1.0, reject_precision=1.0),
)
NOTE = (
    "Thresholds chosen on the calibration images, decisions on the images evaluated. Oracle: the same policy with the "
    "labels of these very images; a bound, not a result (of a promised miss rate: the most that keeps it here)."
)


def calibration_metrics(evaluation: Evaluation, calibration: Calibration) -> dict[str, Any]:
    """What metrics.json says of the calibration and of the decisions of every policy.

    `num_calibration_images`: how many of the images evaluated the thresholds were chosen on.
    """
    labels, raw = evaluation.labels, evaluation.raw_scores
    chosen_on = () if calibration.images is None else calibration.images.ids
    return {
        "policy": str(calibration.policy),
        "reject_threshold": calibration.reject_threshold,
        "promise": calibration.promise,
        "calibration_notes": list(calibration.notes),
        "num_calibration_images": len(set(chosen_on) & set(evaluation.ids)),
        "expected_calibration_error": reliability(labels, evaluation.scores).error,
        "expected_calibration_error_raw": None if raw is None else reliability(labels, raw).error,
        "decisions": decision_rows(calibration, labels, evaluation.scores),
    }


def decision_rows(calibration: Calibration, labels: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """A row for the policy in use and for every other one, ready for JSON.

    Args:
      calibration: in use; without its images there is only its own row.
      labels: [N] of the images evaluated.
      scores: [N], as the calibration's thresholds are meant for.

    Returns:
      policy (in words), parameters, is_in_use, threshold, reject_threshold, why_not (None, or why the policy has no
      threshold), figures as `metrics.image.decision_metrics` gives them (None without a threshold), and oracle: the
      same of thresholds chosen on the images evaluated, None without a defective one.
    """
    rows = [
        _row(
            calibration.policy,
            calibration.threshold,
            calibration.reject_threshold,
            labels=labels,
            scores=scores,
            is_in_use=True,
        )
    ]
    if calibration.images is None:
        return rows
    # Theirs are kept raw: mapped as in use, whatever policy is looked at.
    mapped = tuple(calibration.calibrated(score) for score in calibration.images.scores)
    images = dataclasses.replace(calibration.images, scores=mapped)
    for policy in _SHOWN:
        if policy == calibration.policy:
            continue
        why_not, chosen = None, (None, None)
        try:
            choice, _ = decide(images, Wish(policy), source=calibration.source, num_trained=calibration.num_trained)
            chosen = choice.threshold, choice.reject_threshold
        except InputError as error:
            why_not = str(error).removeprefix(f"{calibration.source}: ")
        rows.append(_row(policy, *chosen, labels=labels, scores=scores, why_not=why_not))
    return rows


def _row(
    policy: Policy,
    threshold: float | None,
    reject_threshold: float | None,
    *,
    labels: np.ndarray,
    scores: np.ndarray,
    is_in_use: bool = False,
    why_not: str | None = None,
) -> dict[str, Any]:
    figures = None
    if threshold is not None:
        figures = decision_metrics(labels, scores, threshold=threshold, reject_threshold=reject_threshold)
    return {
        "policy": str(policy),
        "parameters": policies.to_json(policy),
        "is_in_use": is_in_use,
        "threshold": threshold,
        "reject_threshold": reject_threshold,
        "why_not": why_not,
        "figures": figures,
        "oracle": _oracle(policy, labels, scores),
    }


def _oracle(policy: Policy, labels: np.ndarray, scores: np.ndarray) -> dict[str, Any] | None:
    if not labels.any():
        return None
    if policy.promises:
        assert policy.alpha is not None
        policy = Policy("recall", recall=1 - policy.alpha, reject_precision=policy.reject_precision)
    choice = policies.choose(policy, labels, scores)
    thresholds = {"threshold": choice.threshold, "reject_threshold": choice.reject_threshold}
    return thresholds | decision_metrics(labels, scores, **thresholds)
