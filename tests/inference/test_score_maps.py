"""Score calibration against its likelihood minimised elsewhere, and honest when judged by cross-validation."""

import json

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.isotonic import isotonic_regression

from jaxdefect.inference import score_maps
from jaxdefect.metrics.reliability import reliability
from jaxdefect.types import InputError


def overconfident(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores whose logits are three times too far out and shifted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, num_images)
    labels = (rng.random(num_images) < special.expit(logits)).astype(int)
    return labels, special.expit(3 * logits - 2)


def test_platt_minimises_the_likelihood_of_the_smoothed_targets():
    labels, scores = overconfident(60)
    num_defective, num_good = labels.sum(), (1 - labels).sum()
    targets = np.where(labels, (num_defective + 1) / (num_defective + 2), 1 / (num_good + 2))

    def loss(parameters):
        logits = parameters[0] * special.logit(scores) + parameters[1]
        return np.sum(np.logaddexp(0, logits) - targets * logits)

    expected = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    platt = score_maps.fit("platt", labels, scores)
    assert isinstance(platt, score_maps.Platt)
    np.testing.assert_allclose([platt.slope, platt.intercept], expected, rtol=1e-3)


def test_platt_stays_finite_for_separated_and_saturated_scores():
    labels = np.repeat([0, 1], 20)
    platt = score_maps.fit("platt", labels, np.repeat([0.0, 1.0], 20))
    np.testing.assert_allclose(platt(np.array([0.0, 1.0])), [1 / 22, 21 / 22], rtol=1e-3)
    mapped = score_maps.fit("platt", labels, np.linspace(0, 1, 40))(np.linspace(0, 1, 101))
    assert np.isfinite(mapped).all()
    assert (np.diff(mapped) > 0).all()


def test_isotonic_is_the_least_squares_step_function_but_never_ties_what_differed():
    labels, scores = overconfident(200)
    isotonic = score_maps.fit("isotonic", labels, scores)
    order = np.argsort(scores)
    expected = isotonic_regression(labels[order].astype(float))
    np.testing.assert_allclose(isotonic(scores[order]), expected, atol=1.1e-3)
    assert (np.diff(isotonic(np.unique(scores))) > 0).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_scores_are_probabilities_on_new_images(method):
    labels, scores = overconfident(2000)
    score_map = score_maps.fit(method, labels, scores)
    new_labels, new_scores = overconfident(20_000, seed=1)
    assert reliability(new_labels, new_scores).error > 0.15
    assert reliability(new_labels, score_map(new_scores)).error < 0.03
    assert score_maps.from_json(json.loads(json.dumps(score_maps.to_json(score_map)))) == score_map


def test_cross_validation_tells_learning_from_learning_by_heart():
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(100), 4)  # images of one item are alike, and here the labels say nothing
    labels = np.repeat(rng.integers(0, 2, 100), 4)
    scores = np.repeat(rng.random(100), 4) + 1e-6 * rng.random(400)
    seen = reliability(labels, score_maps.fit("isotonic", labels, scores)(scores)).error
    unseen = score_maps.cross_validated("isotonic", labels, scores, groups=[str(item) for item in items])
    assert unseen is not None
    assert seen < 0.01
    assert reliability(labels, unseen).error > 3 * seen
    assert score_maps.cross_validated("platt", labels, scores, groups=["one"] * 400) is None


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(InputError, match="needs defective and good images, and here are 3 and 0"):
        score_maps.fit("platt", np.array([1, 1, 1]), np.array([0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="does not grow with the score"):
        score_maps.fit("platt", np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.7, 0.9]))
