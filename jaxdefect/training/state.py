"""The training state, the optimiser, and the stages of a training: what is trained when, with which loss weights."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from jaxdefect import models, schedules
from jaxdefect.config import Config, OptimizerConfig
from jaxdefect.models import pretrained
from jaxdefect.types import InputError

Params = dict[str, Any]


class TrainState(NamedTuple):
    """All that a step reads and writes; a pytree, donated to the step.

    `stage_step` counts from the start of the stage. `ema_params` is None without averaging.
    """

    stage_step: jax.Array
    params: Params
    batch_stats: Params
    optimizer: optax.OptState
    balance: schedules.Feedback | tuple[()]
    ema_params: Params | None


class Stage(NamedTuple):
    """A stretch of training: steps [start, end) of the run, the parameters trained in it, the weights of the losses."""

    name: str
    start: int
    end: int
    trainable: str  # a regular expression that a parameter's whole path must match
    balance: schedules.Balance
    trains_decision: bool = True


def stages(config: Config, *, steps_per_epoch: int) -> tuple[Stage, ...]:
    """Joint training is one stage; two-stage training is segmentation, then decision on the frozen segmentation."""
    num_epochs = config.training.epochs
    num_steps = num_epochs * steps_per_epoch
    if config.training.stages == "joint":
        balance = schedules.balance(config.loss, steps_per_epoch=steps_per_epoch, num_epochs=num_epochs)
        return (Stage("joint", 0, num_steps, ".*", balance),)
    return (
        Stage(
            "segmentation",
            0,
            num_steps,
            "segmentation/.*",
            schedules.fixed_balance(1.0, 0.0),
            trains_decision=False,
        ),
        Stage(
            "decision",
            num_steps,
            2 * num_steps,
            "decision/.*",
            schedules.fixed_balance(0.0, config.loss.decision_weight),
        ),
    )


def optimizer(config: OptimizerConfig, *, num_steps: int) -> optax.GradientTransformation:
    """Gradient clipping, then the optimiser that the config names, over a stage of `num_steps` steps."""
    rate = schedules.learning_rate(config, num_steps=num_steps)
    core = {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=config.momentum),
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=config.weight_decay),
    }[config.name]()
    if not config.gradient_clip:
        return core
    return optax.chain(optax.clip_by_global_norm(config.gradient_clip), core)


def split_params(params: Params, pattern: str) -> tuple[Params, Params]:
    """Parameters whose path ("segmentation/conv1/kernel") matches `pattern` whole, and the rest; both flat dicts.

    Raises:
      InputError: nothing matches.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    trained = {path: value for path, value in flat.items() if re.fullmatch(pattern, path)}
    if not trained:
        raise InputError(f"no parameter matches {pattern!r}; the paths are: {', '.join(flat)}")
    return trained, {path: value for path, value in flat.items() if path not in trained}


def merge_params(first: Params, second: Params) -> Params:
    """Undoes `split_params`."""
    return traverse_util.unflatten_dict({**first, **second}, sep="/")


def initial_state(module: nn.Module, config: Config, stage: Stage, *, images: np.ndarray | None = None) -> TrainState:
    """The state at the start of `stage`, with initial variables.

    Args:
      module: the model.
      config: of the run.
      stage: to start.
      images: some training images [B, H, W, C]: start from the pretrained weights that the config names, if any. None:
        the state is only a template to restore to.

    Raises:
      InputError: the file of pretrained weights is missing or does not fit.
    """
    variables = models.init(module, num_channels=config.data.num_channels, seed=config.training.seed)
    if images is not None:
        variables = pretrained.load_pretrained(config.model, variables)
        variables = pretrained.unfold_norms(module, variables, jnp.asarray(images))
    params = variables["params"]
    ema_params = _copy(params) if config.training.ema_decay else None
    return _at_start(stage, config, params, variables.get("batch_stats", {}), ema_params)


def next_stage(state: TrainState, config: Config, stage: Stage) -> TrainState:
    """The state at the start of `stage`: a new optimiser, and what is frozen from now on at its averaged weights.

    So the decision network is trained on the segmentation that it will meet in evaluation.
    """
    params, ema_params = state.params, None
    if state.ema_params is not None:
        params, ema_params = state.ema_params, _copy(state.ema_params)
    return _at_start(stage, config, params, state.batch_stats, ema_params)


def _at_start(
    stage: Stage, config: Config, params: Params, batch_stats: Params, ema_params: Params | None
) -> TrainState:
    trained, _ = split_params(params, stage.trainable)
    return TrainState(
        stage_step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        optimizer=_optimizer_init(config.optimizer, stage.end - stage.start)(trained),
        balance=stage.balance.init(),
        ema_params=ema_params,
    )


# Compiled, as each shape among a network's weights would else be a program of its own.
@functools.lru_cache(maxsize=8)
def _optimizer_init(config: OptimizerConfig, num_steps: int) -> Callable[[Params], optax.OptState]:
    return jax.jit(optimizer(config, num_steps=num_steps).init)


@jax.jit
def _copy(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """The variables that validation, evaluation and prediction use: averaged ones where there are any."""
    params = state.params if state.ema_params is None else state.ema_params
    return {"params": params, "batch_stats": state.batch_stats} if state.batch_stats else {"params": params}
