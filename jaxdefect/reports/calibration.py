"""What launch.calibrate does: chooses a run's thresholds by a policy, and shows what they are worth."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jaxdefect.data import readers
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import calibration_images, choosing, ensemble, score_maps
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.choosing import Wish
from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.tiles import Tiling
from jaxdefect.metrics.image import decision_metrics
from jaxdefect.metrics.reliability import Reliability, reliability
from jaxdefect.reports import plots
from jaxdefect.reports.progress import stage_of
from jaxdefect.reports.reliability_plot import reliability_plot
from jaxdefect.training import runs
from jaxdefect.types import InputError

_MIN_BATCH_SIZE = 4
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Images:
    """What to calibrate on: `on` as `calibration_images.select` takes it or, where `scores_csv` is given, these files,
    restricted to `folds` and `seed` as `calibration_images.read_scores` does.
    """

    on: str = "validation"
    scores_csv: tuple[Path, ...] = ()
    folds: tuple[int, ...] | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """A calibration, where it was written, and the reliability of its scores on the images it was chosen on.

    `curves`: "as the network" and, where scores are calibrated, "calibrated, cross-validated" (absent with too few
    images): every image by a fit that has not seen it.
    """

    calibration: Calibration
    path: Path
    curves: Mapping[str, Reliability]


def run_calibration(
    workdir: Path,
    wish: Wish,
    images: Images,
    *,
    is_joint: bool = False,
    checkpoint: str | None = None,
    cut: Callable[[Predictor], Predictor] = lambda predictor: predictor,
    out: Path | None = None,
) -> list[Result]:
    """Calibrates a run, or every member of an ensemble, and writes the calibration and a reliability plot beside it.

    Args:
      workdir: the run's directory.
      wish: the policy, and whether scores shall be probabilities.
      images: to choose on.
      is_joint: of an ensemble, calibrate the joined score that it decides of images by; members without a calibration
        get theirs first.
      checkpoint: "best", "last", a step, or None for the one that the run's config selects.
      cut: gives the predictor its tiles (`Predictor.in_tiles`); the calibration is for images judged in them.
      out: the file to write; None: the run's calibration.json, which all launchers then decide by.

    Returns:
      One result, or one for each member of an ensemble. A member's images are those with defects of its class against
      all others, and what is promised is about that class.

    Raises:
      InputError: not a run, unsuitable images, a policy that they cannot serve, or a file that cannot be written.
    """
    run = runs.load(workdir)
    is_ensemble = run.config.ensemble.kind != "none"
    if is_joint and not is_ensemble:
        raise InputError(f"--joint: {workdir} is no ensemble; leave it out")
    if is_joint or not is_ensemble:
        result = _calibrate(run, wish, images, checkpoint=checkpoint, cut=cut, out=out)
        _write(result)
        return [result]
    given = {
        "--out": out is not None,
        "--scores_csv": bool(images.scores_csv),
        f"--scores={wish.scores}": wish.scores is not None,
        "--reject_precision": wish.policy.reject_precision is not None,
    }
    if wrong := [flag for flag, is_given in given.items() if is_given]:
        raise InputError(
            f"{wrong[0]}: not for the members of an ensemble, such as {workdir}: each has one threshold of its own, "
            "kept in its own directory, and the members' scores are joined by those. --joint calibrates the joined "
            "score"
        )
    results = []
    for name in ensemble.member_classes(workdir):
        member = runs.load(ensemble.member_directory(workdir, name))
        try:
            results.append(_calibrate(member, wish, images, checkpoint=checkpoint, cut=cut, out=None))
        except InputError as error:
            raise InputError(f"class {name}: {error}") from error
    for result in results:  # all or none
        _write(result)
    joint = calibrations.calibration_path(workdir)
    if joint.exists():
        _LOGGER.warning("%s was chosen for the members' former thresholds; run launch.calibrate --joint again", joint)
    return results


def _calibrate(
    run: runs.Run,
    wish: Wish,
    images: Images,
    *,
    checkpoint: str | None,
    cut: Callable[[Predictor], Predictor],
    out: Path | None,
) -> Result:
    if out is None and checkpoint is not None:
        raise InputError(
            f"--checkpoint={checkpoint}: {calibrations.calibration_path(run.workdir)} is for the checkpoint that the "
            "run selects; give --out=FILE as well"
        )
    path = calibrations.calibration_path(run.workdir) if out is None else out
    batch_size = max(_MIN_BATCH_SIZE, run.config.training.batch_size)
    samples = readers.read(run.config.data)
    groups = {sample.id: sample.group for sample in samples}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        on_stage = stage_of(progress)
        if images.scores_csv:
            calibration = _from_scores(run, wish, images, groups, checkpoint=checkpoint, batch_size=batch_size)
        else:
            selection = calibration_images.select(run, samples, images.on)
            groups |= {sample.id: sample.group for sample in selection.samples}
            if run.config.ensemble.kind == "none":
                predictor = Predictor.load(run.workdir, checkpoint=checkpoint, is_calibrating=True).on_all_devices()
                predictor = cut(dataclasses.replace(predictor, calibration=None, tiling=None))
            else:  # in the members' tiles
                predictor = choosing.calibrated_members(
                    run, checkpoint=checkpoint, batch_size=batch_size, on_stage=on_stage
                )
            calibration = choosing.calibrate_run(
                predictor,
                samples,
                split=run.split,
                batch_size=batch_size,
                selection=selection,
                wish=wish,
                on_stage=on_stage,
            )
    return Result(calibration, path, _curves(calibration, groups))


def _write(result: Result) -> None:
    calibrations.write(result.calibration, result.path)
    plot = result.path.with_name(f"{result.path.stem}_reliability.png")
    try:
        plot.write_bytes(plots.to_png(reliability_plot(result.curves)))
    except OSError as error:
        raise InputError(f"{plot}: cannot be written: {error.strerror}") from error


def _from_scores(
    run: runs.Run, wish: Wish, images: Images, groups: Mapping[str, str], *, checkpoint: str | None, batch_size: int
) -> Calibration:
    """The run's own calibration with thresholds from scores made elsewhere; pixels are decided as before."""
    chosen, source, notes = calibration_images.read_scores(
        images.scores_csv, split=run.split, folds=images.folds, seed=images.seed
    )
    defective = [groups.get(id, id) for id, label in zip(chosen.ids, chosen.labels, strict=True) if label]
    notes = (*notes, *calibration_images.item_notes(defective))
    choice, score_map = choosing.decide(chosen, wish, source=source)
    own = choosing.defaults(run, checkpoint=checkpoint, batch_size=batch_size)
    return dataclasses.replace(
        own,
        threshold=choice.threshold,
        source=source,
        reject_threshold=choice.reject_threshold,
        policy=wish.policy,
        promise=choice.promise,
        notes=notes,
        score_map=score_map,
        images=chosen,
        num_trained=0,
        tiling=calibration_images.tiling_of_scores(images.scores_csv),
    )


def _curves(calibration: Calibration, groups: Mapping[str, str]) -> dict[str, Reliability]:
    images = calibration.images
    assert images is not None
    labels, scores = np.array(images.labels), np.array(images.scores)
    curves = {"as the network": reliability(labels, scores)}
    if calibration.score_map is not None:
        mapped = score_maps.cross_validated(
            score_maps.method_of(calibration.score_map),
            labels,
            scores,
            groups=[groups.get(id, id) for id in images.ids],
        )
        if mapped is not None:
            curves["calibrated, cross-validated"] = reliability(labels, mapped)
    return curves


def _in_words(tiling: Tiling) -> str:
    (height, width), (down, right) = tiling
    return f"{height}x{width} px, one every {down}x{right} px (height x width)"


def table(result: Result) -> Table:
    """The calibration for the terminal, with what it does to the images that it was chosen on."""
    calibration, images = result.calibration, result.calibration.images
    assert images is not None
    labels = np.array(images.labels)
    scores = np.array([calibration.calibrated(score) for score in images.scores])
    decided = decision_metrics(
        labels, scores, threshold=calibration.threshold, reject_threshold=calibration.reject_threshold
    )
    num_defective, num_good = int(labels.sum()), int((labels == 0).sum())
    rows: list[tuple[str, Any]] = [
        ("policy", str(calibration.policy)),
        ("chosen on", f"{calibration.source}: {num_defective} defective, {num_good} good"),
        ("checkpoint", f"step {calibration.checkpoint_step}"),
        *((("tiles", _in_words(calibration.tiling)),) if calibration.tiling is not None else ()),
        ("defective from", f"{calibration.threshold:.6g}"),
    ]
    if calibration.reject_threshold is not None:
        rows[-1:] = [
            ("accepted below", f"{calibration.threshold:.6g}"),
            ("rejected from", f"{calibration.reject_threshold:.6g}"),
            (
                "inspected by hand, there",
                f"{decided['num_inspected']} of {len(labels)}, {decided['num_inspected_good']} of them good",
            ),
        ]
    rows += [
        ("missed there", f"{decided['false_negatives']} of {num_defective}"),
        ("false alarms there", f"{decided['false_positives']} of {num_good}"),
        *((f"calibration error, {name}", f"{100 * curve.error:.1f} %") for name, curve in result.curves.items()),
        ("promise", calibration.promise or "none"),
        *(("note", note) for note in calibration.notes),
    ]
    shown = Table(title=str(result.path), show_header=False)
    shown.add_column()
    shown.add_column(overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown
