"""Settings of glibc's memory, which a process reads when it starts and never again. Imports nothing that takes time."""

import os
import platform
import sys
from pathlib import Path

_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLES = "GLIBC_TUNABLES"


def settings(*, has_huge_pages: bool, keeps_memory: bool) -> str:
    """The value of GLIBC_TUNABLES.

    Args:
      has_huge_pages: for large arrays: on a CPU a training step is a sixth faster. Those of an image, of a few MB, then
        come from a heap that keeps 128 MB, as every new huge page is cleared whole: the input is a fifth faster.
      keeps_memory: one heap for all threads (others are small, and return what is above their size) that returns
        nothing: for a process that waits for its work, whose free memory a virtual machine would take away.
    """
    values: dict[str, int] = {}
    if has_huge_pages:
        values |= {"hugetlb": 1, "mmap_threshold": 2**25, "trim_threshold": 2**27}
    if keeps_memory:
        values |= {"arena_max": 1, "mmap_threshold": 2**40, "trim_threshold": 2**40}
    return ":".join(f"glibc.malloc.{name}={value}" for name, value in values.items())


def start_with_settings() -> None:
    """Starts the program anew with `settings` unless the user has set some: huge pages where Linux leaves the choice to
    programs, and memory that is kept with --watch.
    """
    if _TUNABLES in os.environ or platform.libc_ver()[0] != "glibc":
        return
    try:
        is_left_to_programs = "[madvise]" in _PAGES.read_text()
    except OSError:  # a kernel without huge pages
        is_left_to_programs = False
    is_waiting = any(argument.lstrip("-").partition("=")[0] == "watch" for argument in sys.orig_argv)
    found = settings(has_huge_pages=is_left_to_programs, keeps_memory=is_waiting)
    if found:
        os.environ[_TUNABLES] = found
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # images are shrunk in several threads already
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
