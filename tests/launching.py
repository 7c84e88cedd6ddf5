"""Launchers as `python -m launch.VERB` runs them, without the seconds that each start takes to import JAX.

A process that has imported everything, and run nothing, forks one for every start.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["launch.cli", "jaxdefect.system", "jaxdefect.reports.evaluation"])


def start(verb: str, arguments: Sequence[str], *, output: Path) -> int | None:
    """Runs a launcher to its end, its output and errors in the file `output`; the exit code."""
    process = _SERVER.Process(target=_run, args=(verb, arguments, output))
    process.start()
    process.join()
    return process.exitcode


def _run(verb: str, arguments: Sequence[str], output: Path) -> None:
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    sys.argv = [verb, *arguments]
    runpy.run_module(f"launch.{verb}", run_name="__main__", alter_sys=True)
