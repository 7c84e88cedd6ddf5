"""The figures of a cross-validation: scores of all folds joined, each from the network that has not seen the image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdefect.inference.thresholds import best_f1_threshold
from jaxdefect.metrics.image import image_metrics
from jaxdefect.studies.results import Result
from jaxdefect.types import InputError

ORACLE_NOTE = "oracle: the best threshold for these very images, chosen with their labels; a bound, not a result"
DEFECT_NAMES = ("average_recall", "mean_iou")  # of those that `inference.defects.summary` gives
_DECISIONS = ("f1", "precision", "recall", "false_positives", "false_negatives")


def figures(results: Mapping[int, Result]) -> dict[str, Any]:
    """What the networks of one seed say, by fold and of all images together.

    Decisions on a fold are made with the threshold of best F1 on the out-of-fold scores of the other folds, which is
    honest: neither the network nor its threshold has seen the fold. Where those have no defective image, as with a
    single fold, the run's own threshold decides. Those of "all" are the folds' counts added up. "oracle" is the
    threshold of best F1 on the labels judged.

    Args:
      results: by fold, at least one; no image in two of them.

    Returns:
      {"all": figures, "folds": {fold: figures}}; figures as `metrics.image.image_metrics` gives them, and
      "threshold_source", "oracle" and `DEFECT_NAMES` (of "all": the mean of the folds). "threshold" of "all" is None:
    every fold has its own.

    Raises:
      InputError: an image is in two folds.
    """
    ids = [id for result in results.values() for id in result.ids]
    if len(set(ids)) < len(ids):
        raise InputError("an image is tested in two folds: the runs are not of one division into folds; start anew")
    by_fold = {}
    for fold, result in results.items():
        others = [other for number, other in results.items() if number != fold]
        by_fold[fold] = _judged(result.labels, result.scores, *_threshold(result, others))
    labels, scores = joined(list(results.values()))
    # Which threshold does not matter here: what it decides is replaced.
    together = _judged(labels, scores, 0.5, "the folds' own")
    counts = {key: sum(one[key] for one in by_fold.values()) for key in ("false_positives", "false_negatives")}
    known = [result.defects for result in results.values() if result.defects]
    of_defects = {key: spread([one.get(key) for one in known]).mean for key in DEFECT_NAMES}
    whole = {**together, **_decisions(labels, **counts), "threshold": None, **of_defects}
    return {"all": whole, "folds": {fold: {**one, **_of_defects(results[fold])} for fold, one in by_fold.items()}}


def _of_defects(result: Result) -> dict[str, float | None]:
    return {key: result.defects.get(key) for key in DEFECT_NAMES}


def joined(results: Sequence[Result]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of all results together."""
    return np.concatenate([one.labels for one in results]), np.concatenate([one.scores for one in results])


def _threshold(result: Result, others: Sequence[Result]) -> tuple[float, str]:
    """The threshold to decide by, and where it comes from."""
    if not any(other.labels.any() for other in others):
        return result.threshold, result.threshold_source
    return best_f1_threshold(*joined(others)), "other folds"


def _judged(labels: np.ndarray, scores: np.ndarray, threshold: float, source: str) -> dict[str, Any]:
    oracle = None
    if labels.any():
        best = image_metrics(labels, scores, threshold=best_f1_threshold(labels, scores))
        oracle = {"note": ORACLE_NOTE, "threshold": best["threshold"]} | {key: best[key] for key in _DECISIONS}
    return {**image_metrics(labels, scores, threshold=threshold), "threshold_source": source, "oracle": oracle}


def _decisions(labels: np.ndarray, *, false_positives: int, false_negatives: int) -> dict[str, Any]:
    """F1, precision and recall from counts; None where undefined."""
    num_defective = int(labels.sum())
    found = num_defective - false_negatives
    called = found + false_positives
    return {
        "f1": 2 * found / (called + num_defective) if called + num_defective else None,
        "precision": found / called if called else None,
        "recall": found / num_defective if num_defective else None,
        "false_positives": false_positives,
        "false_negatives": false_negatives,
    }


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over repeated runs: its values, their mean, and their standard deviation (None below two values)."""

    values: tuple[float, ...]
    mean: float | None
    std: float | None


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and sample standard deviation of what is defined among `values`."""
    known = tuple(float(value) for value in values if value is not None)
    mean = float(np.mean(known)) if known else None
    return Spread(known, mean, float(np.std(known, ddof=1)) if len(known) > 1 else None)


NAMES = (
    "average_precision",
    "mean_fold_average_precision",
    "roc_auc",
    "f1",
    "false_positives",
    "false_negatives",
    "false_positives_at_full_recall",
    "oracle_f1",
    "oracle_false_positives",
    "oracle_false_negatives",
    *DEFECT_NAMES,
)


def row(of_seed: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of one seed (as `figures` gives them) as one flat row of `NAMES`.

    "mean_fold_average_precision" is the mean of the folds' own, which papers report: unlike that of the joined scores
    it does not ask the networks of different folds to agree on what a score means.
    """
    whole = of_seed["all"]
    of_folds = [one["average_precision"] for one in of_seed["folds"].values()]
    values = {name: whole[name] for name in NAMES if name in whole}
    values["mean_fold_average_precision"] = None if None in of_folds else float(np.mean(of_folds))
    oracle = whole["oracle"] or {}
    return values | {f"oracle_{key}": oracle.get(key) for key in ("f1", "false_positives", "false_negatives")}


def summary(of_seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Spread]:
    """Every figure of `NAMES` over the seeds."""
    rows = [row(one) for one in of_seeds.values()]
    return {name: spread([one[name] for one in rows]) for name in NAMES}
