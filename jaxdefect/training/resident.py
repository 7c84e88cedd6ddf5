"""A training set that stays on the device: drawing, augmenting and training several steps in one compiled call.

For data that fits. The host sends the indices of what is drawn, the same that Grain would decode, and reads the figures
of all steps of a call at once. Without augmentation the batches are Grain's bit for bit; augmentation draws from JAX's
random numbers instead of NumPy's, with the same distributions. The config refuses what cannot be done here: to resample
an image, and to change intensities or rows of one whose severities are the target.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect.config import AugmentConfig, Config
from jaxdefect.data import annotation, pipeline
from jaxdefect.training import step
from jaxdefect.training.state import Stage, TrainState
from jaxdefect.types import InputError, Sample, Targets

Elements = Mapping[str, jax.Array]  # [N, ...] each
# (state, elements, indices [K, B], number of the first step) -> (state, figures [K] each)
Chunk = Callable[[TrainState, Elements, np.ndarray, int | np.integer], tuple[TrainState, step.Metrics]]
_SHARE = 0.5  # of the device's free memory that the training set may take


def load(samples: Sequence[Sample], config: Config, *, targets: Targets, mesh: Mesh) -> Elements:
    """Decodes all training samples and sends them to every device of `mesh`.

    Raises:
      InputError: they do not fit.
    """
    at_full_size = _moves_pixels(config.data.augment) and targets.stride == annotation.REDUCTION
    height, width = config.data.image_size
    cells = height * width // (1 if at_full_size else targets.stride**2)
    needed = 4 * len(samples) * (height * width * config.data.num_channels + 2 * cells)
    free = _free_bytes(mesh)
    if free is not None and needed > _SHARE * free:
        raise InputError(
            f"config.training.scan_steps = {config.training.scan_steps}: the {len(samples)} decoded training images "
            f"take {needed / 2**30:.1f} GiB and the device has {free / 2**30:.1f} GiB free, of which they may have "
            f"{_SHARE:.0%}; set config.training.scan_steps = 0 or a smaller config.data.image_size"
        )
    elements = pipeline.resident_elements(samples, config.data, targets=targets, at_full_size=at_full_size)
    return jax.device_put(elements, NamedSharding(mesh, PartitionSpec()))


def _free_bytes(mesh: Mesh) -> int | None:
    """Of each device; None where it does not say."""
    device = mesh.devices.flat[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform != "cpu":
        return None
    with open("/proc/meminfo") as file:  # what the kernel would give up for it is free too
        (available,) = [line.split()[1] for line in file if line.startswith("MemAvailable:")]
    return int(available) * 1024 // mesh.size


def steps_per_call(config: Config, mesh: Mesh) -> int:
    """How many steps one call takes: as configured, but one on a CPU, where XLA computes a training step in the body of
    a loop twenty times slower than outside of it.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else config.training.scan_steps


def make_chunk(module: nn.Module, config: Config, stage: Stage, *, targets: Targets, mesh: Mesh) -> Chunk:
    """Compiles K training steps in a row; the state is donated. One program per K.

    The random numbers of a step depend on the seed and the step's number alone.
    """
    one_step, key = step.step_function(module, config, stage), jax.random.key(config.training.seed)
    parted = NamedSharding(mesh, PartitionSpec("data"))

    def chunk(
        state: TrainState, elements: Elements, indices: jax.Array, first: jax.Array
    ) -> tuple[TrainState, step.Metrics]:
        def body(state: TrainState, drawn: tuple[jax.Array, jax.Array]) -> tuple[TrainState, step.Metrics]:
            number, which = drawn
            batch = {name: values[which] for name, values in elements.items()}
            batch = augment(batch, config, targets=targets, key=jax.random.fold_in(key, number))
            return one_step(state, lax.with_sharding_constraint(batch, parted))

        if len(indices) == 1:  # outside of a loop
            state, metrics = body(state, (first, indices[0]))
            return state, {name: value[None] for name, value in metrics.items()}
        return lax.scan(body, state, (first + jnp.arange(len(indices)), indices))

    whole = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec(None, "data"))
    return jax.jit(chunk, donate_argnums=0, in_shardings=(whole, whole, by_batch, None), out_shardings=whole)


def augment(batch: Elements, config: Config, *, targets: Targets, key: jax.Array) -> dict[str, jax.Array]:
    """What `data.augment` does, and the reduction to the model's output where it had to wait for it.

    Args:
      batch: image [B, H, W, C], mask and weight [B, h, w, 1] as `load` left them, and labels.
      config: of the run.
      targets: of the run.
      key: the source of randomness.
    """
    settings, batch = config.data.augment, dict(batch)
    image, maps = batch["image"], (batch["mask"], batch["weight"])
    keys = jax.random.split(key, (len(image), 6))
    if _moves_pixels(settings):
        image, *maps = jax.vmap(lambda keys, *arrays: _move(keys, arrays, settings))(keys, image, *maps)
    batch["image"] = jax.vmap(lambda keys, image: _shade(keys, image, settings))(keys, image)
    if targets.stride == annotation.REDUCTION and _moves_pixels(settings):
        maps = [_reduce(values) for values in maps]
        if config.data.target == "binary":
            maps[0] = (maps[0] > 0.5).astype(jnp.float32)
    batch["mask"], batch["weight"] = maps
    return batch


def _moves_pixels(settings: AugmentConfig) -> bool:
    return settings.flip or settings.rotate90


def _move(keys: jax.Array, arrays: Sequence[jax.Array], settings: AugmentConfig) -> list[jax.Array]:
    """Flips and quarter turns of [H, W, C] arrays, all alike."""
    moves: list[Callable[[jax.Array], jax.Array]] = []
    if settings.flip:
        moves += [lambda x: jnp.flip(x, 0), lambda x: jnp.flip(x, 1)]
    if settings.rotate90:
        moves.append(jnp.rot90)
    for key, move in zip(keys, moves, strict=False):
        is_moved = jax.random.bernoulli(key)
        arrays = [jnp.where(is_moved, move(array), array) for array in arrays]
    return list(arrays)


def _shade(keys: jax.Array, image: jax.Array, settings: AugmentConfig) -> jax.Array:
    """Contrast, brightness and noise of one image [H, W, C], clipped to [0, 1]."""
    if settings.contrast:
        mean = jnp.mean(image)
        factor = 1 + settings.contrast * jax.random.uniform(keys[3], minval=-1.0)
        image = (image - mean) * factor + mean
    if settings.brightness:
        image = image + settings.brightness * jax.random.uniform(keys[4], minval=-1.0)
    if settings.noise:
        amount, pixels = jax.random.split(keys[5])
        image = image + settings.noise * jax.random.uniform(amount) * jax.random.normal(pixels, image.shape)
    return jnp.clip(image, 0.0, 1.0)


def _reduce(values: jax.Array) -> jax.Array:
    """`annotation.reduce_by_8` of maps [B, H, W, 1]: one matrix product for the rows, one for the columns."""
    rows, columns = (_averages(side) for side in values.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, values, columns, precision="highest")


def _averages(side: int) -> Any:
    """[side / 8, side]: each row averages 17 pixels about every eighth, the border mirrored."""
    return np.stack([annotation.reduce_by_8(np.tile(unit[:, None], (1, 8)))[:, 0] for unit in np.eye(side)], axis=1)
