"""Losses against float64 numpy."""

import jax
import numpy as np
import pytest

from jaxdefect import losses
from jaxdefect.config import LossConfig


def cross_entropy(logit: np.ndarray, target: np.ndarray) -> np.ndarray:
    # log(1 + e^x) as the textbook has it; float64 holds e^x up to x = 700
    return target * np.log1p(np.exp(-logit)) + (1 - target) * np.log1p(np.exp(logit))


@pytest.mark.parametrize("kind", ["bce", "mse", "l2"])
@pytest.mark.parametrize(("num_maps", "positive_weight"), [(1, 1.0), (3, 4.0)])
def test_segmentation_loss_is_the_weighted_mean_over_the_pixels_of_each_image(kind, num_maps, positive_weight):
    rng = np.random.default_rng(0)
    logits, weight = rng.normal(0, 4, (3, 5, 7, num_maps)), rng.uniform(0, 3, (3, 5, 7, 1))
    mask = rng.uniform(0, 1, (3, 5, 7, 1))
    factor = 1 + (positive_weight - 1) * mask * np.log1p(np.exp(-logits)) / cross_entropy(logits, mask)
    pixels = {
        "bce": cross_entropy(logits, mask) * factor,
        "mse": (1 / (1 + np.exp(-logits)) - mask) ** 2,
        "l2": (logits - mask) ** 2,
    }[kind]
    expected = [sum((weight * pixels)[i].ravel()) / 35 for i in range(3)]
    config = LossConfig(segmentation=kind, positive_weight=positive_weight)
    actual = losses.segmentation_loss(
        *(x.astype(np.float32) for x in (logits, mask)), weight=weight.astype(np.float32), config=config
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_decision_loss_is_cross_entropy_and_survives_extreme_logits():
    logit = np.array([-2.0, 0.5, 90.0, -90.0, 90.0], np.float32)
    target = np.array([1.0, 0.3, 1.0, 1.0, 0.0], np.float32)
    expected = cross_entropy(logit.astype(np.float64), target.astype(np.float64))
    np.testing.assert_allclose(losses.decision_loss(logit, target), expected, rtol=1e-6, atol=1e-12)
    gradient = jax.grad(lambda x: losses.decision_loss(x, target).sum())(logit)
    np.testing.assert_allclose(gradient, 1 / (1 + np.exp(-logit.astype(np.float64))) - target, atol=1e-6)


def test_class_loss_is_minus_the_log_of_the_right_class():
    logits = np.array([[1.0, 2.0, 0.0], [80.0, 0.0, -5.0]])
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[[0, 1], [2, 1]]
    actual = losses.class_loss(logits.astype(np.float32), np.array([2, 1]))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
