"""Where a training's figures go: metrics.jsonl, TensorBoard events, and a progress bar."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import rich.console
import rich.progress

CONSOLE = rich.console.Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def read_figures(workdir: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind ("train", "validation") in a run's metrics.jsonl, in order."""
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["kind"] == kind]


def _summary_writer(directory: Path, *, purge_step: int) -> Any:
    """tensorboardX's writer. It imports PyTorch where it finds it, which takes 2 s and 570 MB, and works without."""
    is_new = sys.modules.setdefault("torch", cast(Any, None)) is None  # None: importing it raises ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if is_new:
            del sys.modules["torch"]
    return SummaryWriter(str(directory), purge_step=purge_step)


class MetricWriter:
    """Appends figures to `metrics.jsonl` and to TensorBoard events; on resuming, forgets what lies after `step`."""

    def __init__(self, workdir: Path, *, step: int):
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(path)
        self._file = path.open("a")
        self._events = _summary_writer(workdir / "tensorboard", purge_step=step + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float | None]) -> None:
        """One line {"step", "kind", values...}, in TensorBoard "kind/name"; what is not finite as "nan" or "inf"."""
        line = {name: value if value is None or math.isfinite(value) else str(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **line}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An RGB image [H, W, 3] uint8, in TensorBoard."""
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left."""
        self._file.close()
        self._events.close()


def _step_of(line: str) -> float:
    """The step of a line; infinite for one that a kill cut off."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf


def progress(*, total: int, done: int) -> tuple[rich.progress.Progress, rich.progress.TaskID]:
    """A progress bar over steps: remaining time, and a free text of figures; drawn on terminals only."""
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("eta"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[figures]}"),
        console=CONSOLE,
        disable=not sys.stderr.isatty(),
    )
    return bar, bar.add_task("training", total=total, completed=done, figures="")
