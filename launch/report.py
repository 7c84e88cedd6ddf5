r"""Compares two trained runs on the images that both are tested on.

    python -m launch.report --runs runs/a runs/b [--split=test] --out=comparison

Writes comparison.html (figures side by side with intervals of their differences, McNemar's test, and the images that
the runs decide differently), comparison.json and comparison.csv. A run that is not evaluated yet is evaluated first.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxdefect.reports.comparison_page import comparison_table, run_comparison
from jaxdefect.reports.evaluation import SPLITS
from launch import cli

_RUNS = flags.DEFINE_list("runs", [], "Two directories of runs, --runs A B or --runs=A,B; differences are B minus A.")
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "The part of either run's split to compare on.")
_OUT = flags.DEFINE_string("out", None, "Folder for comparison.html, comparison.json and comparison.csv.")


def main(_: Sequence[str]) -> None:
    """Compares, prints the figures and where the page is."""
    out = Path(cli.required(_OUT))
    content = run_comparison([Path(run) for run in _RUNS.value], part=_SPLIT.value, out=out)
    console = cli.console()
    console.print(comparison_table(content))
    console.print(f"Comparison: {out / 'comparison.html'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, lists=("runs",))
