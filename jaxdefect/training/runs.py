"""A run's directory: the config as resolved, the split, the versions; the same command resumes, another is refused."""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax

from jaxdefect import config as config_lib
from jaxdefect import structure
from jaxdefect.config import Config
from jaxdefect.data import checks, pipeline, splits
from jaxdefect.types import InputError, Sample, Split, Targets

_CONFIG, _SPLIT, _TARGETS, _STARTS = "config.json", "split.json", "targets.json", "starts.jsonl"
_LOCK = "training.lock"
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's directory says of itself; `targets` holds what the training images gave."""

    workdir: Path
    config: Config
    split: Split
    targets: Targets


def load(workdir: str | os.PathLike[str]) -> Run:
    """Reads the directory of a run.

    Raises:
      InputError: it is not one.
    """
    workdir = Path(workdir)
    for name in (_CONFIG, _SPLIT):
        if not (workdir / name).is_file():
            raise InputError(
                f"--workdir={workdir}: not the directory of a run, {name} is missing; train one with launch.train"
            )
    config = config_lib.from_saved(_read_json(workdir / _CONFIG))
    return Run(workdir, config, splits.load(workdir / _SPLIT), _read_targets(workdir, config))


def check_config(workdir: Path, config: Config) -> None:
    """Refuses a directory that holds a run of another config.

    Raises:
      InputError: with every setting that differs.
    """
    if not (workdir / _CONFIG).exists():
        return
    # Through the config, so that a setting that is newer than the run has its default.
    before = config_lib.to_dict(config_lib.from_saved(_read_json(workdir / _CONFIG)))
    lines = structure.difference(before, config_lib.to_dict(config))
    if lines:
        raise InputError(
            f"--workdir={workdir} holds a run of another config:\n  "
            + "\n  ".join(lines)
            + "\nUse the old settings to resume it, or another --workdir for a new run."
        )


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """Keeps other processes from training in `workdir`.

    Raises:
      InputError: another one trains there.
    """
    advice = "another process trains there; stop it (Ctrl-C saves a checkpoint), or name another --workdir"
    with locked(workdir / _LOCK, refusal=f"{workdir}: {advice}"):
        yield


@contextlib.contextmanager
def locked(path: Path, *, refusal: str) -> Iterator[None]:
    """Keeps other processes from where the file `path` stands; the operating system lets go when the process ends.

    A file system that has no locks gets a warning.

    Raises:
      InputError: with `refusal`, another one is there; or the file cannot be made.
    """
    lock = filelock.FileLock(path, timeout=0, mode=0o666)  # others may lock what this user locked before
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(refusal) from error
    except NotImplementedError:
        _LOGGER.warning("%s: the file system has no locks; see to it that one process at a time is there", path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the permissions there") from error
    try:
        yield
    finally:
        lock.release()


def open_run(workdir: Path, config: Config, samples: Sequence[Sample], *, split: Split | None = None) -> Run:
    """Starts a run in `workdir`, or finds the one that is there; the split is made once and then read back.

    `split`: of a part of a system, whose samples the system has read and checked; None: made as the config says.

    Raises:
      InputError: a broken split, an unreadable image or mask, or a directory that cannot be written.
    """
    path = workdir / _SPLIT
    if (workdir / _CONFIG).exists():  # written last, so without it the split was never used
        given, split = split, splits.load(path)
        if given is None:
            try:
                splits.check(split, samples)
                splits.check_training(split, samples, config)
            except InputError as error:
                raise InputError(
                    f"{path}: {error}\nThe run keeps this split: put the data back as it was when it began, or "
                    "start anew in another --workdir."
                ) from error
        return Run(workdir, config, split, _read_targets(workdir, config))
    if split is None:
        split = splits.make(samples, config.split)
        used = {*split.train, *split.validation, *split.test}
        checks.check_samples([sample for sample in samples if sample.id in used])
    splits.check_training(split, samples, config)  # before files that would keep the split are written
    train = pipeline.training_samples(samples, split, config.data)
    _check_warmup(train, config)
    targets = pipeline.make_targets(train, config)
    splits.save(split, path)
    _write(workdir / _TARGETS, json.dumps(dataclasses.asdict(targets)) + "\n")
    _write(workdir / _CONFIG, json.dumps(config_lib.to_dict(config), indent=2) + "\n")
    return Run(workdir, config, split, targets)


def note_start(run: Run, *, steps_per_epoch: int) -> None:
    """Adds a line to starts.jsonl: packages, device, commit, and the length of an epoch.

    Raises:
      InputError: an epoch had another length when the run was started first: the training data has changed.
    """
    path = run.workdir / _STARTS
    lines = path.read_text().splitlines() if path.exists() else []
    if lines and (before := json.loads(lines[0])["steps_per_epoch"]) != steps_per_epoch:
        raise InputError(
            f"{run.workdir}: the data set has changed since the run began: an epoch had {before} steps and has "
            f"{steps_per_epoch} now; put the data back as it was, or start anew in another --workdir"
        )
    _write(
        path, "".join(line + "\n" for line in [*lines, json.dumps({"steps_per_epoch": steps_per_epoch} | versions())])
    )


def versions() -> dict[str, Any]:
    """Packages, Python, device and git commit of this process."""
    names = (
        "jaxdefect",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "grain",
        "orbax-checkpoint",
        "numpy",
        "opencv-python-headless",
    )
    return {
        **{name: importlib.metadata.version(name) for name in names},
        "python": platform.python_version(),
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout that this file is part of; None for an installed package, or without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() or None


def _check_warmup(train: Sequence[Sample], config: Config) -> None:
    """Raises `InputError` where a stage ends before the learning rate has warmed up."""
    steps_per_epoch = config.training.steps_per_epoch or pipeline.steps_per_epoch(
        train, batch_size=config.training.batch_size
    )
    warmup_steps, num_epochs = config.optimizer.warmup_steps, config.training.epochs
    if 0 < num_epochs * steps_per_epoch <= warmup_steps:  # without steps there is no data, which is said later
        raise InputError(
            f"config.optimizer.warmup_steps = {warmup_steps}: a stage has {num_epochs} epochs of {steps_per_epoch} "
            "steps, so its learning rate would never be reached; lower it or train longer"
        )


def _read_targets(workdir: Path, config: Config) -> Targets:
    path = workdir / _TARGETS
    # What the file of an older run lacks, or the whole file, is as the config says.
    values = {"stride": config.model.output_stride, "undisputed_power": config.loss.undisputed_power}
    targets = Targets(**values | (_read_json(path) if path.exists() else {}))
    if targets.stride != config.model.output_stride:
        raise InputError(f"{path}: stride {targets.stride} is not the model's {config.model.output_stride}; restore it")
    return targets


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not of a run ({error}); restore it, or use another --workdir") from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
