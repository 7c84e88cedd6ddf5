"""What the processor can do, as Linux says."""

import functools
import platform
from pathlib import Path


def features() -> str:
    """The line of /proc/cpuinfo that lists them; where there is none, the processor's name."""
    return _line("flags", "Features") or platform.processor()


def has_narrow_vectors() -> bool:
    """Whether it has AVX2 and not AVX-512: vectors of 8 float32, not 16."""
    names = features().split()
    return "avx2" in names and "avx512f" not in names


def has_wide_vectors() -> bool:
    """Whether it computes two vectors of 16 float32 at once, as Intel's with AVX-512 do; AMD's Zen 4 takes halves."""
    return "avx512f" in features().split() and "GenuineIntel" in _line("vendor_id")


@functools.cache
def _line(*names: str) -> str:
    """The first line of /proc/cpuinfo of one of these names, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line for line in lines if line.startswith(names)), "")
