"""Schedules over optimiser steps: the learning rate, and the balance of segmentation and decision loss."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdefect.config import LossConfig, OptimizerConfig

Weights = tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]  # of the segmentation loss, of the decision loss


class Feedback(NamedTuple):
    """What the balance carries from step to step when it listens to the losses: theta and this epoch's mean so far."""

    theta: jax.Array
    total: jax.Array
    count: jax.Array


class Balance(NamedTuple):
    """Loss weights by step. `init() -> carry`, `weights(carry, step)`, `update(carry, step, difference) -> carry`."""

    init: Callable[[], Feedback | tuple[()]]
    weights: Callable[[Feedback | tuple[()], jax.Array], Weights]
    update: Callable[[Feedback | tuple[()], jax.Array, jax.Array], Feedback | tuple[()]]


def learning_rate(config: OptimizerConfig, *, num_steps: int) -> optax.Schedule:
    """The learning rate over `num_steps` steps: linear warm-up, then constant or a cosine down to 0."""
    after = max(1, num_steps - config.warmup_steps)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.learning_rate, after)
    else:
        main = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(
        config.learning_rate / (config.warmup_steps + 1), config.learning_rate, config.warmup_steps
    )
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def linear_balance(*, steps_per_epoch: int, num_epochs: int) -> optax.Schedule:
    """lambda = 1 - n/N in epoch n of N, a staircase over steps (Božič 2021, eq. 4)."""
    ramp = optax.linear_schedule(1.0, 0.0, num_epochs)
    return lambda step: ramp(jnp.asarray(step) // steps_per_epoch)


def decay_balance(*, steps_per_epoch: int, rate: float | jax.Array) -> optax.Schedule:
    """theta_n = (1 - rate)^n in epoch n, a staircase over steps (Bi 2022, eq. 5 without its gradient term)."""
    # Not optax.exponential_decay: its staircase divides in float32 and lags at the start of some epochs, and it takes
    # no traced rate, as stacked runs have.
    return lambda step: jnp.power(1.0 - jnp.float32(rate), jnp.asarray(step) // steps_per_epoch)


def balance(config: LossConfig, *, steps_per_epoch: int, num_epochs: int) -> Balance:
    """The balance that the config asks for; `config.decision_weight` (delta) is part of the decision's weight."""
    delta = config.decision_weight
    if config.balance == "decay" and config.decay_feedback:
        return _feedback_balance(config, steps_per_epoch=steps_per_epoch)
    if config.balance == "linear":
        share = linear_balance(steps_per_epoch=steps_per_epoch, num_epochs=num_epochs)
    elif config.balance == "decay":
        share = decay_balance(steps_per_epoch=steps_per_epoch, rate=config.decay_rate)
    else:
        return fixed_balance(1.0, delta)

    def weights(_: Feedback | tuple[()], step: jax.Array) -> Weights:
        value = jnp.asarray(share(step))
        return value, delta * (1.0 - value)

    return Balance(tuple, weights, lambda carry, step, difference: carry)


def fixed_balance(segmentation: float, decision: float) -> Balance:
    """Constant weights."""
    return Balance(tuple, lambda carry, step: (segmentation, decision), lambda carry, step, difference: carry)


def _feedback_balance(config: LossConfig, *, steps_per_epoch: int) -> Balance:
    """theta_n = clip((1 - beta) theta_(n-1) - alpha g_n, 0, 1), g_n the mean difference in epoch n (Bi 2022, eq. 5)."""

    def init() -> Feedback:
        return Feedback(jnp.ones(()), jnp.zeros(()), jnp.zeros(()))

    def weights(carry: Feedback | tuple[()], step: jax.Array) -> Weights:
        assert isinstance(carry, Feedback)
        return carry.theta, config.decision_weight * (1.0 - carry.theta)

    def update(carry: Feedback | tuple[()], step: jax.Array, difference: jax.Array) -> Feedback:
        assert isinstance(carry, Feedback)
        total, count = carry.total + difference, carry.count + 1
        theta = (1.0 - config.decay_rate) * carry.theta - config.decay_feedback * total / count
        at_end = Feedback(jnp.clip(theta, 0.0, 1.0), jnp.zeros(()), jnp.zeros(()))
        is_end = (step + 1) % steps_per_epoch == 0
        return jax.tree.map(lambda new, old: jnp.where(is_end, new, old), at_end, Feedback(carry.theta, total, count))

    return Balance(init, weights, update)
