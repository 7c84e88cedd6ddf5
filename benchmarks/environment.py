"""What a figure was measured on."""

import importlib.metadata
import os
import platform
from typing import Any

import jax


def describe() -> dict[str, Any]:
    """Device, cores, and versions, for a result's JSON file."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "torch", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": jax.local_devices()[0].device_kind,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name, as the kernel gives it."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
