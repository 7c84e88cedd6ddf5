"""Evaluates a trained run: `python -m launch.evaluate --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]`.

Decides by the calibration that launch.calibrate stored with the run, or by `--calibration=FILE`, or by thresholds of
best F1 that it chooses now. `report.html` shows what other policies would do.

Writes metrics.json, scores.csv, plots and report.html into `DIR/evaluation/SPLIT/`.
"""

from collections.abc import Sequence

from absl import flags

from jaxdefect.reports.evaluation import SPLITS, metrics_table, report_directory, run_evaluation
from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run, as given to launch.train")
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "the part of the run's split to evaluate")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "best, last or a step; default: what the run's config selects")
_CALIBRATION = flags.DEFINE_string("calibration", None, "a file of launch.calibrate; default: the run's own")


def main(_: Sequence[str]) -> None:
    """Evaluates, prints the figures and where the report is."""
    workdir = cli.required(_WORKDIR)
    metrics = run_evaluation(workdir, part=_SPLIT.value, checkpoint=_CHECKPOINT.value, calibration=_CALIBRATION.value)
    console = cli.console()
    console.print(metrics_table(metrics))
    # A path is copied as a whole: no line break in it, whatever the width of the terminal.
    console.print(f"Report: {report_directory(workdir, _SPLIT.value) / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
