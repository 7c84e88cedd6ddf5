r"""Scores images with a trained run: decisions, probability maps, overlays, and every defect as an object.

    python -m launch.predict --workdir=runs/line_3 --images='incoming/**/*.png' --out=results

The tables predictions.jsonl and predictions.csv have a line per image (`jaxdefect.inference.records.Record` explains
every column); defects.json has the defects in COCO's format.

Large images: `--tile=auto` judges an image in overlapping tiles of the network's input size, at its own scale;
`--tile=1408x512` in tiles of that many pixels (height x width), resized to the network's input as the training images
were. Memory does not grow with the image's height: of a TIFF or BigTIFF only the strips or tiles needed are decoded.

A camera's folder: `--watch` judges each new image once it is complete, until Ctrl-C; the same command goes on.

Several processes: `--shard=0/2` and `--shard=1/2` take every second image each; `--merge` then joins their tables.

Exit code: 0, or 1 when some image could not be read (predictions.jsonl says which and why), or 2 after a usage error.
"""

import dataclasses
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from jaxdefect.inference import batch, records, watching
from jaxdefect.inference.files import find_images
from jaxdefect.inference.map_files import MAP_SUFFIXES
from jaxdefect.inference.predictor import Predictor
from jaxdefect.types import InputError
from launch import cli


def define_flags(values: flags.FlagValues) -> None:
    """Adds this launcher's flags to `values`."""
    flags.DEFINE_string("workdir", None, "Folder of the trained run.", flag_values=values)
    flags.DEFINE_string(
        "images", None, "A folder (with its subfolders), one image, or a quoted pattern.", flag_values=values
    )
    flags.DEFINE_string("out", None, "Folder for the results.", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", None, "best, last or a step; as the run's config says if not given.", flag_values=values
    )
    flags.DEFINE_string(
        "calibration", None, "A file of launch.calibrate to decide by; the run's own if not given.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 8, "Images or tiles per computation.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum(
        "map_format", "png16", list(MAP_SUFFIXES), "png16: 65535 for 1; npy, tiff: float32.", flag_values=values
    )
    flags.DEFINE_string(
        "tile", None, "auto, or HEIGHTxWIDTH in pixels: judge in overlapping tiles.", flag_values=values
    )
    flags.DEFINE_float(
        "overlap",
        None,
        "Share of a tile's side that neighbours have in common.",
        lower_bound=0.0,
        upper_bound=0.9,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "min_area_px",
        None,
        "Smaller defects are none; as the run's config says if not given.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "join_distance_px", None, "Parts closer than this are one defect; likewise.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_bool("watch", False, "Judge what is written into the folder, until Ctrl-C.", flag_values=values)
    flags.DEFINE_string("shard", None, "i/n: judge every n-th image, from the i-th on.", flag_values=values)
    flags.DEFINE_bool("merge", False, "Join the tables of all shards in the output folder.", flag_values=values)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the launcher with parsed flags; returns the exit code."""
    del argv
    for name in ("out",) if values.merge else ("workdir", "images", "out"):
        if not values[name].value:
            raise InputError(f"--{name} is missing: {values[name].help}")
    out = Path(values.out)
    cli.tile_size(values.tile)  # refused before the run is loaded
    if values.merge:
        cli.console().print(f"{records.merge(out)} images in {records.table_path(out)}", soft_wrap=True)
        return 0
    return _watch(values, out) if values.watch else _predict(values, out)


def _predict(values: flags.FlagValues, out: Path) -> int:
    shard = records.Shard.parse(values.shard) if values.shard else None
    images = find_images(values.images, out=out)
    predictor = _load(values)
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        total = len(images) if shard is None else len(range(shard.index, len(images), shard.count))
        task = progress.add_task("Predicting", total=total)

        def show(record: records.Record) -> None:
            if record.error is not None:
                _show_error(progress.console, record)
            progress.advance(task)

        summary = batch.predict_files(
            predictor,
            images,
            out=out,
            batch_size=values.batch_size,
            map_format=values.map_format,
            shard=shard,
            on_record=show,
        )
    table = records.table_path(out, shard).with_suffix(".csv")
    cli.console().print(_table(summary, predictor=predictor, results=table))
    return 1 if summary.num_errors else 0


def _watch(values: flags.FlagValues, out: Path) -> int:
    if values.shard:
        raise InputError("--shard: cannot be used with --watch; let each process watch a folder of its own")
    is_stopped = _until_signal()  # before what takes its time: a signal there is not lost
    predictor = _load(values)
    console = Console(stderr=True)

    def show(record: records.Record) -> None:
        if record.error is not None:
            _show_error(console, record)
            return
        console.print(
            f"{record.id}: {record.verdict}, {record.score:.4f}", markup=False, highlight=False, soft_wrap=True
        )

    console.print(f"Watching {values.images}; Ctrl-C ends it", markup=False, highlight=False, soft_wrap=True)
    summary = watching.watch(
        predictor,
        Path(values.images),
        out=out,
        batch_size=values.batch_size,
        map_format=values.map_format,
        on_record=show,
        is_stopped=is_stopped,
    )
    cli.console().print(_table(summary, predictor=predictor, results=records.table_path(out).with_suffix(".csv")))
    return 1 if summary.num_errors else 0


def _until_signal() -> Callable[[], bool]:
    """Whether Ctrl-C or SIGTERM has come; the image in hand is finished first, unless it comes again."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return lambda: bool(came)


def _load(values: flags.FlagValues) -> Predictor:
    """The run's predictor with what the flags say about tiles and defects."""
    predictor = Predictor.load(values.workdir, checkpoint=values.checkpoint, calibration=values.calibration)
    predictor = predictor.on_all_devices()
    given = {name: values[name].value for name in ("min_area_px", "join_distance_px")}
    changed = {name: value for name, value in given.items() if value is not None}
    inference = dataclasses.replace(predictor.config.inference, **changed)
    predictor = dataclasses.replace(predictor, config=dataclasses.replace(predictor.config, inference=inference))
    return cli.in_tiles(predictor, tile=values.tile, overlap=values.overlap)


def _show_error(console: Console, record: records.Record) -> None:
    console.print(f"error: {record.error}", markup=False, highlight=False, soft_wrap=True)


def _table(summary: batch.Summary, *, predictor: Predictor, results: Path) -> Table:
    table = Table(show_header=False)
    source = "not calibrated"
    if predictor.calibration is not None:
        source = f"{predictor.calibration.policy}, chosen on {predictor.calibration.source}"
    latency = "-" if summary.latency_ms is None else "{:.0f} / {:.0f}".format(*summary.latency_ms)
    for name, value in (
        ("images", str(summary.num_images)),
        ("defective", str(summary.num_defective)),
        ("errors", str(summary.num_errors)),
        ("threshold", f"{predictor.threshold:.6g} ({source})"),
        ("checkpoint", f"step {predictor.checkpoint_step}"),
        ("images/s", f"{summary.num_images / summary.seconds:.1f}"),
        ("ms per image, p50 / p99", latency),
        ("results", str(results)),
    ):
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
