"""What a figure was measured on."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from typing import Any

import jax

from jaxdefect.training import runs


def describe() -> dict[str, Any]:
    """Device, cores, versions, commit, command and date, for a result's JSON file."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "torch", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "git_commit": runs.git_commit(),
        "command": shlex.join(sys.orig_argv[1:]),
    }


def _processor() -> str:
    """The processor's name, as the kernel gives it."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
