"""A run's directory: the config as resolved, the split, the versions; the same command resumes, another is refused."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.data import checks, splits
from jaxdefect.types import InputError, Sample, Split

_CONFIG, _SPLIT, _VERSIONS = "config.json", "split.json", "versions.jsonl"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's directory says of itself."""

    workdir: Path
    config: Config
    split: Split


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
    config = config_lib.from_dict(json.loads((workdir / _CONFIG).read_text()))
    return Run(workdir, config, splits.load(workdir / _SPLIT))


def check_config(workdir: Path, config: Config) -> None:
    """Refuses a directory that holds a run of another config.

    Raises:
      InputError: with every setting that differs.
    """
    path = workdir / _CONFIG
    if not path.exists():
        return
    lines = config_lib.difference(json.loads(path.read_text()), config_lib.to_dict(config))
    if lines:
        raise InputError(
            f"--workdir={workdir} holds a run of another config:\n  "
            + "\n  ".join(lines)
            + "\nUse the old settings to resume it, or another --workdir for a new run."
        )


def open_run(workdir: Path, config: Config, samples: Sequence[Sample]) -> Run:
    """Starts a run in `workdir`, or finds the one that is there; the split is made once and then read back.

    Raises:
      InputError: another config, a broken split, or an unreadable image or mask.
    """
    check_config(workdir, config)
    path = workdir / _SPLIT
    if path.exists():
        split = splits.load(path)
        splits.check(split, samples)
    else:
        split = splits.make(samples, config.split)
        splits.check(split, samples)
        used = {*split.train, *split.validation, *split.test}
        checks.check_samples([sample for sample in samples if sample.id in used])
        splits.save(split, path)
    _write(workdir / _CONFIG, json.dumps(config_lib.to_dict(config), indent=2) + "\n")
    with (workdir / _VERSIONS).open("a") as file:
        file.write(json.dumps(versions()) + "\n")
    return Run(workdir, config, split)


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
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return {
        **{name: importlib.metadata.version(name) for name in names},
        "python": platform.python_version(),
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "git_commit": git.stdout.strip() or None,
    }


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
