r"""Exports a trained run for another runtime, and compares it there with the original on real images.

    python -m launch.export --workdir=runs/line_3 --format=onnx

Writes the graph (of a run with a classifier two) and a sidecar with everything else: input, thresholds, calibration,
classes, versions, hashes, config (docs/export.md describes it). Exit code: 0; 1 when the exported network differs from
the original by more than 1e-4 on some image, then nothing is left of it; 2 after a usage error.
"""

import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.table import Table

from jaxdefect.interop import checking
from jaxdefect.interop.export import Export, export
from jaxdefect.interop.runtimes import PLATFORMS, RUNTIMES, Format
from jaxdefect.types import InputError
from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run, as given to launch.train")
_FORMAT = flags.DEFINE_enum("format", None, list(RUNTIMES), "what to write")
_OUT = flags.DEFINE_string("out", None, "folder for the files; default: WORKDIR/export/FORMAT")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "best, last or a step; default: what the run's config selects")
_IMAGES = flags.DEFINE_string(
    "images", None, "folder, image or quoted pattern to compare on; default: the run's own test images"
)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 8, "compare on at most so many", lower_bound=1)
_BATCH = flags.DEFINE_string(
    "batch", "symbolic", "images that the graph takes at a time: a number, or symbolic for any"
)
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda"], f"what a StableHLO file runs on: {', '.join(PLATFORMS)}")


def main(_: Sequence[str]) -> int:
    """Exports, prints the differences; returns the exit code."""
    workdir, kind = cli.required(_WORKDIR), typing.cast(Format, cli.required(_FORMAT))
    if kind != "stablehlo" and flags.FLAGS["platforms"].present:
        raise InputError(f"--platforms: of StableHLO files; leave it out with --format={kind}")
    out = Path(_OUT.value) if _OUT.value else Path(workdir) / "export" / kind
    result = export(
        Path(workdir),
        kind=kind,
        out=out,
        checkpoint=_CHECKPOINT.value,
        images=_IMAGES.value,
        num_images=_NUM_IMAGES.value,
        batch=_batch(_BATCH.value),
        platforms=_PLATFORMS.value,
    )
    cli.console().print(_table(result))
    print(f"Compared on {result.images}.")
    if not result.graphs:
        print(
            f"error: the exported network differs from the original by more than {checking.TOLERANCE:g}; "
            "nothing was written. If it has feature norm, which magnifies rounding, train it with "
            "--config.model.norm=batch and batches of several images (docs/export.md)",
            file=sys.stderr,
        )
        return 1
    for graph in result.graphs.values():
        print(graph)
    return 0


def _batch(text: str) -> int | None:
    if text == "symbolic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--batch={text}: must be a number from 1 on, or symbolic")
    return int(text)


def _table(result: Export) -> Table:
    columns = ("network", "images", "max. difference, probability", "logit", "JAX, ms/image", "exported, ms/image")
    table = Table(*columns)
    for name, check in result.checks.items():
        table.add_row(
            name,
            str(check.num_images),
            f"{check.probability:.2g}",
            f"{check.logit:.2g}",
            f"{check.original_ms:.1f}",
            f"{check.exported_ms:.1f}",
        )
    return table


if __name__ == "__main__":
    cli.run(main)
