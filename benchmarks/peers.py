"""Times jaxdefect against PyTorch on the same device, in turns, after checking that both compute the same.

    python -m benchmarks.peers --out=benchmarks/results/peers_cpu.json [--cases=segdec_inference,segdec_training]
    python -m benchmarks.peers --device=cuda --dtypes=bfloat16 --batch_sizes=1,8,32 --cases=segdec_inference --compile

Wants the `benchmark` extra. Each case runs our compiled function and PyTorch in each of its settings (eager,
channels-last; with `--compile`, compiled, on a GPU also as CUDA graphs) alternately; the ratio of the medians is the
result. Each of them has a process of its own, idle while another is timed: in one process their thread pools and
allocators disturb each other. A turn begins with a call that is not timed, as a virtual machine takes the memory of
an idle process away; on a GPU it is the median of twenty calls, after a third of a second of others. All processes,
PyTorch's too, get glibc's settings that our launchers start with (`launch.cli`), in inference those of
`launch.predict --watch`; not with `--nomemory_settings`.
The peak on a CPU is what resident memory grows to above what it was before the model was made, with either library
loaded and started; what only checks the outputs is dropped first. On a GPU it is what a call holds, weights included.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import sides
from benchmarks.sides import CASES, Case
from jaxdefect.benchmark import environment, measure, modes, results
from jaxdefect.model_config import check_image_size
from jaxdefect.types import InputError
from launch import cli, memory

_CASES = flags.DEFINE_list("cases", None, "Cases to run; all by default.")
_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "cuda"], "Of both sides.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "Of both sides: float32, tf32, bfloat16.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "Images per call; the case's own by default.")
_SIZE = flags.DEFINE_string("size", None, "Of the images, HEIGHTxWIDTH; the case's own by default.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Turns of each side.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures; what it holds of other cases stays.")
_COMPILE = flags.DEFINE_bool("compile", False, "Try torch.compile too.")
_MEMORY_SETTINGS = flags.DEFINE_bool("memory_settings", True, "Give all processes glibc's settings of our launchers.")

# The largest difference of two sides that compute the same, of the largest output.
# Both sides round to seven bits in bfloat16, and fourteen norms magnify it.
_TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 0.3}
# Of what a step changes in the outputs, which is a small part of them; that of a gradient that is 0 differs by 1.
_STEP_TOLERANCE = {"float32": 0.05, "tf32": 0.5, "bfloat16": 0.75}
_RESTLESS = 1.5  # the slowest turn of a side, as a multiple of its fastest
_CALLS_OF_A_TURN = 20  # on a GPU


def _serve(connection: Connection, case: Case, setting: str, device: str) -> None:
    """One side's process: sends its outputs, those after a first call too; then for every True that comes a turn's
    seconds; last its peak.
    """
    if setting != "jaxdefect":
        import torch

        jax.config.update("jax_platforms", "cpu")  # it makes the weights; the GPU is PyTorch's
        if "compile" in setting:
            parameter = torch.ones(2, requires_grad=case.is_training)
            output = torch.compile(lambda x: x * 2 + 1)(parameter).sum()
            if case.is_training:
                output.backward()
    jax.block_until_ready(jax.jit(jnp.sin)(0.0))

    # The size of the libraries, once they are started, is none of the network's.
    ctypes.CDLL(None).malloc_trim(0)
    before = measure.resident_bytes("VmRSS")
    side = sides.ours(case) if setting == "jaxdefect" else sides.pytorchs(case, setting=setting, device=device)
    connection.send(side.outputs())
    side.call()  # compiles, which is none of the step's either: nor is what the allocator keeps of it
    connection.send(side.outputs())
    ctypes.CDLL(None).malloc_trim(0)
    measure.forget_peak()
    is_on_cpu = device == "cpu"
    while _is_wanted(connection):
        connection.send(_turn(side.call, is_on_cpu=is_on_cpu))
    connection.send(measure.resident_bytes("VmHWM") - before if is_on_cpu else side.device_bytes())


def _turn(call: Callable[[], Any], *, is_on_cpu: bool) -> float:
    """Seconds of the second call; on a GPU, whose clock falls while others have their turn, the median of many."""
    start = time.perf_counter()
    call()
    while not is_on_cpu and time.perf_counter() - start < measure.WARM_S:
        call()
    return measure.time_calls(call, repetitions=1 if is_on_cpu else _CALLS_OF_A_TURN, warmup=0).median


def _is_wanted(connection: Connection) -> bool:
    """Whether the other end asks for a turn; it closes when another side has failed."""
    try:
        return connection.recv()
    except EOFError:
        raise SystemExit from None


@contextlib.contextmanager
def _side(case: Case, setting: str, device: str) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, case, setting, device), daemon=True)
    process.start()
    theirs.close()  # so that reading ends where the process does
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def compare(case: Case, *, device: str) -> dict[str, Any]:
    """Checks that both sides agree and times them in turns.

    Raises:
      RuntimeError: the outputs, or what a training's first step makes of them, differ by more than `_TOLERANCE`.
      EOFError, OSError: a side's process has failed; what it printed says why.
    """
    tunables = memory.settings(has_huge_pages=True, keeps_memory=not case.is_training)
    if _MEMORY_SETTINGS.value:
        os.environ["GLIBC_TUNABLES"] = tunables  # which the processes started now read
    settings = ["eager", "channels_last"] + (["compile", "compile_channels_last"] if _COMPILE.value else [])
    settings += ["compile_graphs_channels_last"] if _COMPILE.value and device == "cuda" else []
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(_side(case, name, device)) for name in ("jaxdefect", *settings)}
        first, second = ({name: process.recv() for name, process in processes.items()} for _ in range(2))
        of_step: dict[str, float] = {}
        differences = {name: _difference(case, first["jaxdefect"], first[name]) for name in settings}
        if case.is_training:  # what one step made of the outputs
            steps = {name: [b - a for a, b in zip(first[name], second[name], strict=True)] for name in processes}
            of_step |= {name: _difference(case, steps["jaxdefect"], steps[name], is_step=True) for name in settings}
        seconds: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(_REPETITIONS.value):
            for name, process in processes.items():
                process.send(True)
                seconds[name].append(process.recv())
        peaks = {}
        for name, process in processes.items():
            process.send(False)
            peaks[name] = process.recv()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(settings, key=lambda name: medians[name])
    return {
        "memory_settings": os.environ.get("GLIBC_TUNABLES"),
        "seconds": {name: sorted(values) for name, values in seconds.items()},
        "median": medians,
        "best_of_pytorch": best,
        "ratio_to_eager": medians["eager"] / medians["jaxdefect"],
        "ratio_to_best": medians[best] / medians["jaxdefect"],
        "largest_difference": max(differences.values()),
        "largest_difference_of_a_step": max(of_step.values(), default=None),
        "peak_bytes": peaks,
        "load_before": load,  # of the machine in the last minute: more than nothing is other work
    }


def _difference(
    case: Case, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], *, is_step: bool = False
) -> float:
    # Of the decisions U-Net's and regression's are other functions of the same map.
    count = 2 if case.model.architecture == "segdec" else 1
    pairs = zip(ours[:count], theirs[:count], strict=True)
    largest = float(np.max([np.abs(b - a).max() / np.abs(b).max() for a, b in pairs]))  # NaN if there is one
    if not largest <= (_STEP_TOLERANCE if is_step else _TOLERANCE)[case.model.dtype]:
        raise RuntimeError(f"{case}: the two sides differ by {largest:.1e} of the largest output")
    return largest


def _wanted() -> dict[str, Case]:
    """What the flags ask for; the name of a case says what differs from its own settings."""
    names = _CASES.value or list(CASES)
    for flag, values, known in (("cases", names, CASES), ("dtypes", _DTYPES.value, modes.DTYPES)):
        if unknown := set(values) - set(known):
            raise app.UsageError(f"--{flag}: {', '.join(sorted(unknown))}: must be among {', '.join(known)}")
    try:
        batches = [int(text) for text in _BATCH_SIZES.value or []]
        size = cli.size(_SIZE.value, flag="size") if _SIZE.value else None
        if any(batch < 1 for batch in batches):
            raise InputError("a batch has at least one image")
        for name in names if size else ():
            check_image_size(*size, step=CASES[name].model.size_step, setting=f"--size, {name}")
    except (ValueError, InputError) as error:
        raise app.UsageError(f"--batch_sizes as 1,8,32 and --size as 1408x512: {error}") from error
    wanted = {}
    for name, dtype in itertools.product(names, _DTYPES.value):
        case = dataclasses.replace(CASES[name], model=dataclasses.replace(CASES[name].model, dtype=dtype))
        for batch in batches or [case.batch]:
            changed = dataclasses.replace(case, batch=batch, size=size or case.size)
            parts = [name] + [dtype] * (dtype != "float32") + [_SIZE.value] * (changed.size != case.size)
            wanted[" ".join(parts + [f"batch {batch}"] * (batch != case.batch))] = changed
    return wanted


def main(argv: Sequence[str]) -> None:
    """Runs the cases, prints a line each, writes the JSON file; a case that fails does not stop the others."""
    del argv
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: torch is missing: pip install '.[benchmark]'")
    wanted, device = _wanted(), _DEVICE.value
    # Read by the processes that are started below.
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "cuda": "cuda,cpu"}[device]
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU's memory is for all sides
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    path = Path(_OUT.value) if _OUT.value else None
    kept: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    failed = []
    for name, case in wanted.items():
        try:
            figures = compare(case, device=device)
        except (EOFError, OSError, RuntimeError) as error:  # OSError: a process that died while it waited
            failed.append(name)
            print(f"{name}: failed: {str(error) or 'a process ended, see above'}", flush=True)
            continue
        kept[name] = figures | {"case": dataclasses.asdict(case), "environment": environment.describe()}
        print(_line(name, case, figures), flush=True)
        if restless := [side for side, turns in figures["seconds"].items() if turns[-1] > _RESTLESS * turns[0]]:
            print(f"  the machine is restless: the slowest turn took {_RESTLESS} times the fastest of {restless}")
        if path:
            results.save(path, kept)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _line(name: str, case: Case, figures: Mapping[str, Any]) -> str:
    times = ", ".join(f"{side} {1000 * seconds:.3g} ms" for side, seconds in figures["median"].items())
    peaks = ", ".join(f"{side} {count / 2**20:.0f} MiB" for side, count in figures["peak_bytes"].items())
    best = figures["best_of_pytorch"]
    rates = [f"{case.batch / figures['median'][side]:.4g}" for side in ("jaxdefect", best)]
    return (
        f"{name}: {times}; eager / ours {figures['ratio_to_eager']:.2f}, best / ours {figures['ratio_to_best']:.2f}"
        f" (images/s {rates[0]} and {rates[1]}; difference {figures['largest_difference']:.0e}); peak {peaks}"
    )


if __name__ == "__main__":
    app.run(main)
