"""Several runs trained as one compiled program: parameters, optimiser states and batches stacked along a first axis.

Every run keeps a directory of its own, with the checkpoints, figures and overlays that it would have alone, so it
resumes, is evaluated and is used like any other.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect.config import Config, DataConfig, SplitConfig
from jaxdefect.data import pipeline
from jaxdefect.training import loop, state, step, traced
from jaxdefect.training.interruption import Interruption
from jaxdefect.training.logging import CONSOLE, progress
from jaxdefect.types import InputError

_DATA_SECTIONS = ("data", "split")  # in which stacked runs may differ, besides the training's seed and `Numbers`


class Numbers(NamedTuple):
    """Settings that reach the compiled program as arguments, so that each run has its own: scalars, or [R] each."""

    learning_rate: Any
    decision_weight: Any
    decay_rate: Any

    @classmethod
    def of(cls, config: Config) -> "Numbers":
        return cls(config.optimizer.learning_rate, config.loss.decision_weight, config.loss.decay_rate)

    def put_into(self, config: Config) -> Config:
        """The config with these instead of its own."""
        return dataclasses.replace(
            config,
            optimizer=dataclasses.replace(config.optimizer, learning_rate=self.learning_rate),
            loss=dataclasses.replace(config.loss, decision_weight=self.decision_weight, decay_rate=self.decay_rate),
        )


class Apart(InputError):
    """Runs that stand at different steps: trained side by side some would lose what they have."""


def train(
    configs: Mapping[Path, Config], *, parts: Mapping[Path, loop.Part] | None = None, goes_on: bool = False
) -> int:
    """Trains, or resumes, one run per directory, all side by side.

    They may differ in data, split, the training's seed, the learning rate, and the weight of the decision's loss and
    the decay of the segmentation's only.

    Args:
      configs: by directory.
      parts: for runs that are parts of a system, by directory.
      goes_on: as `loop.train`.

    Returns:
      As `loop.train`.

    Raises:
      Apart: nothing was changed; each can be trained by itself from where it is.
      InputError: as `loop.train`; runs that cannot be stacked.
    """
    _check(configs)
    loop.check_disk(configs)
    with contextlib.ExitStack() as stack:
        opened = [
            loop.open_session(config, workdir, stack, part=None if parts is None else parts[workdir])
            for workdir, config in configs.items()
        ]
        sessions = [session for session, _, _ in opened]
        stages, config = opened[0][1], sessions[0].run.config
        if len({(session.steps_per_epoch, stages[-1].end) for session, stages, _ in opened}) > 1:
            raise InputError("runs with epochs of different lengths cannot be stacked: set training.steps_per_epoch")
        start = _common_start(sessions)
        current = _stack([loop.state_at(session, stages, batches, start=start) for session, _, batches in opened])
        mesh = mesh_of(len(sessions))
        loop.describe_devices(mesh, f"the number of runs, {len(sessions)},")
        parted = NamedSharding(mesh, PartitionSpec("runs"))
        current = jax.device_put(current, parted)
        interruption = stack.enter_context(Interruption())
        for stage in stages:
            if start >= stage.end:
                continue
            if start == stage.start and start > 0:
                members = [state.next_stage(member, config, stage) for member in _unstack(current, len(sessions))]
                current = jax.device_put(_stack(members), parted)
            batches = [batches for _, _, batches in opened]
            start, current = _train_stage(sessions, stage, start, current, batches, interruption, mesh)
            if interruption.signal is not None and (goes_on or start < stages[-1].end):
                CONSOLE.print(f"stopped after step {start}, checkpoints saved; the same command resumes there")
                return 128 + interruption.signal
    return 0


def program_of(config: Config) -> Config | None:
    """Equal for runs that one program can train side by side, epochs of one length given; None: it can only be alone.

    It is the config without all that changes a run's data but not their shape.
    """
    is_system = config.ensemble.kind != "none" or config.classifier.is_enabled
    if is_system or config.training.patience_epochs or config.training.scan_steps:
        return None
    # Of the data only what gives the batches their shape. Patches keep everything: their number is costly to know.
    shape = DataConfig(
        image_size=config.data.image_size, num_channels=config.data.num_channels, classes=config.data.classes
    )
    data = config.data if config.data.fit == "patches" else shape
    return dataclasses.replace(_without_numbers(config), data=data, split=SplitConfig())


def _without_numbers(config: Config) -> Config:
    """The config without what the runs of one program may each have of their own, data apart."""
    seedless = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=0))
    return Numbers(learning_rate=1.0, decision_weight=1.0, decay_rate=0.0).put_into(seedless)


def _check(configs: Mapping[Path, Config]) -> None:
    first, *others = map(_without_numbers, configs.values())
    for other in others:
        for name in vars(first):
            if name not in _DATA_SECTIONS and getattr(first, name) != getattr(other, name):
                raise InputError(f"runs that differ in config.{name} cannot be stacked; train them one after the other")
    if first.training.scan_steps:
        raise InputError(
            "config.training.scan_steps: stacked runs are fed step by step; set it to 0 or train one after the other"
        )
    if first.training.patience_epochs:
        raise InputError(
            "config.training.patience_epochs: stacked runs end together; set it to 0 or train one after the other"
        )


def _common_start(sessions: list[loop.Session]) -> int:
    """The step of the last checkpoint of all runs.

    Raises:
      Apart: not all have the same; begun at an earlier one, some would lose what they have.
    """
    steps = [session.checkpoints.latest_step() or 0 for session in sessions]
    if len(set(steps)) > 1:
        latest = ", ".join(f"{s.run.workdir} after step {step}" for s, step in zip(sessions, steps, strict=True))
        raise Apart(f"runs that stand at different steps cannot go on together: {latest}")
    if steps[0]:
        CONSOLE.print(f"resuming after step {steps[0]}")
    return steps[0]


def mesh_of(num_runs: int) -> Mesh:
    """One axis, "runs", over as many local devices as divide the runs evenly."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if num_runs % n == 0)
    return Mesh(devices[:count], ("runs",))


# Compiled, as each shape among a network's weights would else be a program of its own.
@jax.jit
def _stack(states: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@functools.partial(jax.jit, static_argnums=1)
def _unstack(stacked: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]


def _train_stage(
    sessions: list[loop.Session],
    stage: state.Stage,
    start: int,
    current: state.TrainState,
    batches: list[pipeline.Batches],
    interruption: Interruption,
    mesh: Mesh,
) -> tuple[int, state.TrainState]:
    """Steps start + 1 to stage.end, or to where it is interrupted; returns the step reached and the states there."""
    config, sharding = sessions[0].run.config, NamedSharding(mesh, PartitionSpec("runs"))
    configs = [session.run.config for session in sessions]
    compiled = make_step(
        sessions[0].module, configs, stage.name, steps_per_epoch=sessions[0].steps_per_epoch, mesh=mesh
    )
    readers = [pipeline.iterate(b, start=start, num_workers=config.data.num_workers) for b in batches]
    bar, task = progress(total=stage.end, done=start)
    bar.update(task, description=f"{stage.name} of {len(sessions)}")
    clock, since = time.monotonic(), start
    with bar:
        for number in range(start + 1, stage.end + 1):
            numbers = [{k: v for k, v in next(reader).items() if k != "id"} for reader in readers]
            batch = {key: np.stack([one[key] for one in numbers]) for key in numbers[0]}
            current, metrics = compiled(current, jax.device_put(batch, sharding))
            figures = _flush(sessions)
            for session in sessions:
                session.pending = (number, metrics)
            is_stopping = interruption.signal is not None
            is_epoch_end = number % sessions[0].steps_per_epoch == 0
            if is_stopping or is_epoch_end:
                figures = _flush(sessions)
            if figures is not None:
                images = (number - since) * config.training.batch_size * len(sessions)
                speed = images / (time.monotonic() - clock)
                bar.update(task, completed=number, figures=loop.summary(figures, speed))
                if is_epoch_end:
                    where = f"{stage.name} step {number}/{stage.end} epoch {number // sessions[0].steps_per_epoch}"
                    CONSOLE.print(f"{where}, mean of {len(sessions)}: {loop.summary(figures, speed)}")
            if is_epoch_end or is_stopping:
                for session, member in zip(sessions, _unstack(current, len(sessions)), strict=True):
                    # To where the run's own validation computes.
                    member = jax.device_put(member, NamedSharding(session.mesh, PartitionSpec()))
                    if is_epoch_end:
                        loop.end_epoch(session, stage, number, member, is_stopping=is_stopping)
                    else:
                        session.checkpoints.save(number, member, metrics=None)
                clock, since = time.monotonic(), number
            if is_stopping:
                return number, current
    return stage.end, current


def make_step(
    module: nn.Module,
    configs: Sequence[Config],
    stage_name: str,
    *,
    steps_per_epoch: int,
    mesh: Mesh,
    is_vectorized: bool = False,
) -> step.Step:
    """Compiles the step of all runs, [R, ...] -> [R, ...], each device computing its own runs; the state is donated.

    Args:
      module: of all of them.
      configs: one a run; they differ in `Numbers` (and in what the step does not see).
      stage_name: of `state.stages`.
      steps_per_epoch: of all of them.
      mesh: of one axis, "runs", whose devices divide the runs evenly.
      is_vectorized: whether a device computes its runs by `vmap` or, in the same program, each by itself. `vmap` makes
        grouped convolutions, for which XLA takes two to six times as long on a CPU, and whose gradients it leaves to
        convolutions with the whole map as kernel on a GPU.
    """
    runs = PartitionSpec("runs")

    def one(
        current: state.TrainState, batch: step.Arrays, numbers: step.Arrays
    ) -> tuple[state.TrainState, step.Metrics]:
        config = Numbers(**numbers).put_into(configs[0])
        (own,) = [s for s in state.stages(config, steps_per_epoch=steps_per_epoch) if s.name == stage_name]
        return step.step_function(module, config, own)(current, batch)

    def each(*stacks: Any) -> tuple[state.TrainState, step.Metrics]:
        once = jax.jit(one)  # all are alike: traced once, for XLA to write out for each
        return _stack([once(*of_run) for of_run in _unstack(stacks, len(configs) // mesh.size)])

    # By hand: the automatic partitioner cannot part the grouped convolutions that vmap makes.
    many = jax.vmap(one) if is_vectorized else each
    parted = jax.shard_map(many, mesh=mesh, in_specs=(runs, runs, runs), out_specs=runs, check_vma=False)
    about = (configs[0], stage_name, steps_per_epoch, mesh, is_vectorized)
    compiled = traced.keep(jax.jit(parted, donate_argnums=0), about)
    columns = zip(*map(Numbers.of, configs), strict=True)
    numbers = dict(zip(Numbers._fields, (np.array(column, np.float32) for column in columns), strict=True))
    numbers = jax.device_put(numbers, NamedSharding(mesh, runs))
    return lambda current, batch: compiled(current, batch, numbers)


def _flush(sessions: list[loop.Session]) -> dict[str, float] | None:
    """Hands the figures of the last step to every run; returns their means."""
    pending = sessions[0].pending
    if pending is None:
        return None
    number, metrics = pending
    stacked = jax.device_get(metrics)
    rows = []
    for i, session in enumerate(sessions):
        session.pending = (number, {name: values[i] for name, values in stacked.items()})
        rows.append(loop.flush(session))
    return {name: float(np.mean([row[name] for row in rows if row])) for name in stacked}
