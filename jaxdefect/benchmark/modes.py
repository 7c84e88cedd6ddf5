"""What is timed: inference, a training step, the input alone, and a training with its input."""

import dataclasses
import functools
import itertools
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxdefect import models
from jaxdefect.benchmark import layers, measure
from jaxdefect.config import Config
from jaxdefect.data import pipeline, readers, splits
from jaxdefect.model_config import Dtype, check_image_size
from jaxdefect.models import hoisting, precision
from jaxdefect.training import resident, state, step
from jaxdefect.types import InputError, Sample, Targets

MODES = ("inference", "train", "input", "end_to_end")
DTYPES: tuple[Dtype, ...] = typing.get_args(Dtype)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of a benchmark."""

    mode: str  # of MODES
    batch_size: int
    image_size: tuple[int, int]
    dtype: Dtype
    num_devices: int | None = None  # that share the batch; None: as many as divide it


def run(config: Config, setting: Setting, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """Times one setting of a config.

    Returns:
      The figures as plain values: compile_seconds, times, images_per_second, cost, limits, memory, layers, ...

    Raises:
      InputError: the setting does not suit the config, or its data is missing.
    """
    config = with_setting(config, setting)
    measure.forget_peak()
    timed = {"inference": _inference, "train": _train, "input": _input, "end_to_end": _end_to_end}[setting.mode]
    mesh = step.device_mesh(setting.batch_size, num_devices=setting.num_devices)
    with precision.products(setting.dtype):  # for single layers; whole networks see to it themselves
        figures = timed(config, mesh, repetitions=repetitions, with_layers=with_layers)
    return {**dataclasses.asdict(setting), "num_devices": mesh.size, **figures}


def with_setting(config: Config, setting: Setting) -> Config:
    """The config with what a row of a benchmark asks for."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=setting.image_size),
        model=dataclasses.replace(config.model, dtype=setting.dtype),
        training=dataclasses.replace(config.training, batch_size=setting.batch_size),
    )


def _figures(times: measure.Times, config: Config, **others: Any) -> dict[str, Any]:
    rate = config.training.batch_size / times.median
    return {"times": dataclasses.asdict(times), "images_per_second": rate, **others}


def _program_figures(
    times: measure.Times, config: Config, *, compile_seconds: float, cost: measure.Cost, rows: Sequence[layers.Layer]
) -> dict[str, Any]:
    memory = measure.peak_memory()  # before that of the ceilings
    limits = measure.ceilings(config.model.dtype)
    return _figures(
        times,
        config,
        compile_seconds=compile_seconds,
        cost=dataclasses.asdict(cost),
        memory=memory,
        ceilings=dataclasses.asdict(limits),
        limits=measure.share_of_limit(cost, times, limits),
        layers=[dataclasses.asdict(row) for row in rows],
    )


def _network(config: Config) -> tuple[nn.Module, dict[str, Any]]:
    module = models.build(config.model)
    return module, models.init(module, num_channels=config.data.num_channels, seed=0)


def _images(config: Config) -> np.ndarray:
    shape = (config.training.batch_size, *config.data.image_size, config.data.num_channels)
    return np.random.default_rng(0).random(shape, np.float32)


def _inference(config: Config, mesh: Mesh, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """The network on images that are on the devices."""
    module, variables = _network(config)
    variables = models.inference_variables(
        config.model, variables, image_size=config.data.image_size, large_kernel=config.inference.large_kernel
    )
    variables, image = step.replicate(variables, mesh), step.place({"image": _images(config)}, mesh)["image"]
    wanted = jax.jit(functools.partial(models.apply_inference, module.apply))
    wanted, weights = hoisting.for_inference(wanted, variables, image_shape=image.shape[1:])
    program, seconds, cost = measure.compile_program(wanted, weights, image)
    cost = cost.repeated(models.num_inference_parts(image.shape))  # XLA counts a loop's body once
    times = measure.time_calls(lambda: program(weights, image), repetitions=repetitions)
    rows = (
        layers.time_layers(module, variables, image, is_training=False, repetitions=min(repetitions, 5))
        if with_layers
        else []
    )
    return _program_figures(times, config, compile_seconds=seconds, cost=cost, rows=rows)


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch as the pipeline would give it, half of it defective."""
    size, (height, width), stride = config.training.batch_size, config.data.image_size, config.model.output_stride
    rng, label = np.random.default_rng(0), (np.arange(config.training.batch_size) % 2 == 0).astype(np.float32)
    cells = (size, height // stride, width // stride, 1)
    batch = {
        "image": _images(config),
        "mask": rng.random(cells, np.float32) * label[:, None, None, None],
        "weight": np.ones(cells, np.float32),
        "label": label,
        "has_mask": np.ones(size, np.float32),
    }
    return batch | ({"class_id": label.astype(np.int32)} if config.data.classes else {})


def _step(config: Config, mesh: Mesh) -> tuple[Callable[..., Any], state.TrainState]:
    """The compiled step and its first state."""
    module = models.build(config.model)
    stage = state.stages(config, steps_per_epoch=1000)[0]
    compiled = step.make_step(module, config, stage, mesh=mesh)
    return compiled, step.replicate(state.initial_state(module, config, stage), mesh)


def _train(config: Config, mesh: Mesh, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """The training step on a batch that is on the devices."""
    compiled, current = _step(config, mesh)
    batch = step.place(random_batch(config), mesh)
    program, seconds, cost = measure.compile_program(compiled, current, batch)
    holder = [current]

    def train() -> Any:
        holder[0], metrics = program(holder[0], batch)
        return metrics

    times = measure.time_calls(train, repetitions=repetitions, warmup=2)
    module, variables = _network(config)
    rows = (
        layers.time_layers(module, variables, batch["image"], is_training=True, repetitions=min(repetitions, 5))
        if with_layers
        else []
    )
    return _program_figures(times, config, compile_seconds=seconds, cost=cost, rows=rows)


def _training_data(config: Config) -> list[Sample]:
    samples = readers.read(config.data)
    return pipeline.training_samples(samples, splits.make(samples, config.split), config.data)


def _batches(config: Config, samples: Sequence[Sample], *, num_steps: int) -> pipeline.Batches:
    return pipeline.training_batches(
        samples,
        config.data,
        targets=Targets(config.model.output_stride),
        batch_size=config.training.batch_size,
        num_steps=num_steps,
        seed=config.training.seed,
    )


def _input(config: Config, mesh: Mesh, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """Reading, decoding, augmenting and batching, without a network."""
    del mesh, with_layers
    batches = _batches(config, _training_data(config), num_steps=repetitions + 1)
    reader = pipeline.iterate(batches, start=0, num_workers=config.data.num_workers)
    next(reader)  # starts the workers
    times = _paced(lambda: next(reader), repetitions)
    return _figures(times, config, num_workers=config.data.num_workers)


def _end_to_end(config: Config, mesh: Mesh, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """Training steps with their input, as `launch.train` does them; how long the device waits for its input."""
    del with_layers
    alone = _train(config, mesh, repetitions=repetitions, with_layers=False)
    compiled, current = _step(config, mesh)
    samples = _training_data(config)
    if config.training.scan_steps:
        return _resident(config, samples, mesh, alone=alone, repetitions=repetitions)
    reader = pipeline.iterate(
        _batches(config, samples, num_steps=repetitions + 2), start=0, num_workers=config.data.num_workers
    )
    holder: list[Any] = [compiled(current, step.place(next(reader), mesh))]

    def train() -> None:
        """As the loop does: the figures of a step are read after the next one is dispatched."""
        state_now, metrics = holder[0]
        holder[0] = compiled(state_now, step.place(next(reader), mesh))
        jax.device_get(metrics)

    train()
    times = _paced(train, repetitions)
    return _figures(times, config, **_waiting(times.median, alone))


def _resident(
    config: Config, samples: Sequence[Sample], mesh: Mesh, *, alone: Mapping[str, Any], repetitions: int
) -> dict[str, Any]:
    """The same for a training set on the device; a repetition is a call of several steps."""
    module = models.build(config.model)
    stage, targets = state.stages(config, steps_per_epoch=1000)[0], Targets(config.model.output_stride)
    elements = resident.load(samples, config, targets=targets, mesh=mesh)
    chunk = resident.make_chunk(module, config, stage, targets=targets, mesh=mesh)
    size = resident.steps_per_call(config, mesh)
    order = pipeline.training_order(
        samples, config.data, batch_size=config.training.batch_size, num_steps=size * (repetitions + 1), seed=0
    )
    holder = [step.replicate(state.initial_state(module, config, stage), mesh)]
    starts = itertools.count(0, size)

    def train() -> Any:
        start = next(starts)
        holder[0], metrics = chunk(holder[0], elements, order[start : start + size], start)
        return jax.device_get(metrics)

    train()
    times = _paced(train, repetitions)
    per_step = dataclasses.replace(
        times, **{name: getattr(times, name) / size for name in ("median", "p99", "slowest", "fastest")}
    )
    return _figures(per_step, config, steps_per_call=size, **_waiting(per_step.median, alone))


def _waiting(seconds: float, alone: Mapping[str, Any]) -> dict[str, float]:
    """Of a step that takes `seconds` with its input, what it takes alone, and the share for which the device waits."""
    step_seconds = alone["times"]["median"]
    return {"step_seconds": step_seconds, "waiting_share": max(0.0, 1.0 - step_seconds / seconds)}


def _paced(call: Callable[[], Any], repetitions: int) -> measure.Times:
    """Times of calls in a stream, whose mean stands for the median: what is read ahead makes single calls uneven."""
    seconds = np.empty(repetitions)
    for i in range(repetitions):
        start = time.perf_counter()
        call()
        seconds[i] = time.perf_counter() - start
    mean = float(seconds.mean())
    return measure.Times(
        mean, float(np.percentile(seconds, 99)), float(seconds.max()), float(seconds.min()), repetitions
    )


def check(config: Config, setting: Setting) -> None:
    """Finds what cannot be before anything is compiled.

    Raises:
      InputError: an image size, a batch or a number of devices that does not suit.
    """
    check_image_size(*setting.image_size, step=config.model.size_step, setting="--sizes")
    if setting.batch_size < 1:
        raise InputError(f"--batch_sizes: {setting.batch_size}: must be 1 or more")
    count, present = setting.num_devices, jax.local_device_count()
    if count is not None and (not 1 <= count <= present or setting.batch_size % count):
        raise InputError(
            f"--devices: {count}: there are {present} here, and they must share a batch of {setting.batch_size} evenly"
        )
    if config.data.target == "severity" and setting.mode in ("input", "end_to_end"):
        raise InputError(
            f"--mode={setting.mode}: severities need the scale of a whole training set, which only launch.train "
            "computes; use --mode=train"
        )
