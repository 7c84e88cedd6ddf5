"""What training several runs in one compiled program gains over training them one after the other.

    python -m benchmarks.stacked [--out=FILE.json --cases=segdec_128x64,steel_352x128 --counts=2,4]

Per run and step the seconds of the program of one run, of stacked runs computed in turn within one program, and of
stacked runs by `vmap`; random images. The gain is how often the stacked step fits into that many steps alone.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from benchmarks.sides import STEEL
from jaxdefect import models
from jaxdefect.benchmark import environment, modes, results
from jaxdefect.config import Config
from jaxdefect.model_config import ModelConfig, SegDecConfig, UNetMobileNetV2Config
from jaxdefect.training import stacked, state, step

CASES: dict[str, tuple[ModelConfig, tuple[int, int]]] = {
    "segdec_128x64": (SegDecConfig(), (128, 64)),
    "segdec_352x128": (SegDecConfig(), (352, 128)),
    "steel_64x64": (STEEL, (64, 64)),
    "steel_128x64": (STEEL, (128, 64)),
    "steel_352x128": (STEEL, (352, 128)),
    "unet_mobilenet_128x128": (UNetMobileNetV2Config(), (128, 128)),
}

_CASES = flags.DEFINE_list("cases", list(CASES), "Cases to time.")
_COUNTS = flags.DEFINE_list("counts", ["2", "4"], "Numbers of stacked runs.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Timed steps of each; the ways alternate.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")


def main(argv: Sequence[str]) -> None:
    """Prints a line a case and count."""
    del argv
    rows = []
    for name in _CASES.value:
        for count in map(int, _COUNTS.value):
            alone, in_turn, by_vmap = _medians(*CASES[name], count)
            row = {"case": name, "runs": count, "alone": alone, "in_turn": in_turn / count, "vmap": by_vmap / count}
            gains = ", ".join(f"{way} {alone / row[way]:.2f}" for way in ("in_turn", "vmap"))
            print(f"{name}, {count} runs: {alone:.4f} s a run's step alone; gain {gains}", flush=True)
            rows.append(row)
            if _OUT.value:
                results.save(Path(_OUT.value), {"rows": rows, "environment": environment.describe()})


def _medians(model: ModelConfig, size: tuple[int, int], count: int) -> list[float]:
    """Seconds of a step alone, of `count` runs in turn, and of `count` runs by vmap."""
    setting = modes.Setting("train", 1, size, "float32")
    config = modes.with_setting(Config(model=model), setting)
    module, mesh = models.build(config.model), Mesh(jax.local_devices()[:1], ("runs",))  # one device on all sides
    (stage, *_) = state.stages(config, steps_per_epoch=1000)
    start, batch = state.initial_state(module, config, stage), modes.random_batch(config)

    def repeat(tree: Any) -> Any:
        return jax.device_put(jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, axis=0), tree))

    many, many_batches = repeat(start), repeat(batch)
    ways = [_stepping(step.make_step(module, config, stage), start, jax.device_put(batch))]
    for is_vectorized in (False, True):
        together = stacked.make_step(
            module, [config] * count, stage.name, steps_per_epoch=1000, mesh=mesh, is_vectorized=is_vectorized
        )
        ways.append(_stepping(together, jax.tree.map(np.asarray, many), many_batches))
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(2 + _REPETITIONS.value):
        for way, values in zip(ways, seconds, strict=True):
            begin = time.perf_counter()
            way()
            if turn >= 2:  # compiled, and the memory taken
                values.append(time.perf_counter() - begin)
    return [statistics.median(values) for values in seconds]


def _stepping(run: Callable[[Any, Any], Any], start: Any, batch: Any) -> Callable[[], None]:
    """One training step at each call, waited for."""
    holder = [jax.device_put(start)]

    def once() -> None:
        holder[0], metrics = run(holder[0], batch)
        jax.block_until_ready(metrics)

    return once


if __name__ == "__main__":
    app.run(main)
