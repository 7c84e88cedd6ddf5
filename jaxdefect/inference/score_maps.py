"""Scores that are probabilities: a growing map of [0, 1] onto itself, fitted on labelled scores."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import special

from jaxdefect.types import InputError

Method = Literal["platt", "isotonic"]

_LOWEST, _HIGHEST = 1e-300, 1 - 2.0**-53  # scores beyond have no finite logit
# Share of the score itself in an isotonic map, whose steps would else tie scores that differ.
_SLOPE = 1e-3
_NUM_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Platt:
    """sigmoid(slope * logit(score) + intercept), slope > 0."""

    slope: float
    intercept: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """[...] in [0, 1] to the same, float64."""
        return special.expit(self.slope * _logit(scores) + self.intercept)


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """Piecewise linear through (scores, shares), both growing, plus a thousandth of the score itself."""

    scores: tuple[float, ...]
    shares: tuple[float, ...]

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """[...] in [0, 1] to the same, float64."""
        scores = np.asarray(scores, np.float64)
        return (1 - _SLOPE) * np.interp(scores, self.scores, self.shares) + _SLOPE * scores


ScoreMap = Platt | Isotonic


def fit(method: Method, labels: np.ndarray, scores: np.ndarray) -> ScoreMap:
    """Fits a map on which a score is the share of defective images that have it.

    "platt": logistic regression on the score's logit, without penalty, on Platt's smoothed targets, which keep it
    finite where the classes do not overlap. "isotonic": the growing step function of least squares. Both keep the
    order of scores, so a threshold chosen before decides the same after.

    Args:
      method: which.
      labels: [N] of 0 and 1, both present.
      scores: [N] in [0, 1].

    Raises:
      InputError: labels of one class only, or scores that do not grow with the share of defective images.

    References:
      Platt, 1999, Probabilistic outputs for support vector machines; Zadrozny and Elkan, 2002.
    """
    labels, scores = np.asarray(labels, int), np.asarray(scores, np.float64)
    num_defective = int(labels.sum())
    num_good = len(labels) - num_defective
    if not num_defective or not num_good:
        raise InputError(
            f"--scores={method}: needs defective and good images, and here are {num_defective} and {num_good}; "
            "use --scores=none"
        )
    if method == "isotonic":
        return _fit_isotonic(labels, scores)
    from sklearn.linear_model import LogisticRegression  # not above: it takes 0.8 s of a start, and may not be needed

    targets = np.where(labels == 1, (num_defective + 1) / (num_defective + 2), 1 / (num_good + 2))
    logits = _logit(scores)[:, None]
    scale = max(float(logits.std()), 1e-9)  # of the order of 1 is what the solver likes
    regression = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8)
    # A target between 0 and 1 is an image of either class, weighted.
    regression.fit(
        np.concatenate([logits, logits]) / scale,
        np.repeat([1, 0], len(labels)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope, intercept = regression.coef_.item() / scale, np.asarray(regression.intercept_).item()
    if slope <= 0:
        raise _not_growing("platt")
    return Platt(slope, intercept)


def _not_growing(method: Method) -> InputError:
    return InputError(
        f"--scores={method}: on these images the share of defective ones does not grow with the score, so no score "
        "calibration can help; use --scores=none and look at the evaluation's report"
    )


def _fit_isotonic(labels: np.ndarray, scores: np.ndarray) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression  # not above, as in `fit`

    regression = IsotonicRegression(y_min=0, y_max=1, increasing=True).fit(scores, labels)
    if np.ptp(regression.y_thresholds_) == 0:
        raise _not_growing("isotonic")
    return Isotonic(tuple(regression.X_thresholds_.tolist()), tuple(regression.y_thresholds_.tolist()))


def cross_validated(
    method: Method, labels: np.ndarray, scores: np.ndarray, *, groups: Sequence[str]
) -> np.ndarray | None:
    """Every score mapped by a fit that has not seen its image, nor another one of its group; [N].

    None where there are too few groups of either class for that, or a part of them to which no map fits.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # not above, as in `fit`

    labels, scores = np.asarray(labels, int), np.asarray(scores, np.float64)
    names = np.asarray(groups)
    num_folds = min(_NUM_FOLDS, *(len(set(names[labels == label])) for label in (0, 1)))
    if num_folds < 2:
        return None
    mapped = np.empty(len(scores))
    for train, test in StratifiedGroupKFold(num_folds).split(scores, labels, names):
        if len(set(labels[train])) < 2:
            return None
        try:
            mapped[test] = fit(method, labels[train], scores[train])(scores[test])
        except InputError:  # the scores of this part do not grow with the share of defective images
            return None
    return mapped


def method_of(score_map: ScoreMap) -> Method:
    """The method that fitted it."""
    return "platt" if isinstance(score_map, Platt) else "isotonic"


def to_json(score_map: ScoreMap) -> dict[str, Any]:
    """The map as plain numbers, with its method."""
    return {"method": method_of(score_map), **dataclasses.asdict(score_map)}


def from_json(values: dict[str, Any]) -> ScoreMap:
    """The map that `to_json` wrote.

    Raises:
      ValueError, KeyError, TypeError: it is none.
    """
    if values["method"] == "platt":
        score_map = Platt(float(values["slope"]), float(values["intercept"]))
        if not (np.isfinite([score_map.slope, score_map.intercept]).all() and score_map.slope > 0):
            raise ValueError(f"scores.slope = {score_map.slope}, scores.intercept = {score_map.intercept}")
        return score_map
    if values["method"] != "isotonic":
        raise ValueError(f"scores.method = {values['method']!r} is neither 'platt' nor 'isotonic'")
    x, y = tuple(map(float, values["scores"])), tuple(map(float, values["shares"]))
    is_growing = len(x) == len(y) > 0 and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
    if not is_growing or not all(0 <= value <= 1 for value in (*x, *y)):
        raise ValueError("scores.scores and scores.shares are not two growing lists of one length, within [0, 1]")
    return Isotonic(x, y)


def _logit(scores: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(np.asarray(scores, np.float64), _LOWEST, _HIGHEST))
