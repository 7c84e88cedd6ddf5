"""The logistic regression on a map's maximum and mean."""

import numpy as np
import pytest
from scipy import optimize

from jaxdefect.inference import logistic
from jaxdefect.types import InputError


def make_maps() -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    maps = []
    for i in range(40):
        label = i % 2
        values = rng.uniform(0, 0.3, (8, 8)).astype(np.float32)
        values[2:4, 2:4] += label * rng.uniform(0, 0.5)
        maps.append((values, label))
    return maps


def test_the_fit_minimises_the_penalised_likelihood_of_scaled_features():
    maps = make_maps()
    features = np.array([[values.max(), values.mean(dtype=np.float64)] for values, _ in maps], np.float64)
    labels = np.array([label for _, label in maps])
    scaled = (features - features.mean(0)) / features.std(0)

    def loss(parameters: np.ndarray) -> float:
        logits = scaled @ parameters[:2] + parameters[2]
        return np.sum(np.logaddexp(0, logits) - labels * logits) + 0.5 * parameters[:2] @ parameters[:2]

    best = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    expected = 1 / (1 + np.exp(-(scaled @ best[:2] + best[2])))
    weights = logistic.fit(maps)
    np.testing.assert_allclose([logistic.score(values, weights) for values, _ in maps], expected, atol=1e-3)


def test_one_class_cannot_be_fitted():
    with pytest.raises(InputError, match="all of one class"):
        logistic.fit([(np.zeros((2, 2), np.float32), 0)] * 3)
