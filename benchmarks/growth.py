"""How time and memory grow with the image's area, the batch, and the number of trainings in one program.

    python -m benchmarks.growth --out=benchmarks/results/growth_cpu.json --plot=benchmarks/results/growth_cpu.png

SegDecNet with the joint training's settings, random images. Every point runs in a process of its own, which may take
`--memory_gb` at most: where one wants more its series ends and the others go on. A file that exists is completed.
"""

import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")
_PLOT = flags.DEFINE_string("plot", None, "PNG file for the plot.")
_MEMORY_GB = flags.DEFINE_float("memory_gb", 16.0, "The most that a process may take.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Timed calls of each point.")
_POINT = flags.DEFINE_string("point", None, "Used inside: the JSON of one point to run.")


@dataclasses.dataclass(frozen=True)
class Point:
    """`runs` trainings (or one inference) of `batch_size` images of a size."""

    series: str
    mode: str
    image_size: tuple[int, int]
    batch_size: int = 1
    runs: int = 1


_AREAS = ((512, 512), (704, 704), (1024, 1024), (1408, 1408), (2048, 2048), (2816, 2816), (4096, 4096))
_COUNTS = (1, 2, 4, 8, 16)
POINTS = (
    *(Point("inference by area", "inference", size) for size in _AREAS),
    *(Point("training by area", "train", size) for size in _AREAS),
    *(Point("inference by batch, 704x256", "inference", (704, 256), batch_size=count) for count in _COUNTS),
    *(Point("training by batch, 352x128", "train", (352, 128), batch_size=count) for count in _COUNTS),
    *(Point("training by stacked runs, 128x64", "train", (128, 64), runs=count) for count in _COUNTS),
)


def _run(point: Point, *, repetitions: int) -> dict[str, float]:
    """Seconds of a call, and the process's peak memory above what it held before, in bytes."""
    from jaxdefect.benchmark import measure, modes
    from jaxdefect.config import Config

    before, config = measure.resident_bytes("VmRSS"), Config()
    if point.runs > 1:
        seconds = _stacked(config, point, repetitions=repetitions)
        return {"seconds": seconds, "peak_bytes": measure.resident_bytes("VmHWM") - before}
    setting = modes.Setting(point.mode, point.batch_size, point.image_size, "float32")
    figures = modes.run(config, setting, repetitions=repetitions, with_layers=False)
    return {"seconds": figures["times"]["median"], "peak_bytes": figures["memory"]["host"] - before}


def _stacked(config: Any, point: Point, *, repetitions: int) -> float:
    import jax
    import numpy as np

    from jaxdefect import models
    from jaxdefect.benchmark import measure, modes
    from jaxdefect.training import stacked, state

    setting = modes.Setting("train", point.batch_size, point.image_size, "float32")
    config = modes.with_setting(config, setting)
    module, mesh = models.build(config.model), stacked.mesh_of(point.runs)
    (stage, *_) = state.stages(config, steps_per_epoch=1000)
    compiled = stacked.make_step(module, [config] * point.runs, stage.name, steps_per_epoch=1000, mesh=mesh)

    def repeat(leaf: Any) -> Any:
        return np.repeat(np.asarray(leaf)[None], point.runs, axis=0)

    batch = jax.device_put(jax.tree.map(repeat, modes.random_batch(config)))
    holder = [jax.device_put(jax.tree.map(repeat, state.initial_state(module, config, stage)))]

    def train() -> Any:
        holder[0], metrics = compiled(holder[0], batch)
        return metrics

    return measure.time_calls(train, repetitions=repetitions, warmup=2).median


def main(argv: Sequence[str]) -> None:
    """Runs the points that the file lacks, writes it after each, and plots."""
    del argv
    if _POINT.value:
        limit = int(_MEMORY_GB.value * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        values = json.loads(_POINT.value)
        point = Point(**{**values, "image_size": tuple(values["image_size"])})
        print(json.dumps(_run(point, repetitions=_REPETITIONS.value)))
        return
    from jaxdefect.benchmark import environment, results

    if not _OUT.value:
        raise app.UsageError("--out=FILE.json is missing")
    path = Path(_OUT.value)
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    known = {json.dumps(row["point"]) for row in content["rows"]}
    broken = {row["point"]["series"] for row in content["rows"] if "failure" in row}
    for point in POINTS:
        text = json.dumps(dataclasses.asdict(point))
        if text in known or point.series in broken:
            continue
        command = [sys.executable, "-m", "benchmarks.growth", f"--point={text}", f"--memory_gb={_MEMORY_GB.value}"]
        done = subprocess.run([*command, f"--repetitions={_REPETITIONS.value}"], capture_output=True, text=True)
        if done.returncode:
            broken.add(point.series)
            figures: dict[str, Any] = {"failure": (done.stderr.strip().splitlines() or [f"{done.returncode}"])[-1]}
        else:
            figures = json.loads(done.stdout.splitlines()[-1])
        print(point, figures, flush=True)
        content["rows"].append({"point": json.loads(text), **figures, "environment": environment.describe()})
        results.save(path, content)
    if _PLOT.value:
        _plot(content["rows"], Path(_PLOT.value))


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds and gigabytes of each series, a column for each kind; a dotted line where memory ended."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = {"by area": "megapixels", "by batch": "images", "by stacked runs": "runs"}
    figure, axes = pyplot.subplots(2, len(columns), figsize=(12, 6), layout="constrained")
    for column, (kind, unit) in enumerate(columns.items()):
        for series in dict.fromkeys(row["point"]["series"] for row in rows if kind in row["point"]["series"]):
            own = [row for row in rows if row["point"]["series"] == series]
            amounts = [_amount(row["point"], kind) for row in own]
            for line, (key, scale) in enumerate((("seconds", 1.0), ("peak_bytes", 2.0**-30))):
                found = [(x, row[key] * scale) for x, row in zip(amounts, own, strict=True) if key in row]
                axes[line, column].plot(*zip(*found, strict=True), marker="o", label=series)
                axes[line, column].set(xscale="log", yscale="log", xlabel=unit, ylabel=("seconds", "peak GiB")[line])
                for x, row in zip(amounts, own, strict=True):
                    if "failure" in row:
                        axes[line, column].axvline(x, color="red", linestyle=":")
        if unit != "megapixels":
            for line in axes[:, column]:
                line.set_xticks(_COUNTS, map(str, _COUNTS))
                line.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes[0, column].legend()
    figure.savefig(path, dpi=80)


def _amount(point: dict[str, Any], kind: str) -> float:
    height, width = point["image_size"]
    return {"by area": height * width / 1e6, "by batch": point["batch_size"], "by stacked runs": point["runs"]}[kind]


if __name__ == "__main__":
    app.run(main)
