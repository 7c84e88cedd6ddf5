r"""Scores images with a trained run: decisions, probability maps and overlays.

    python -m launch.predict --workdir=runs/line_3 --images='incoming/**/*.png' --out=results

The tables predictions.jsonl and predictions.csv have a line per image; an ensemble adds the score of each class, a run
with a classifier the defects with their classes (`jaxdefect.inference.batch.Record` explains every column).

Exit code: 0, or 1 when some image could not be read (predictions.jsonl says which and why), or 2 after a usage error.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from jaxdefect.inference import batch
from jaxdefect.inference.files import find_images
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
    flags.DEFINE_integer("batch_size", 8, "Images per computation.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum(
        "map_format", "png16", list(batch.MAP_SUFFIXES), "png16: 65535 for 1; npy, tiff: float32.", flag_values=values
    )


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the launcher with parsed flags; returns the exit code."""
    del argv
    for name in ("workdir", "images", "out"):
        if not values[name].value:
            raise InputError(f"--{name} is missing: {values[name].help}")
    out = Path(values.out)
    images = find_images(values.images, out=out)
    predictor = Predictor.load(values.workdir, checkpoint=values.checkpoint, calibration=values.calibration)
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task("Predicting", total=len(images))

        def show(record: batch.Record) -> None:
            if record.error is not None:
                progress.console.print(f"error: {record.error}", markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)

        summary = batch.predict_files(
            predictor,
            images,
            out=out,
            batch_size=values.batch_size,
            map_format=values.map_format,
            on_record=show,
        )
    Console().print(_table(summary, predictor=predictor, out=out))
    return 1 if summary.num_errors else 0


def _table(summary: batch.Summary, *, predictor: Predictor, out: Path) -> Table:
    table = Table(show_header=False)
    source = "not calibrated"
    if predictor.calibration is not None:
        source = f"{predictor.calibration.policy}, chosen on {predictor.calibration.source}"
    for name, value in (
        ("images", str(summary.num_images)),
        ("defective", str(summary.num_defective)),
        ("errors", str(summary.num_errors)),
        ("threshold", f"{predictor.threshold:.6g} ({source})"),
        ("checkpoint", f"step {predictor.checkpoint_step}"),
        ("images/s", f"{summary.num_images / summary.seconds:.1f}"),
        ("results", str(out / batch.TABLE_CSV)),
    ):
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
