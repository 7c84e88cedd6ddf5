"""What the processor can do, as Linux says."""

import functools
import platform
from pathlib import Path


@functools.cache
def features() -> str:
    """The line of /proc/cpuinfo that lists them; where there is none, the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def has_narrow_vectors() -> bool:
    """Whether it has AVX2 and not AVX-512: vectors of 8 float32, not 16."""
    names = features().split()
    return "avx2" in names and "avx512f" not in names
