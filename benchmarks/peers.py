"""Times jaxdefect against PyTorch on the same device, in turns, after checking that both compute the same.

    python -m benchmarks.peers --out=benchmarks/results/peers_cpu.json [--cases=segdec_inference,segdec_training]

Wants the `benchmark` extra. Each case runs our jitted function and PyTorch in each of its settings (eager,
channels-last; with `--compile`, compiled) alternately; the ratio of the medians is the result. Each of them has a
process of its own, idle while another is timed: in one process their thread pools and allocators disturb each other.
A turn begins with a call that is not timed, as a virtual machine takes the memory of an idle process away.
All processes get the memory pages that our launchers ask for (`launch.cli`), unless `--nohuge_pages`. The peak is what
resident memory grows to above what it was before the model was made, with either library loaded and started; what only
checks the outputs is dropped first.
"""

import contextlib
import ctypes
import dataclasses
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxdefect import models
from jaxdefect.benchmark import environment, measure
from jaxdefect.config import Config, LossConfig, OptimizerConfig
from jaxdefect.model_config import ModelConfig, RegressionConfig, SegDecConfig, UNetMobileNetV2Config
from jaxdefect.training import state, step

_CASES = flags.DEFINE_list("cases", None, "Cases to run; all by default.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Turns of each side.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures; what it holds of other cases stays.")
_COMPILE = flags.DEFINE_bool("compile", False, "Try torch.compile too.")
_HUGE_PAGES = flags.DEFINE_bool("huge_pages", True, "Let all processes use huge memory pages.")

_STEEL = SegDecConfig(kernels="atrous", attention=True)
Timed = Callable[[], Any]  # one call, waited for


@dataclasses.dataclass(frozen=True)
class Case:
    """A network at a size. `is_training`: a step of plain SGD on both losses, else an inference."""

    model: ModelConfig
    size: tuple[int, int]
    batch: int = 1
    channels: int = 1
    is_training: bool = False


CASES = {
    "segdec_inference": Case(SegDecConfig(), (1408, 512)),
    "segdec_training": Case(SegDecConfig(), (704, 256), is_training=True),
    "steel_inference": Case(_STEEL, (1408, 512)),
    "steel_training": Case(_STEEL, (704, 256), is_training=True),
    "regression_inference": Case(RegressionConfig(), (256, 256), batch=64),
    "unet_mobilenet_inference": Case(UNetMobileNetV2Config(input_norm="none"), (256, 1248), channels=3),
}


def _batch(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    height, width = case.size
    label = (np.arange(case.batch) % 2 == 0).astype(np.float32)
    cells = (case.batch, height // case.model.output_stride, width // case.model.output_stride, 1)
    return {
        "image": rng.random((case.batch, height, width, case.channels), np.float32),
        "mask": (rng.random(cells) < 0.1).astype(np.float32) * label[:, None, None, None],
        "weight": np.ones(cells, np.float32),
        "label": label,
        "has_mask": np.ones(case.batch, np.float32),
    }


def _variables(case: Case) -> dict[str, Any]:
    return models.init(models.build(case.model), num_channels=case.channels, seed=0)


def our_side(case: Case) -> tuple[Timed, Callable[[], list[np.ndarray]]]:
    """Our timed call, and the outputs to compare: maps and decisions before any step."""
    module, batch = models.build(case.model), _batch(case)
    image = jnp.asarray(batch["image"])

    @jax.jit
    def forward(variables: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = models.apply_inference(module.apply, variables, image)
        return outputs["segmentation"], outputs["decision"]

    if not case.is_training:
        prepared = models.inference_variables(case.model, _variables(case), image_size=case.size)
        return (
            lambda: jax.block_until_ready(forward(prepared, image)),
            lambda: [np.asarray(value) for value in forward(prepared, image)],
        )
    config = Config(model=case.model, loss=LossConfig(), optimizer=OptimizerConfig(learning_rate=1e-3))
    stage = state.stages(config, steps_per_epoch=100)[0]
    compiled = step.make_step(module, config, stage)
    holder = [state.initial_state(module, config, stage)]
    placed = jax.device_put(batch)

    def train() -> None:
        holder[0], metrics = compiled(holder[0], placed)
        jax.block_until_ready((holder[0], metrics))

    def outputs() -> list[np.ndarray]:
        values = [np.asarray(value) for value in forward({"params": holder[0].params}, image)]
        forward.clear_cache()
        return values

    return train, outputs


def their_side(case: Case, *, setting: str) -> tuple[Timed, Callable[[], list[np.ndarray]]]:
    """PyTorch's timed call in one setting, and the outputs to compare."""
    import torch
    import torch.nn.functional as F

    from benchmarks import torch_models

    module = {
        "segdec": lambda: torch_models.SegDec(is_atrous=case.model == _STEEL, channels=case.channels),
        "regression": lambda: torch_models.Regression(case.channels),
        "unet_mobilenet_v2": lambda: torch_models.UNetMobileNetV2(case.channels),
    }[case.model.architecture]()
    torch_models.copy_variables(module, _variables(case))
    layout = torch.channels_last if "channels_last" in setting else torch.contiguous_format
    arrays = {name: torch.from_numpy(value) for name, value in _batch(case).items()}
    image = arrays["image"].permute(0, 3, 1, 2).contiguous(memory_format=layout)
    mask = arrays["mask"].permute(0, 3, 1, 2).contiguous()
    module = module.to(memory_format=layout).train(case.is_training)
    called = torch.compile(module) if "compile" in setting else module

    def forward() -> tuple[Any, Any]:
        with torch.inference_mode():
            return called(image)

    def outputs() -> list[np.ndarray]:
        maps, decision = forward()
        return [maps.permute(0, 2, 3, 1).contiguous().numpy(), decision.numpy()]

    if not case.is_training:
        return forward, outputs
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        maps, decision = called(image)
        loss = F.binary_cross_entropy_with_logits(maps, mask)
        loss = loss + 0.1 * F.binary_cross_entropy_with_logits(decision, arrays["label"])
        loss.backward()
        optimizer.step()

    return train, outputs


def _serve(connection: Connection, case: Case, setting: str) -> None:
    """One side's process: sends its outputs; then for every True that comes a turn's seconds; last its peak."""
    if setting == "jaxdefect":
        jax.block_until_ready(jax.jit(jnp.sin)(0.0))  # the libraries' own size is none of the step's
    else:
        import torch  # noqa: F401

    before = measure.resident_bytes("VmRSS")
    call, outputs = our_side(case) if setting == "jaxdefect" else their_side(case, setting=setting)
    connection.send(outputs())
    call()  # compiles, which is none of the step's either: nor is what the allocator keeps of it
    ctypes.CDLL(None).malloc_trim(0)
    measure.forget_peak()
    while connection.recv():
        call()
        start = time.perf_counter()
        call()
        connection.send(time.perf_counter() - start)
    connection.send(measure.resident_bytes("VmHWM") - before)


@contextlib.contextmanager
def _side(case: Case, setting: str) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, case, setting), daemon=True)
    process.start()
    theirs.close()  # so that reading ends where the process does
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def compare(case: Case) -> dict[str, Any]:
    """Checks that both sides agree and times them in turns.

    Raises:
      RuntimeError: the outputs differ by more than 1e-3 of the largest.
      EOFError: a side's process has failed; what it printed says why.
    """
    settings = ["eager", "channels_last"] + (["compile", "compile_channels_last"] if _COMPILE.value else [])
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(_side(case, name)) for name in ("jaxdefect", *settings)}
        outputs = {name: side.recv() for name, side in sides.items()}
        difference = _difference(case, outputs["jaxdefect"], outputs["eager"])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(_REPETITIONS.value):
            for name, side in sides.items():
                side.send(True)
                seconds[name].append(side.recv())
        peaks = {}
        for name, side in sides.items():
            side.send(False)
            peaks[name] = side.recv()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(settings, key=lambda name: medians[name])
    return {
        "seconds": {name: sorted(values) for name, values in seconds.items()},
        "median": medians,
        "best_of_pytorch": best,
        "ratio_to_eager": medians["eager"] / medians["jaxdefect"],
        "ratio_to_best": medians[best] / medians["jaxdefect"],
        "largest_difference": difference,
        "peak_bytes": peaks,
    }


def _difference(case: Case, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    # Of the decisions U-Net's and regression's are other functions of the same map.
    count = 2 if case.model.architecture == "segdec" else 1
    pairs = zip(ours[:count], theirs[:count], strict=True)
    largest = max(float(np.abs(b - a).max() / np.abs(b).max()) for a, b in pairs)
    if largest > 1e-3:
        raise RuntimeError(f"{case}: the two sides differ by {largest:.1e} of the largest output")
    return largest


def main(argv: Sequence[str]) -> None:
    """Runs the cases, prints a line each, writes the JSON file."""
    del argv
    names = _CASES.value or list(CASES)
    if unknown := set(names) - set(CASES):
        raise app.UsageError(f"--cases: {', '.join(sorted(unknown))}: must be among {', '.join(CASES)}")
    if _HUGE_PAGES.value:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # read by the processes that are started below
    path = Path(_OUT.value) if _OUT.value else None
    kept: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    for name in names:
        case = CASES[name]
        figures = compare(case) | {"has_huge_pages": _HUGE_PAGES.value}
        kept[name] = figures | {"case": dataclasses.asdict(case), "environment": environment.describe()}
        print(_line(name, figures), flush=True)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(kept, indent=1) + "\n")


def _line(name: str, figures: Mapping[str, Any]) -> str:
    times = ", ".join(f"{side} {seconds:.3f} s" for side, seconds in figures["median"].items())
    peaks = ", ".join(f"{side} {count / 2**20:.0f} MiB" for side, count in figures["peak_bytes"].items())
    return (
        f"{name}: {times}; eager / ours {figures['ratio_to_eager']:.2f}, best / ours {figures['ratio_to_best']:.2f}"
        f" (difference {figures['largest_difference']:.0e}); peak {peaks}"
    )


if __name__ == "__main__":
    app.run(main)
