"""Brings the runs of a study to their end: what is finished is read, what is missing is trained and evaluated."""

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from jaxdefect import system
from jaxdefect.config import Config
from jaxdefect.data import pipeline, readers, splits
from jaxdefect.reports import files
from jaxdefect.studies import results
from jaxdefect.studies.results import Result
from jaxdefect.training import runs, stacked
from jaxdefect.training.logging import CONSOLE
from jaxdefect.types import InputError

ERROR_LOG = "error.log"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the runs, by directory: a result, or an error in one line.

    `code`: 0, or 128 + the signal's number when interrupted; then some have neither.
    """

    results: Mapping[Path, Result]
    errors: Mapping[Path, str]
    code: int


def execute(configs: Mapping[Path, Config], *, stack: int = 1) -> Outcome:
    """Trains and evaluates the runs that have no result yet, one after another, or `stack` of them at once.

    A run that fails does not stop the others: its error is kept, in full in the file error.log of its directory. The
    next call tries it again.

    Args:
      configs: by directory.
      stack: how many runs to train as one compiled program, where they can be.

    Raises:
      InputError: a directory holds a run of another config, or a broken result; before anything is trained.
    """
    if stack < 1:
        raise InputError(f"--stack={stack}: must be 1 (one run after another) or more")
    found: dict[Path, Result] = {}
    for directory, config in configs.items():
        runs.check_config(directory, config)
        if (result := results.load(directory)) is not None:
            found[directory] = result
    missing = {directory: config for directory, config in configs.items() if directory not in found}
    if found:
        CONSOLE.print(f"{len(found)} of {len(configs)} runs are finished already")
    errors: dict[Path, str] = {}
    for number, group in enumerate(together := groups(missing, stack), 1):
        CONSOLE.print(f"({number} of {len(together)}) {', '.join(str(directory) for directory in group)}")
        code = _train_group({directory: missing[directory] for directory in group})
        if code:
            return Outcome(found, errors, code)
        for directory in group:
            outcome = _finish(directory, missing[directory])
            if isinstance(outcome, int):
                return Outcome(found, errors, outcome)
            if isinstance(outcome, Result):
                found[directory] = outcome
            else:
                errors[directory] = outcome
        jax.clear_caches()  # of programs that no other run uses: a study of a hundred runs must fit into memory
    return Outcome(found, errors, 0)


def groups(configs: Mapping[Path, Config], stack: int) -> Sequence[Sequence[Path]]:
    """The directories in groups of at most `stack` to train at once: of one program, with epochs of one length."""
    if stack == 1:
        return [[directory] for directory in configs]
    alike: dict[object, list[Path]] = {}
    for directory, config in configs.items():
        alike.setdefault(_key(directory, config), []).append(directory)
    return [same[i : i + stack] for same in alike.values() for i in range(0, len(same), stack)]


def _key(directory: Path, config: Config) -> object:
    """Equal for runs that can be stacked: of one program, with epochs of one length; else the run's own."""
    program = stacked.program_of(config)
    if program is None:
        return directory
    if config.training.steps_per_epoch:
        return program, config.training.steps_per_epoch
    try:
        samples = readers.read(config.data)
        train = pipeline.training_samples(samples, splits.make(samples, config.split), config.data)
    except InputError:
        return directory  # trained alone it says what is wrong
    return program, pipeline.steps_per_epoch(train, batch_size=config.training.batch_size)


def _train_group(configs: Mapping[Path, Config]) -> int:
    """Trains several runs at once; the exit code. A failure is left to `_finish`, which goes on with each by itself."""
    if len(configs) == 1:
        return 0
    try:
        return stacked.train(configs, goes_on=True)
    except Exception as error:
        CONSOLE.print(f"training {len(configs)} runs at once failed, so one after another: {_one_line(error)}")
        return 0


def _finish(directory: Path, config: Config) -> Result | str | int:
    """Trains a run to its end and evaluates it; its result, its error, or the exit code of an interruption."""
    try:
        if code := system.train(config, directory, goes_on=True):
            return code
        result = results.evaluate(directory)
    # Whatever a run dies of, memory included, the others go on; it is reported and kept in full.
    except Exception as error:
        files.write(directory / ERROR_LOG, traceback.format_exc())
        text = _one_line(error)
        CONSOLE.print(f"{directory}: failed: {text}")
        return text
    (directory / ERROR_LOG).unlink(missing_ok=True)
    return result


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
