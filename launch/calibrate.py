r"""Chooses the thresholds of a trained run, and stores them as its calibration.json.

    python -m launch.calibrate --workdir=RUN                                         # best F1 on the validation images
    python -m launch.calibrate --workdir=RUN --policy=guarantee --alpha=0.05 --delta=0.05
    python -m launch.calibrate --workdir=RUN --policy=recall --recall=1 --reject_precision=1 --scores=platt
    python -m launch.calibrate --workdir=CV/fold_2/seed_0 --scores_csv=CV/scores.csv --folds=0,1
    python -m launch.calibrate --workdir=ENSEMBLE --joint --policy=cost --reject_precision=1

Policies:
  f1         best F1.
  recall     the highest threshold that finds this share of the calibration's defects.
  cost       the lowest cost: a miss costs --cost_ratio false alarms.
  guarantee  of all defective images at most --alpha are missed, with confidence 1 - delta: the probability that an
             unlucky draw of calibration images gives a threshold that misses more is at most --delta. Needs 59
             defective images for 0.05 and 0.05; says how many otherwise.
  conformal  a new defective image is missed with probability at most --alpha, on average over calibrations. Needs 19.

--tile chooses for images that are judged in tiles, as launch.predict --tile: launch.evaluate and launch.predict then
cut images that way by themselves, wherever they decide by this calibration.

--reject_precision makes any of them a three-way decision: accept, inspect by hand, reject. Below the policy's threshold
images are accepted; from the score on from which this share of the calibration images is defective they are rejected.

launch.evaluate and launch.predict decide by the stored calibration, or by --calibration=FILE.

An ensemble's members are calibrated one by one, each for its class, and an image is defective where one of them says
so. --joint then chooses thresholds of the joined score, by which the ensemble decides of images: what is promised is
about images, whatever their defect. Classes and pixels are called by the members' thresholds as before.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from absl import flags

from jaxdefect.inference import policies
from jaxdefect.inference.choosing import Wish
from jaxdefect.inference.score_maps import Method
from jaxdefect.reports import calibration
from jaxdefect.types import InputError
from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_POLICY = flags.DEFINE_enum("policy", "f1", policies.POLICY_NAMES, "What the threshold is to achieve.")
_PARAMETERS = (
    flags.DEFINE_float("recall", None, "Of --policy=recall; 0.99 if not given, 1: no miss."),
    flags.DEFINE_float("cost_ratio", None, "Of --policy=cost: false alarms that a miss is worth; 10 if not given."),
    flags.DEFINE_float("alpha", None, "Of --policy=guarantee and conformal: the largest miss rate; 0.05 if not given."),
    flags.DEFINE_float("delta", None, "Of --policy=guarantee: 1 - confidence; 0.05 if not given."),
    flags.DEFINE_float("reject_precision", None, "Three-way: precision from which images are rejected; 1: no mistake."),
)
_SCORES = flags.DEFINE_enum("scores", "none", ["none", "platt", "isotonic"], "How scores are made probabilities.")
_ON = flags.DEFINE_string(
    "on", "validation", "validation, train or test; a folder with a data set; a file with an image id a line."
)
_SCORES_CSV = flags.DEFINE_list(
    "scores_csv", [], "Out-of-fold scores instead of --on: scores.csv of launch.crossvalidate or of evaluations."
)
_FOLDS = flags.DEFINE_list("folds", None, "Folds of --scores_csv to use, as 0,1; all if not given.")
_SEED = flags.DEFINE_integer("seed", None, "Seed of --scores_csv to use, where there are several.")
_JOINT = flags.DEFINE_bool("joint", False, "Of an ensemble: calibrate the joined score instead of the members.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "best, last or a step; default: what the run's config selects.")
_TILE = flags.DEFINE_string("tile", None, "auto, or HEIGHTxWIDTH in pixels: judge in overlapping tiles.")
_OVERLAP = flags.DEFINE_float(
    "overlap", None, "Share of a tile's side that neighbours have in common.", lower_bound=0.0, upper_bound=0.9
)
_OUT = flags.DEFINE_string("out", None, "File to write; default: calibration.json in the run's directory.")


def main(argv: Sequence[str]) -> None:
    """Calibrates and prints the thresholds with what they promise."""
    del argv
    if _SCORES_CSV.value and _ON.present:
        raise InputError("--on and --scores_csv: give one of them")
    if not _SCORES_CSV.value and (_FOLDS.present or _SEED.present):
        raise InputError("--folds and --seed belong to --scores_csv, which is not given")
    if _SCORES_CSV.value and (_TILE.present or _OVERLAP.present):
        raise InputError("--tile and --overlap: not with --scores_csv, whose scores are there already")
    if _JOINT.value and (_TILE.present or _OVERLAP.present):
        raise InputError("--tile and --overlap: not with --joint, which takes the members' tiles; calibrate them first")
    cli.tile_size(_TILE.value)  # refused before the run is loaded
    given: dict[str, Any] = {flag.name: flag.value for flag in _PARAMETERS}
    results = calibration.run_calibration(
        Path(cli.required(_WORKDIR)),
        Wish(policies.make(_POLICY.value, **given), None if _SCORES.value == "none" else cast(Method, _SCORES.value)),
        calibration.Images(
            _ON.value, tuple(map(Path, _SCORES_CSV.value)), folds=cli.integers(_FOLDS), seed=_SEED.value
        ),
        is_joint=_JOINT.value,
        checkpoint=_CHECKPOINT.value,
        cut=functools.partial(cli.in_tiles, tile=_TILE.value, overlap=_OVERLAP.value),
        out=None if _OUT.value is None else Path(_OUT.value),
    )
    console = cli.console()
    for result in results:
        console.print(calibration.table(result))


if __name__ == "__main__":
    cli.run(main)
