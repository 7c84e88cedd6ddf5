"""Logistic regression on a map's maximum and mean, the decision that the decision network is compared with.

Tabernik 2019 compares the two-stage network with it.
"""

from collections.abc import Iterable

import numpy as np
from scipy import special

from jaxdefect.types import InputError

Weights = tuple[float, float, float]  # of the maximum, of the mean, bias


def features(probability: np.ndarray) -> tuple[float, float]:
    """Maximum and mean of a map [h, w]."""
    return float(probability.max()), float(probability.mean(dtype=np.float64))


def fit(maps: Iterable[tuple[np.ndarray, int]]) -> Weights:
    """Fits the regression on (map [h, w], label) pairs, the two features scaled to unit variance for its L2 penalty.

    Raises:
      InputError: labels of one class only.
    """
    from sklearn.linear_model import LogisticRegression  # not above: it takes 0.8 s of a start, and may not be needed
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = [], []
    for probability, label in maps:
        rows.append(features(probability))
        labels.append(label)
    if len(set(labels)) < 2:
        raise InputError(
            "config.inference.decision = 'logistic': the training images are all of one class, so there is no decision "
            "to fit"
        )
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    scaler, regression = pipeline.steps[0][1], pipeline.steps[1][1]
    weights = regression.coef_[0] / scaler.scale_
    bias = regression.intercept_[0] - weights @ scaler.mean_
    return float(weights[0]), float(weights[1]), float(bias)


def score(probability: np.ndarray, weights: Weights) -> float:
    """The image's score in [0, 1]."""
    return score_of(*features(probability), weights)


def score_of(maximum: float, mean: float, weights: Weights) -> float:
    """The score in [0, 1] of an image whose map has this maximum and mean."""
    return float(special.expit(weights[0] * maximum + weights[1] * mean + weights[2]))
