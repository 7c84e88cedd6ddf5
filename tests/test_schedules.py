"""Schedules against the papers' equations, evaluated inside a compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import schedules
from jaxdefect.config import LossConfig, OptimizerConfig


def weights_over(balance: schedules.Balance, differences: np.ndarray) -> np.ndarray:
    """The two weights before each step [steps, 2], the balance fed with the steps' loss differences."""

    def step(carry, at):
        number, difference = at
        return balance.update(carry, number, difference), jnp.stack(balance.weights(carry, number))

    steps = jnp.arange(len(differences))
    return np.asarray(jax.jit(lambda d: jax.lax.scan(step, balance.init(), (steps, d))[1])(jnp.float32(differences)))


def test_linear_balance_falls_by_one_part_in_n_per_epoch():
    config = LossConfig(balance="linear", decision_weight=0.1)
    weights = weights_over(schedules.balance(config, steps_per_epoch=3, num_epochs=50), np.zeros(150))
    share = 1 - np.repeat(np.arange(50), 3) / 50
    np.testing.assert_allclose(weights, np.stack([share, 0.1 * (1 - share)], axis=1), atol=1e-6)


def test_decay_balance_is_the_papers():
    config = LossConfig(balance="decay", decay_rate=0.01, decision_weight=0.1)
    weights = weights_over(schedules.balance(config, steps_per_epoch=2, num_epochs=90), np.zeros(182))
    np.testing.assert_allclose(weights[:, 0], np.repeat(0.99 ** np.arange(91), 2), rtol=1e-5)
    np.testing.assert_allclose(weights[:, 1], 0.1 * (1 - weights[:, 0]), atol=1e-6)
    assert weights[180, 0] == pytest.approx(0.4047, abs=5e-5)  # after 90 epochs
    # 1/41 is not exact in float32: the first step of an epoch must not lag behind
    weights = weights_over(schedules.balance(config, steps_per_epoch=41, num_epochs=9), np.zeros(9 * 41))
    np.testing.assert_allclose(weights[:, 0], np.repeat(0.99 ** np.arange(9), 41), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_feedback_balance_listens_to_the_mean_difference_of_each_epoch(scale):
    config = LossConfig(balance="decay", decay_rate=0.02, decay_feedback=0.2, decision_weight=0.5)
    differences = np.random.default_rng(0).normal(0, scale, (20, 4))
    theta, expected = 1.0, []
    for epoch in differences:
        expected += [theta] * 4
        theta = min(1.0, max(0.0, (1 - 0.02) * theta - 0.2 * sum(epoch) / 4))
    if scale > 1:
        assert {0.0, 1.0} <= set(expected)  # clipped at both ends
    weights = weights_over(schedules.balance(config, steps_per_epoch=4, num_epochs=20), differences.ravel())
    np.testing.assert_allclose(weights, np.stack([expected, 0.5 * (1 - np.array(expected))], axis=1), atol=1e-5)


def test_without_balance_both_weights_are_constant():
    balance = schedules.balance(LossConfig(balance="none", decision_weight=0.3), steps_per_epoch=2, num_epochs=3)
    np.testing.assert_allclose(weights_over(balance, np.ones(6)), np.tile([1.0, 0.3], (6, 1)))


def test_learning_rate_warms_up_and_ends_at_zero():
    config = OptimizerConfig(learning_rate=0.2, schedule="cosine", warmup_steps=4)
    rates = jax.jit(jax.vmap(schedules.learning_rate(config, num_steps=24)))(jnp.arange(25))
    expected = np.concatenate([0.2 * np.arange(1, 5) / 5, 0.1 * (1 + np.cos(np.pi * np.arange(21) / 20))])
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    constant = schedules.learning_rate(OptimizerConfig(learning_rate=0.2), num_steps=24)
    np.testing.assert_allclose([jax.jit(constant)(step) for step in (0, 23)], 0.2)
