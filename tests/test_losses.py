"""Losses against float64 numpy."""

import jax
import numpy as np
import pytest

from jaxdefect import losses


def cross_entropy(logit: np.ndarray, target: np.ndarray) -> np.ndarray:
    # log(1 + e^x) as the textbook has it; float64 holds e^x up to x = 700
    return target * np.log1p(np.exp(-logit)) + (1 - target) * np.log1p(np.exp(logit))


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_segmentation_loss_is_the_weighted_mean_over_the_pixels_of_each_image(kind):
    rng = np.random.default_rng(0)
    logits, weight = rng.normal(0, 4, (3, 5, 7, 1)), rng.uniform(0, 3, (3, 5, 7, 1))
    mask = rng.uniform(0, 1, (3, 5, 7, 1))
    pixels = cross_entropy(logits, mask) if kind == "bce" else (1 / (1 + np.exp(-logits)) - mask) ** 2
    expected = [sum((weight * pixels)[i].ravel()) / 35 for i in range(3)]
    actual = losses.segmentation_loss(
        *(x.astype(np.float32) for x in (logits, mask)), weight=weight.astype(np.float32), kind=kind
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_decision_loss_is_cross_entropy_and_survives_extreme_logits():
    logit = np.array([-2.0, 0.5, 90.0, -90.0, 90.0], np.float32)
    target = np.array([1.0, 0.3, 1.0, 1.0, 0.0], np.float32)
    expected = cross_entropy(logit.astype(np.float64), target.astype(np.float64))
    np.testing.assert_allclose(losses.decision_loss(logit, target), expected, rtol=1e-6, atol=1e-12)
    gradient = jax.grad(lambda x: losses.decision_loss(x, target).sum())(logit)
    np.testing.assert_allclose(gradient, 1 / (1 + np.exp(-logit.astype(np.float64))) - target, atol=1e-6)
