"""What is timed: inference, a training step, the input alone, and a training with its input."""

import dataclasses
import functools
import itertools
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxdefect import models
from jaxdefect.benchmark import layers, measure
from jaxdefect.config import Config
from jaxdefect.data import pipeline, readers, splits
from jaxdefect.model_config import Dtype, check_image_size
from jaxdefect.models import hoisting, large_kernel, precision
from jaxdefect.training import resident, state, step
from jaxdefect.types import InputError, Sample, Targets

DTYPES: tuple[Dtype, ...] = typing.get_args(Dtype)
_THREADS_AHEAD, _WORKER_AHEAD = pipeline.THREADS_AHEAD, 4  # batches read ahead in threads, and by each worker


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of a benchmark."""

    mode: str  # "inference", "train", "input" or "end_to_end"
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


def _program_figures(
    times: measure.Times,
    config: Config,
    mesh: Mesh,
    *,
    compile_seconds: float,
    cost: measure.Cost,
    time_layers: Callable[..., Sequence[layers.Layer]],
    with_layers: bool,
) -> dict[str, Any]:
    memory = measure.peak_memory()  # before that of the layers and of the ceilings
    limits = measure.ceilings(config.model.dtype, num_devices=mesh.size)
    rows = time_layers(repetitions=min(times.repetitions, 5)) if with_layers else []
    return {
        "times": dataclasses.asdict(times),
        "images_per_second": config.training.batch_size / times.median,
        "compile_seconds": compile_seconds,
        "cost": dataclasses.asdict(cost),
        "memory": memory,
        "ceilings": dataclasses.asdict(limits),
        "limits": measure.share_of_limit(cost, times, limits),
        "layers": [dataclasses.asdict(row) for row in rows],
    }


def _stream_figures(times: measure.Times, config: Config, **others: Any) -> dict[str, Any]:
    """Of calls in a stream: what is read ahead makes single ones uneven, so the rate is that of all together."""
    rate = config.training.batch_size / times.mean
    figures = {"times": dataclasses.asdict(times), "images_per_second": rate, "is_stream": True}
    return figures | {"memory": measure.peak_memory()} | others


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
    # Of the network's formulas, not of what is known ahead.
    formulas = {name: tree for name, tree in variables.items() if name != large_kernel.SPECTRA}
    counted = functools.partial(jax.jit(functools.partial(models.apply_inference, module.apply)).trace, formulas, image)
    wanted, weights = hoisting.for_inference(wanted, variables, image_shape=image.shape[1:])
    program, seconds, cost = measure.compile_program(wanted, weights, image, num_devices=mesh.size, counted=counted)
    cost = cost.repeated(models.num_inference_parts(image.shape))  # XLA counts a loop's body once
    measure.forget_peak()  # the compiler's
    times = measure.time_calls(lambda: program(weights, image), repetitions=repetitions)
    return _program_figures(
        times,
        config,
        mesh,
        compile_seconds=seconds,
        cost=cost,
        time_layers=functools.partial(layers.time_layers, module, variables, image, mesh=mesh, is_training=False),
        with_layers=with_layers,
    )


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
    program, seconds, cost = measure.compile_program(compiled, current, batch, num_devices=mesh.size)
    measure.forget_peak()  # the compiler's
    holder = [current]

    def train() -> Any:
        holder[0], metrics = program(holder[0], batch)
        return metrics

    times = measure.time_calls(train, repetitions=repetitions, warmup=2)
    module, variables = _network(config)
    variables = step.replicate(variables, mesh)
    return _program_figures(
        times,
        config,
        mesh,
        compile_seconds=seconds,
        cost=cost,
        time_layers=functools.partial(
            layers.time_layers, module, variables, batch["image"], mesh=mesh, is_training=True
        ),
        with_layers=with_layers,
    )


class _Data(NamedTuple):
    """The training samples of a config, and what its targets are."""

    samples: Sequence[Sample]
    targets: Targets


def _data(config: Config) -> _Data:
    samples = readers.read(config.data)
    samples = pipeline.training_samples(samples, splits.make(samples, config.split), config.data)
    return _Data(samples, pipeline.make_targets(samples, config))


class _Stream:
    """The batches of a training. What is read ahead before the clock starts is used up first, and long streams are
    timed, or the figures would be those of a full buffer.
    """

    def __init__(self, config: Config, data: _Data, *, repetitions: int):
        num_workers = config.data.num_workers
        self._num_ahead = _WORKER_AHEAD * num_workers or _THREADS_AHEAD
        self._repetitions = max(repetitions, 5 * self._num_ahead)
        batches = pipeline.training_batches(
            data.samples,
            config.data,
            targets=data.targets,
            batch_size=config.training.batch_size,
            num_steps=1 + 2 * self._num_ahead + self._repetitions,  # reading ahead goes on to the end of the timing
            seed=config.training.seed,
        )
        self.reader = pipeline.iterate(batches, start=0, num_workers=num_workers)
        self.first = next(self.reader)  # starts the workers
        self._draws = functools.partial(
            pipeline.training_draws,
            data.samples,
            config.data,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
        )

    def time(self, call: Callable[[], Any]) -> measure.Times:
        """Times of calls, each of which takes one batch."""
        for _ in range(self._num_ahead):
            call()
        return _time_stream(call, self._repetitions)

    def seen_share(self) -> float:
        """Of the images of the timed steps, how many had been shown before: those can come from memory."""
        num_before = 1 + self._num_ahead
        draws = self._draws(num_steps=num_before + self._repetitions)
        is_new = np.zeros(draws.size, bool)
        is_new[np.unique(draws, return_index=True)[1]] = True
        return 1.0 - float(is_new.reshape(draws.shape)[num_before:].mean())


def _time_stream(call: Callable[[], Any], repetitions: int) -> measure.Times:
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return measure.Times.of(seconds)


def _input(config: Config, mesh: Mesh, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """Reading, decoding, augmenting and batching, without a network."""
    del mesh, with_layers
    stream = _Stream(config, _data(config), repetitions=repetitions)
    times = stream.time(lambda: next(stream.reader))
    return _stream_figures(times, config, num_workers=config.data.num_workers, seen_share=stream.seen_share())


def _end_to_end(config: Config, mesh: Mesh, *, repetitions: int, with_layers: bool) -> dict[str, Any]:
    """Training steps with their input, as `launch.train` does them; how long the device waits for its input.

    The same steps on one batch that is on the devices, before and after, are what they take without an input. On a CPU
    the input's own work is on the same cores, and counts as waiting. A training set on the devices has no input.
    """
    del with_layers
    data = _data(config)
    if config.training.scan_steps:
        times, others = _time_resident(config, data, mesh, repetitions=repetitions)
        return _stream_figures(times, config, **others)
    stream = _Stream(config, data, repetitions=repetitions)
    compiled, current = _step(config, mesh)
    placed = step.place(stream.first, mesh)
    program, seconds, cost = measure.compile_program(compiled, current, placed, num_devices=mesh.size)
    measure.forget_peak()  # the compiler's
    holder: list[Any] = [program(current, placed)]
    seconds_reading: list[float] = []

    def train(next_batch: Callable[[], Mapping[str, jax.Array]]) -> None:
        """As the loop does: the figures of a step are read after the next one is dispatched."""
        state_now, metrics = holder[0]
        start = time.perf_counter()
        batch = next_batch()
        seconds_reading.append(time.perf_counter() - start)
        holder[0] = program(state_now, batch)
        jax.device_get(metrics)

    def alone() -> float:
        return stream.time(lambda: train(lambda: placed)).mean

    before = alone()
    times = stream.time(lambda: train(lambda: step.place(next(stream.reader), mesh)))
    reading_seconds = float(np.mean(seconds_reading[-times.repetitions :]))
    step_seconds = (before + alone()) / 2
    share = max(0.0, 1.0 - step_seconds / times.mean)
    return _stream_figures(
        times,
        config,
        compile_seconds=seconds,
        cost=dataclasses.asdict(cost),
        step_seconds=step_seconds,
        waiting_share=share,
        seen_share=stream.seen_share(),
        reading_seconds=reading_seconds,
    )


def _time_resident(
    config: Config, data: _Data, mesh: Mesh, *, repetitions: int
) -> tuple[measure.Times, dict[str, Any]]:
    """Times of the steps of a training set on the device, of which one call takes several."""
    module = models.build(config.model)
    stage = state.stages(config, steps_per_epoch=1000)[0]
    elements = resident.load(data.samples, config, targets=data.targets, mesh=mesh)
    chunk = resident.make_chunk(module, config, stage, targets=data.targets, mesh=mesh)
    size, batch_size = resident.steps_per_call(config, mesh), config.training.batch_size
    num_calls = max(repetitions, 5 * _THREADS_AHEAD // size)
    draws = pipeline.training_draws(
        data.samples, config.data, batch_size=batch_size, num_steps=size * (num_calls + 2), seed=0
    )
    starts = itertools.count(0, size)

    def dispatch(current: state.TrainState) -> tuple[state.TrainState, step.Metrics]:
        start = next(starts)
        return chunk(current, elements, draws[start : start + size], start)

    holder = [dispatch(step.replicate(state.initial_state(module, config, stage), mesh))]

    def train() -> None:
        state_now, metrics = holder[0]
        holder[0] = dispatch(state_now)
        jax.device_get(metrics)

    train()
    times = _time_stream(train, num_calls)
    names = ("median", "p99", "slowest", "fastest", "mean")
    per_step = dataclasses.replace(times, **{name: getattr(times, name) / size for name in names})
    return per_step, {"steps_per_call": size}


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
