"""The training loop. Order of start: the run's directory, its data, the model, its last checkpoint or fresh weights.

The loop never waits for the step that it has just dispatched: it reads the figures of the one before.
"""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect import models
from jaxdefect.config import Config
from jaxdefect.data import checks, images, pipeline, readers
from jaxdefect.models import pretrained
from jaxdefect.training import checkpoint, resident, runs, state, step, traced, validation
from jaxdefect.training.interruption import Interruption
from jaxdefect.training.logging import CONSOLE, MetricWriter, progress, read_figures
from jaxdefect.types import InputError, Sample, Split

_FIRST_IMAGES = 8  # that pretrained weights are fitted to, where their batch norms were folded away
_ADVICE = "lower config.optimizer.learning_rate or set config.optimizer.gradient_clip, in a new --workdir"


class Part(NamedTuple):
    """What a run that is part of a system is given instead of reading it by its config."""

    samples: Sequence[Sample]
    split: Split


# (number of the last step, state) -> (that of the last step now dispatched, state, figures)
Advance = Callable[[int, state.TrainState], tuple[int, state.TrainState, step.Metrics]]


@dataclasses.dataclass
class Session:
    """What the parts of one training share. What changes: `pending`, the last step dispatched, and the figures of it
    and of those dispatched with it, scalars or [K]; and `elements`, the training set once it is on the devices.
    """

    run: runs.Run
    module: nn.Module
    mesh: Mesh
    checkpoints: checkpoint.Checkpoints
    writer: MetricWriter
    validate: validation.Validate | None
    steps_per_epoch: int
    train_samples: Sequence[Sample]
    pending: tuple[int, Mapping[str, Any]] | None = None
    elements: resident.Elements | None = None


def train(config: Config, workdir: Path, *, part: Part | None = None, goes_on: bool = False) -> int:
    """Trains, or resumes, the run in `workdir`, up to its end.

    Args:
      config: of the run.
      workdir: its directory.
      part: as a part of a system.
      goes_on: whether the caller has more to do after it.

    Returns:
      0 when finished, 128 + the signal's number when interrupted (then the same call resumes), be it while it ended
      where the caller goes on.

    Raises:
      InputError: bad data or settings, before anything is compiled; or a loss that is not finite.
    """
    with contextlib.ExitStack() as stack:
        session, stages, batches = open_session(config, workdir, stack, part=part)
        start = session.checkpoints.latest_step() or 0
        if start:
            CONSOLE.print(f"resuming after step {start}")
        describe_devices(session.mesh, f"config.training.batch_size = {config.training.batch_size}")
        stages_left = [stage for stage in stages if start < stage.end]
        # Before the weights: what is kept of its program is read while they are made.
        advance = _advance(session, stages_left[0], batches, start) if stages_left else None
        current = state_at(session, stages, batches, start=start)
        current = step.replicate(current, session.mesh)
        interruption = stack.enter_context(Interruption())
        for stage in stages_left:
            if start == stage.start and start > 0:
                current = step.replicate(state.next_stage(current, config, stage), session.mesh)
            advance = advance or _advance(session, stage, batches, start)
            start, current = _train_stage(session, stage, start, current, advance, interruption)
            advance = None
            if interruption.signal is not None and (goes_on or start < stages[-1].end):
                CONSOLE.print(f"stopped after step {start}, checkpoint saved; the same command resumes there")
                return 128 + interruption.signal
    return 0


def check_disk(configs: Mapping[Path, Config]) -> None:
    """Checks that the disk has room for the checkpoints of all these runs together.

    Raises:
      InputError: it has not.
    """
    needed = [
        checkpoint.num_bytes_needed(workdir, module=models.build(config.model), config=config)
        for workdir, config in configs.items()
    ]
    checks.check_disk(next(iter(configs)), needed_bytes=sum(needed))


def open_session(
    config: Config, workdir: Path, stack: contextlib.ExitStack, *, part: Part | None = None
) -> tuple[Session, tuple[state.Stage, ...], pipeline.Batches]:
    """Opens the run in `workdir` as far as its data; what must be closed is left to `stack`.

    Raises:
      InputError: bad data or settings.
    """
    checks.check_writable(workdir)
    stack.enter_context(runs.exclusive(workdir))
    runs.check_config(workdir, config)
    check_disk({workdir: config})
    module = models.build(config.model)
    if checkpoint.is_fresh(workdir):
        pretrained.load_pretrained(config.model, checkpoint.template(module, config))  # fails before anything is kept
    samples = readers.read(config.data) if part is None else part.samples
    run = runs.open_run(workdir, config, samples, split=None if part is None else part.split)
    train_samples = pipeline.training_samples(samples, run.split, config.data)
    steps_per_epoch = config.training.steps_per_epoch or pipeline.steps_per_epoch(
        train_samples, batch_size=config.training.batch_size
    )
    stages = state.stages(config, steps_per_epoch=steps_per_epoch)
    batches = pipeline.training_batches(
        train_samples,
        config.data,
        targets=run.targets,
        batch_size=config.training.batch_size,
        num_steps=stages[-1].end,
        seed=config.training.seed,
    )
    runs.note_start(run, steps_per_epoch=steps_per_epoch)
    mesh = step.device_mesh(config.training.batch_size)
    _describe(run, train_samples, num_steps=len(batches))
    validated = pipeline.validation_samples(samples, run.split, config.data)
    validate = (
        validation.make_validation(module, config, validated, targets=run.targets, mesh=mesh) if validated else None
    )
    checkpoints = checkpoint.open_checkpoints(workdir)
    stack.callback(checkpoints.close)
    writer = MetricWriter(workdir, step=checkpoints.latest_step() or 0)
    stack.callback(writer.close)
    session = Session(run, module, mesh, checkpoints, writer, validate, steps_per_epoch, train_samples)
    return session, stages, batches


def _train_stage(
    session: Session,
    stage: state.Stage,
    start: int,
    current: state.TrainState,
    advance: Advance,
    interruption: Interruption,
) -> tuple[int, state.TrainState]:
    """Steps start + 1 to stage.end, or to where it is interrupted; returns the step reached and the state there."""
    config = session.run.config
    if start > stage.start and _has_converged(session, start):
        return stage.end, current
    bar, task = progress(total=stage.end, done=start)
    bar.update(task, description=stage.name)
    clock, since, number = time.monotonic(), start, start
    with bar:
        while number < stage.end:
            number, current, metrics = advance(number, current)
            figures = flush(session)
            session.pending = (number, metrics)
            is_stopping, is_epoch_end = interruption.signal is not None, number % session.steps_per_epoch == 0
            if is_stopping or is_epoch_end:
                figures = flush(session)
            if figures is not None:
                speed = (number - since) * config.training.batch_size / (time.monotonic() - clock)
                bar.update(task, completed=number, figures=summary(figures, speed))
                if is_epoch_end:
                    where = f"{stage.name} step {number}/{stage.end} epoch {number // session.steps_per_epoch}"
                    CONSOLE.print(f"{where}: {summary(figures, speed)}")
            if is_epoch_end:
                end_epoch(session, stage, number, current, is_stopping=is_stopping)
                clock, since = time.monotonic(), number
            elif is_stopping:
                session.checkpoints.save(number, current, metrics=None)
            if is_stopping:
                return number, current
            if is_epoch_end and _has_converged(session, number):
                break
    return stage.end, current


def _advance(session: Session, stage: state.Stage, batches: pipeline.Batches, start: int) -> Advance:
    """What trains `stage` after step `start`, `batches` being those of the whole run."""
    return (_resident_steps if session.run.config.training.scan_steps else _fed_steps)(session, stage, batches, start)


def _fed_steps(session: Session, stage: state.Stage, batches: pipeline.Batches, start: int) -> Advance:
    """One step at a time, on the batches that Grain reads ahead."""
    config = session.run.config
    made = step.make_step(session.module, config, stage, mesh=session.mesh)
    reader = pipeline.iterate(batches, start=start, num_workers=config.data.num_workers)
    placed = (step.place(batch, session.mesh) for batch in reader)
    first = next(placed)
    compiled = _kept(session, stage, made, [first])
    rest = itertools.chain([first], placed)

    def advance(number: int, current: state.TrainState) -> tuple[int, state.TrainState, step.Metrics]:
        return number + 1, *compiled(current, next(rest))

    return advance


def _kept(
    session: Session, stage: state.Stage, made: traced.AnyStep, first: Sequence[Any], *about: Any
) -> traced.AnyStep:
    """`made`, which follows from these, traced at most once for all starts; `first` is its first call's input."""
    config, replicated = session.run.config, NamedSharding(session.mesh, PartitionSpec())
    template = jax.eval_shape(lambda: state.initial_state(session.module, config, stage))
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), template)
    about = (config, session.steps_per_epoch, stage.name, session.mesh, *about)
    return traced.keep(made, about, first=(template, first))


def _resident_steps(session: Session, stage: state.Stage, batches: pipeline.Batches, start: int) -> Advance:
    """Several steps at a time, up to the end of the epoch, on a training set that stays on the devices."""
    config, targets = session.run.config, session.run.targets
    draws = pipeline.training_draws(
        session.train_samples,
        config.data,
        batch_size=config.training.batch_size,
        num_steps=len(batches),
        seed=config.training.seed,
    )
    if session.elements is None:
        session.elements = resident.load(session.train_samples, config, targets=targets, mesh=session.mesh)
    elements = session.elements
    made = resident.make_chunk(session.module, config, stage, targets=targets, mesh=session.mesh)

    def inputs(number: int) -> tuple[resident.Elements, np.ndarray, np.int32]:
        rest_of_epoch = session.steps_per_epoch - number % session.steps_per_epoch
        end = number + min(resident.steps_per_call(config, session.mesh), rest_of_epoch)
        return elements, draws[number:end], np.int32(number)

    compiled = _kept(session, stage, made, inputs(start), targets)

    def advance(number: int, current: state.TrainState) -> tuple[int, state.TrainState, step.Metrics]:
        of_call = inputs(number)
        return number + len(of_call[1]), *compiled(current, *of_call)

    return advance


def _has_converged(session: Session, number: int) -> bool:
    """Whether this step's validation found that the figure that chooses the best checkpoint has not improved for
    `patience_epochs`.
    """
    settings = session.run.config.training
    if not settings.patience_epochs:
        return False
    best_step, best, last = 0, -math.inf, 0
    for line in read_figures(session.run.workdir, "validation"):
        last = line["step"]
        score = _score(line, settings.select_by)
        if score is not None and score > best:
            best_step, best = line["step"], score
    if last < number or best_step == 0 or number - best_step < settings.patience_epochs * session.steps_per_epoch:
        return False
    CONSOLE.print(f"stopped early after step {number}: the best validation so far was at step {best_step}")
    return True


def _score(figures: Mapping[str, Any], name: str) -> float | None:
    """The figure that chooses the best checkpoint, the higher the better; None where it is undefined."""
    value = figures.get(name)
    if not isinstance(value, int | float):
        return None
    return -value if name.endswith("_loss") else value


def end_epoch(
    session: Session, stage: state.Stage, number: int, current: state.TrainState, *, is_stopping: bool
) -> None:
    """Validates and saves, where it is time to."""
    settings, epoch, is_last = session.run.config.training, number // session.steps_per_epoch, number == stage.end
    validate = session.validate if is_last or epoch % settings.validate_every_epochs == 0 else None
    validated = _validate(session, stage, number, current, validate) if validate else None
    # Validated with a score or without: runs that are trained side by side are to have checkpoints of the same steps.
    if is_last or is_stopping or validate or epoch % settings.checkpoint_every_epochs == 0:
        session.checkpoints.save(number, current, metrics=validated)


def flush(session: Session) -> dict[str, float] | None:
    """Reads, checks and writes down the figures of the steps dispatched last; returns those of the last.

    Raises:
      InputError: one of them is not finite.
    """
    if session.pending is None:
        return None
    last, metrics = session.pending
    session.pending = None
    columns = {name: np.atleast_1d(values) for name, values in jax.device_get(metrics).items()}
    figures: dict[str, float] = {}
    for number, *row in zip(range(last + 1 - len(columns["loss"]), last + 1), *columns.values(), strict=True):
        figures = dict(zip(columns, map(float, row), strict=True))
        session.writer.write(number, "train", figures)
        if not (math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"])):
            raise _not_finite(session, number, f"loss {figures['loss']}, gradient norm {figures['gradient_norm']}")
    return figures


def _not_finite(session: Session, number: int, what: str) -> InputError:
    session.checkpoints.manager.wait_until_finished()
    last = session.checkpoints.latest_step()
    kept = f"the last good checkpoint is that of step {last}" if last else "there is no checkpoint yet"
    return InputError(f"{session.run.workdir}: step {number}: {what}: not finite, training stopped; {kept}; {_ADVICE}")


def _validate(
    session: Session, stage: state.Stage, number: int, current: state.TrainState, validate: validation.Validate
) -> dict[str, float] | None:
    """Validates, writes figures and overlays; returns the score that chooses the best checkpoint, if there is one."""
    figures, strips = validate(state.evaluation_variables(current))
    if not stage.trains_decision:  # its scores say nothing yet
        figures = {"segmentation_loss": figures.get("segmentation_loss")}
    session.writer.write(number, "validation", figures)
    if not all(math.isfinite(value) for value in figures.values() if value is not None):
        raise _not_finite(session, number, f"validation {figures}")
    folder = session.run.workdir / "overlays" / f"step_{number:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    for i, strip in enumerate(strips):
        images.write_image(folder / f"{i}.png", strip)
        session.writer.image(number, f"validation/{i}", strip)
    CONSOLE.print(
        f"{session.run.workdir.name}: validation at step {number}: "
        + ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
    )
    score = _score(figures, session.run.config.training.select_by)
    return None if score is None else {checkpoint.METRIC: score}


def state_at(
    session: Session, stages: tuple[state.Stage, ...], batches: pipeline.Batches, *, start: int
) -> state.TrainState:
    """The state after step `start`: the checkpoint's, or a fresh one at 0.

    Raises:
      InputError: a checkpoint of another architecture, or pretrained weights that are missing or do not fit.
    """
    config = session.run.config
    if start == 0:
        num_batches = -(-_FIRST_IMAGES // config.training.batch_size)
        first: Any = [batches[i] for i in range(min(num_batches, len(batches)))]
        images = np.concatenate([batch["image"] for batch in first])
        return state.initial_state(session.module, config, stages[0], images=images)
    stage = next(stage for stage in stages if stage.start < start <= stage.end)
    template = jax.eval_shape(lambda: state.initial_state(session.module, config, stage))
    return session.checkpoints.restore(start, template)


def summary(figures: dict[str, float], speed: float) -> str:
    """A step's losses with the weights in use, and images per second, on one line."""
    weights = {"segmentation": figures["segmentation_weight"], "decision": figures["decision_weight"], "class": 1.0}
    parts = [
        f"{name} {figures[f'{name}_loss']:.4f} x {weight:.3g}"
        for name, weight in weights.items()
        if f"{name}_loss" in figures
    ]
    return f"loss {figures['loss']:.4f} ({', '.join(parts)}), {speed:.1f} images/s"


def _describe(run: runs.Run, train_samples: list[Sample], *, num_steps: int) -> None:
    positives = sum(sample.label for sample in train_samples)
    what = "patches" if run.config.data.fit == "patches" else "images"
    CONSOLE.print(
        f"{run.workdir}: {positives} positive {what} "
        f"({sum(s.label == 1 and s.mask is not None for s in train_samples)} with masks) and "
        f"{len(train_samples) - positives} negative ones to train on, "
        f"{len(run.split.validation)} images to validate, {len(run.split.test)} to test; "
        f"{num_steps} steps of {run.config.training.batch_size}"
    )


def describe_devices(mesh: Mesh, shared: str) -> None:
    """Says what a training computes on, and why not on all there is: what is `shared` does not divide by it."""
    CONSOLE.print(f"on {mesh.size} x {mesh.devices.flat[0].device_kind}")
    count = jax.local_device_count()
    if mesh.size < count:
        CONSOLE.print(f"{count - mesh.size} devices stay idle: {shared} does not divide by {count}")
