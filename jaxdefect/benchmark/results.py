"""A benchmark's file, its table, its plot, and the comparison of two files."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich.table import Table

from jaxdefect import structure
from jaxdefect.reports import files
from jaxdefect.types import InputError

_KEY = ("mode", "batch_size", "image_size", "dtype")  # and the number of devices, 1 in old files
_MIB = 2**20
_SMALL = 0.005  # of the whole time: layers below are not listed


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes figures as JSON; launch.benchmark has {"environment": ..., "config": ..., "rows": [...]}."""
    files.write(path, json.dumps(content, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote.

    Raises:
      InputError: no such file, or another one.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}); make one with launch.benchmark --out={path}") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    is_ours = isinstance(rows, list) and isinstance(content.get("environment"), dict) and all(map(_is_row, rows))
    if not is_ours:
        raise InputError(f"{path}: not a file of launch.benchmark; make one with launch.benchmark --out={path}")
    return content


def _is_row(row: Any) -> bool:
    is_complete = isinstance(row, dict) and {*_KEY, "times"} <= set(row)
    return (
        is_complete
        and isinstance(row["times"], dict)
        and ("mean" if row.get("is_stream") else "median") in row["times"]
    )


def table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """A line per setting: how fast, how near the limit that binds, how much memory (XLA's plan on a device, beside
    arguments, and the process's peak since it was compiled). Of fewer than a hundred calls p99 lies between the two
    slowest; operations are the formulas'.
    """
    result = Table(title=title)
    left = ("mode", "size", "dtype", "limit")
    for column in (
        *("mode", "batch", "size", "dtype", "devices", "compile s", "calls", "ms", "least", "p99"),
        *("images/s", "GFLOP/s"),
        *("limit", "plan MiB", "host MiB"),
    ):
        result.add_column(column, justify="left" if column in left else "right")
    for row in rows:
        limits, times = row.get("limits", {}), row["times"]
        result.add_row(
            row["mode"],
            str(row["batch_size"]),
            "x".join(map(str, row["image_size"])),
            row["dtype"],
            str(row.get("num_devices", 1)),
            _number(row.get("compile_seconds"), 1),
            str(times["repetitions"]),
            *(_number(1e3 * value, 1) for value in (seconds_of(row), times["fastest"], times["p99"])),
            _number(row["images_per_second"], 2),
            _number(limits.get("flops_per_second"), 0, unit=1e9),
            _limit(row),
            _number(temporary_bytes(row), 0, unit=_MIB),
            _number((row.get("memory") or {}).get("host"), 0, unit=_MIB),
        )
    return result


def seconds_of(row: Mapping[str, Any]) -> float:
    """What a call takes: the median, or in a stream, where what is read ahead makes single calls uneven, the mean."""
    return row["times"]["mean" if row.get("is_stream") else "median"]


def _limit(row: Mapping[str, Any]) -> str:
    if "waiting_share" in row:
        return f"waits {row['waiting_share']:.0%}"
    if "seen_share" in row:
        return f"{row['seen_share']:.0%} shown before"
    limits = row.get("limits") or {}
    if not limits:
        return ""
    name = limits["binding_limit"]
    if name is None:  # a formula's operations, of which a CPU's ways leave out some
        return f"{limits['share_of_matrix_product']:.1f} x matrix product"
    share = limits["share_of_matrix_product" if name == "matrix product" else "share_of_copy"]
    return f"{share:.0%} of {name}"


def temporary_bytes(row: Mapping[str, Any]) -> int | None:
    """What the program needs beside its arguments, by XLA's plan."""
    return (row.get("cost") or {}).get("temporary_bytes")


def layer_table(row: Mapping[str, Any]) -> Table:
    """Where the time of one setting goes."""
    total = seconds_of(row)
    result = Table(title=f"{row['mode']}, {row['dtype']}: layers by themselves, of {1e3 * total:.1f} ms")
    for column in ("layer", "input", "output", "ms", "share", "GFLOP", "GFLOP/s"):
        result.add_column(column, justify="left" if column == "layer" else "right")
    shown = [layer for layer in row["layers"] if layer["seconds"] >= _SMALL * total]
    for layer in shown:
        flops, seconds = layer["flops"], layer["seconds"]
        result.add_row(
            layer["path"],
            "x".join(map(str, layer["input_shape"])),
            "x".join(map(str, layer["output_shape"])),
            _number(1e3 * seconds, 1),
            f"{seconds / total:.0%}",
            _number(flops, 2, unit=1e9),
            _number(None if flops is None else flops / seconds, 0, unit=1e9),
        )
    listed = sum(layer["seconds"] for layer in shown)
    # Negative where the layers are faster together, fused, than each by itself.
    result.add_row("the rest", "", "", _number(1e3 * (total - listed), 1), f"{1 - listed / total:.0%}")
    return result


def comparison(first: Mapping[str, Any], second: Mapping[str, Any]) -> Table:
    """What both files hold, beside each other; its caption says what only one of them holds, and how configs differ.

    Raises:
      InputError: they share no setting.
    """
    ours, theirs = ({_key(row): row for row in content["rows"]} for content in (first, second))
    common = [key for key in ours if key in theirs]
    if not common:
        raise InputError(
            "the two files share no setting (mode, batch size, image size, dtype, devices): nothing to compare"
        )
    devices = [_device(content["environment"]) for content in (first, second)]
    result = Table(title=f"A: {devices[0]}; B: {devices[1]}" if devices[0] != devices[1] else devices[0])
    notes = structure.difference(*(content.get("config", {}) for content in (first, second)))
    if alone := len(ours) + len(theirs) - 2 * len(common):
        notes.append(f"{alone} rows are in one of the files only")
    result.caption = "\n".join(notes)
    for column in ("mode", "batch", "size", "dtype", "devices", "A ms", "B ms", "A / B"):
        result.add_column(column, justify="right" if column.endswith(("ms", "B")) else "left")
    for key in common:
        seconds = [seconds_of(rows[key]) for rows in (ours, theirs)]
        mode, batch, size, dtype, num_devices = key
        result.add_row(
            mode,
            str(batch),
            "x".join(map(str, size)),
            dtype,
            str(num_devices),
            *(_number(1e3 * value, 1) for value in seconds),
            _number(seconds[0] / seconds[1], 2),
        )
    return result


def _device(environment: Mapping[str, Any]) -> str:
    return f"{environment.get('devices', 1)} x {environment['device']} ({environment.get('processor', '')})"


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    key = tuple(tuple(row[name]) if name == "image_size" else row[name] for name in _KEY)
    return (*key, row.get("num_devices", 1))


def plot(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """Time of a call and temporary memory over the megapixels of a batch, a line for each of the other settings."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    times, memory = figure.subplots(1, 2)
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        megapixels = row["batch_size"] * math.prod(row["image_size"]) / 1e6
        needed = temporary_bytes(row)
        point = (megapixels, seconds_of(row), math.nan if needed is None else needed / _MIB)
        num_devices = row.get("num_devices", 1)
        devices = f", {num_devices} devices" if num_devices > 1 else ""
        lines.setdefault(f"{row['mode']}, {row['dtype']}{devices}", []).append(point)
    for name, points in sorted(lines.items()):
        x, seconds, mebibytes = zip(*sorted(points), strict=True)
        times.plot(x, seconds, "o-", label=name)
        if not all(map(math.isnan, mebibytes)):  # of the input nothing is known
            memory.plot(x, mebibytes, "o-", label=name)
    for axes, label in ((times, "seconds per call"), (memory, "temporary MiB")):
        if axes.lines:
            axes.set(xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):  # in plain text, as plots are saved
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter())
        axes.set(xlabel="megapixels per batch", ylabel=label)
        axes.grid(visible=True, which="both", alpha=0.3)
    times.legend()
    return figure


def _number(value: float | None, digits: int, *, unit: float = 1.0) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"
