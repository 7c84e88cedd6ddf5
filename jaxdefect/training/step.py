"""The compiled training step. It knows a model, a stage and a loss, not a paper."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect import losses, models, schedules
from jaxdefect.config import Config, LossConfig
from jaxdefect.models import precision
from jaxdefect.training.state import Stage, TrainState, merge_params, optimizer, split_params

Arrays = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Arrays], tuple[TrainState, Metrics]]
_Tree = TypeVar("_Tree")


def device_mesh(batch_size: int, *, num_devices: int | None = None) -> Mesh:
    """One axis, "data", over `num_devices` local devices, by default as many as divide the batch evenly."""
    devices = jax.local_devices()
    count = num_devices or max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(devices[:count], ("data",))


def place(batch: Mapping[str, Any], mesh: Mesh) -> Arrays:
    """Sends a batch's numbers to the devices, parted along the batch axis; ids stay behind."""
    numbers = {key: value for key, value in batch.items() if key != "id"}
    return jax.device_put(numbers, NamedSharding(mesh, PartitionSpec("data")))


def replicate(tree: _Tree, mesh: Mesh) -> _Tree:
    """A state, or variables, on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def loss_terms(outputs: Mapping[str, jax.Array], batch: Arrays, *, config: LossConfig) -> Metrics:
    """The loss of every image, [B] each, for each output of the model that the batch has a target for.

    "segmentation_loss" (0 for images without pixel labels), "decision_loss" and "class_loss".
    """
    terms = {}
    if "segmentation" in outputs:
        values = losses.segmentation_loss(outputs["segmentation"], batch["mask"], weight=batch["weight"], config=config)
        terms["segmentation_loss"] = batch["has_mask"] * values
    if "decision" in outputs:
        target = batch["label"]
        if config.decision_target == "mask_max":
            target = jnp.where(batch["has_mask"] > 0, jnp.max(batch["mask"], axis=(1, 2, 3)), target)
        terms["decision_loss"] = losses.decision_loss(outputs["decision"], target)
    if "classes" in outputs:
        terms["class_loss"] = losses.class_loss(outputs["classes"], batch["class_id"])
    return terms


def total_loss(
    outputs: Mapping[str, jax.Array], batch: Arrays, *, config: LossConfig, weights: schedules.Weights
) -> tuple[jax.Array, Metrics]:
    """w_seg * reduce(has_mask * L_seg) + w_dec * reduce(L_dec) + reduce(L_class), and its parts, unweighted."""
    terms = loss_terms(outputs, batch, config=config)
    factors = {"segmentation_loss": weights[0], "decision_loss": weights[1], "class_loss": 1.0}
    reduce = jnp.sum if config.reduction == "sum" else jnp.mean
    loss = sum((jnp.asarray(factors[name]) * reduce(values) for name, values in terms.items()), jnp.zeros(()))
    parts = {name: jnp.mean(values) for name, values in terms.items()}
    if "segmentation_loss" in terms:  # over the images that have masks
        num_masks = jnp.maximum(jnp.sum(batch["has_mask"]), 1.0)
        parts["segmentation_loss"] = jnp.sum(terms["segmentation_loss"]) / num_masks
    return loss, parts


def make_step(module: nn.Module, config: Config, stage: Stage, *, mesh: Mesh | None = None) -> Step:
    """Compiles (state, batch) -> (state, metrics) for one stage; the state is donated.

    The batch holds image, mask, weight, label, has_mask (see `jaxdefect.types.Batch`). Metrics are scalars: loss, its
    unweighted parts (`loss_terms`), the two weights, learning_rate, gradient_norm.
    """
    step = step_function(module, config, stage)
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    replicated, parted = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    return jax.jit(step, donate_argnums=0, in_shardings=(replicated, parted), out_shardings=replicated)


def step_function(module: nn.Module, config: Config, stage: Stage) -> Step:
    """The step that `make_step` compiles, as a pure function."""
    transform = optimizer(config.optimizer, num_steps=stage.end - stage.start)
    rate = schedules.learning_rate(config.optimizer, num_steps=stage.end - stage.start)

    def step(state: TrainState, batch: Arrays) -> tuple[TrainState, Metrics]:
        weights = stage.balance.weights(state.balance, state.stage_step)
        trained, frozen = split_params(state.params, stage.trainable)

        def objective(trained: dict[str, Any]) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
            variables = {"params": merge_params(trained, frozen), "batch_stats": state.batch_stats}
            outputs, batch_stats = models.apply_training(module, variables, batch["image"])
            loss, parts = total_loss(outputs, batch, config=config.loss, weights=weights)
            return loss, (parts, batch_stats)

        with precision.products(config.model.dtype):
            (loss, (parts, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(trained)
        updates, optimizer_state = transform.update(gradients, state.optimizer, trained)
        trained = cast(dict[str, Any], optax.apply_updates(trained, updates))
        params = merge_params(trained, frozen)
        # The mean over all images of the batch, those without pixel labels counting as 0.
        segmentation_mean = parts.get("segmentation_loss", 0.0) * jnp.mean(batch["has_mask"])
        difference = segmentation_mean - config.loss.decision_weight * parts.get("decision_loss", 0.0)
        new_state = TrainState(
            stage_step=state.stage_step + 1,
            params=params,
            batch_stats=batch_stats,
            optimizer=optimizer_state,
            balance=stage.balance.update(state.balance, state.stage_step, difference),
            ema_params=_average(state, params, config.training.ema_decay),
        )
        metrics = {
            "loss": loss,
            **parts,
            "segmentation_weight": jnp.asarray(weights[0], jnp.float32),
            "decision_weight": jnp.asarray(weights[1], jnp.float32),
            "learning_rate": jnp.asarray(rate(state.stage_step), jnp.float32),
            "gradient_norm": optax.tree.norm(gradients),
        }
        return new_state, metrics

    return step


def _average(state: TrainState, params: dict[str, Any], decay: float) -> dict[str, Any] | None:
    """Exponential moving average, with a decay of at most (1 + n) / (10 + n) so that it forgets the initial weights."""
    if state.ema_params is None:
        return None
    count = state.stage_step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda old, new: old + (1.0 - decay_now) * (new - old), state.ema_params, params)
