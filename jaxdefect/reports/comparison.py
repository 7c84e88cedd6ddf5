"""What two runs say of the images that both were evaluated on: figures side by side, decisions, disagreements."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdefect import config as config_lib
from jaxdefect import structure
from jaxdefect.data import readers
from jaxdefect.inference.evaluation import margin
from jaxdefect.inference.predictor import Predictor
from jaxdefect.metrics import paired
from jaxdefect.metrics.image import image_metrics
from jaxdefect.reports import evaluation, files
from jaxdefect.training import runs
from jaxdefect.types import InputError

# Of an evaluation's figures, those of pixels and single defects: known only for all its images together.
_WHOLE = ("pixel_iou", "pixel_f1")
_SCORES = "scores.csv"
_NUM_RESAMPLES = 2_000  # a test set of 10 000 images takes a few seconds
_IMAGE = (*paired.FIGURES, "precision", "recall", "false_positives_at_full_recall")


@dataclasses.dataclass(frozen=True)
class Side:
    """A run with its predictor, the `metrics` of its evaluation, and `labels` and `scores` of its images by id."""

    run: runs.Run
    predictor: Predictor
    metrics: Mapping[str, Any]
    labels: Mapping[str, int]
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Pair:
    """What two runs say of the N images that both were evaluated on, in the first one's order.

    `labels` [N] int, `scores` [2, N] float64, `thresholds` [2] float64.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    thresholds: np.ndarray

    @property
    def is_called(self) -> np.ndarray:
        """[2, N] bool: which images each run calls defective."""
        return self.scores >= self.thresholds[:, None]

    @property
    def is_right(self) -> np.ndarray:
        """[2, N] bool."""
        return self.is_called == (self.labels == 1)

    def disagreements(self) -> np.ndarray:
        """The images that are decided differently, [D] of positions, those first where the runs are furthest apart."""
        positions = np.flatnonzero(self.is_called[0] != self.is_called[1])
        gaps = [abs(self._margin(0, i) - self._margin(1, i)) for i in positions.tolist()]
        return positions[np.argsort(-np.array(gaps), kind="stable")]

    def _margin(self, side: int, position: int) -> float:
        return margin(float(self.scores[side, position]), threshold=float(self.thresholds[side]))


def load_side(workdir: Path, *, part: str) -> Side:
    """A run with its evaluation, which is made now unless it is that of the weights, thresholds and labels of now.

    Args:
      workdir: the run's directory.
      part: "test", "validation" or "train".

    Raises:
      InputError: as `reports.evaluation.run_evaluation`; or files of an earlier evaluation that cannot be read.
    """
    try:
        run = runs.load(workdir)
    except InputError as error:
        raise InputError(f"--runs: {str(error).removeprefix('--workdir=')}") from error
    directory = evaluation.report_directory(workdir, part)
    predictor = Predictor.load(workdir, is_calibrating=True).on_all_devices()
    samples = evaluation.select_samples(readers.read(run.config.data), split=run.split, part=part)
    labels = {sample.id: sample.label for sample in samples}
    metrics = _read_metrics(directory / "metrics.json")
    is_there = bool(metrics) and (directory / _SCORES).exists()
    if not is_there or not _is_of(metrics, predictor) or _read_scores(directory)[0] != labels:
        metrics = evaluation.run_evaluation(workdir, part=part)
        predictor = Predictor.load(workdir, is_calibrating=True).on_all_devices()
    return Side(run, predictor, metrics, *_read_scores(directory))


def _is_of(metrics: Mapping[str, Any], predictor: Predictor) -> bool:
    """Whether an evaluation is that of these weights and thresholds."""
    if predictor.calibration is None:
        return False
    names = ("checkpoint_step", "weights_sha256", "threshold", "pixel_threshold")
    tiling = predictor.tiling and list(map(list, predictor.tiling))
    return metrics.get("tiling") == tiling and all(metrics.get(name) == getattr(predictor, name) for name in names)


def _read_scores(directory: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Labels and scores of an evaluation, by id."""
    columns = files.read_columns(directory / _SCORES)
    labels, scores = map(int, columns["label"]), map(float, columns["score"])
    return dict(zip(columns["id"], labels, strict=True)), dict(zip(columns["id"], scores, strict=True))


def join(sides: Sequence[Side]) -> Pair:
    """The images that both runs were evaluated on.

    Raises:
      InputError: there is none, or a label differs.
    """
    first, second = sides
    ids = tuple(item for item in first.labels if item in second.labels)
    names = f"{first.run.workdir} and {second.run.workdir}"
    if not ids:
        raise InputError(
            f"{names}: no image was evaluated with both, e.g. {next(iter(first.labels))!r} and "
            f"{next(iter(second.labels))!r}; compare runs on the same data and split"
        )
    differing = [item for item in ids if first.labels[item] != second.labels[item]]
    if differing:
        raise InputError(
            f"{names}: {len(differing)} of {len(ids)} images are good to one run and defective to the other, e.g. "
            f"{differing[0]!r}; compare runs on the same data, labelled alike"
        )
    return Pair(
        ids=ids,
        labels=np.array([first.labels[item] for item in ids]),
        scores=np.array([[side.scores[item] for item in ids] for side in sides]),
        thresholds=np.array([side.metrics["threshold"] for side in sides]),
    )


def to_dict(pair: Pair, sides: Sequence[Side], *, part: str) -> dict[str, Any]:
    """The content of comparison.json; figures that are undefined, or have no interval, are None."""
    num_images = len(pair.ids)
    is_whole = all(len(side.labels) == num_images for side in sides)
    of_sides = [
        image_metrics(pair.labels, pair.scores[i], threshold=float(pair.thresholds[i]))
        | {name: side.metrics[name] if is_whole else None for name in _WHOLE}
        for i, side in enumerate(sides)
    ]
    intervals = paired.bootstrap_differences(
        pair.labels, list(pair.scores), thresholds=pair.thresholds.tolist(), num_resamples=_NUM_RESAMPLES
    )
    configs = [config_lib.to_dict(side.run.config) for side in sides]
    return {
        "split": part,
        "num_images": num_images,
        "num_defective": int(pair.labels.sum()),
        "runs": [
            {"workdir": str(side.run.workdir), "num_evaluated": len(side.labels)}
            | {key: side.metrics[key] for key in ("threshold", "threshold_source", "checkpoint_step")}
            for side in sides
        ],
        "metrics": {
            name: _difference(of_sides[0][name], of_sides[1][name], intervals.get(name)) for name in (*_IMAGE, *_WHOLE)
        },
        "num_resamples": _NUM_RESAMPLES,
        "mcnemar": {
            name: paired.mcnemar(*pair.is_right[:, chosen])._asdict()
            for name, chosen in (
                ("all", pair.labels >= 0),
                ("defective", pair.labels == 1),
                ("good", pair.labels == 0),
            )
        },
        "config_differences": structure.difference(*configs),
        "versions": runs.versions(),
    }


def to_csv(pair: Pair) -> str:
    """comparison.csv: every image with its label and either run's score (all digits) and decision."""
    columns = [pair.scores[0], pair.scores[1], *pair.is_called.astype(int)]
    rows = (
        (item, int(label), repr(float(a)), repr(float(b)), int(is_a), int(is_b))
        for item, label, a, b, is_a, is_b in zip(pair.ids, pair.labels, *columns, strict=True)
    )
    return files.to_csv(("id", "label", "score_a", "score_b", "prediction_a", "prediction_b"), rows)


def _difference(first: float | None, second: float | None, interval: paired.Interval | None) -> dict[str, Any]:
    difference = None if first is None or second is None else second - first
    low, high = (None, None) if interval is None or difference is None else interval
    return {"a": first, "b": second, "difference": difference, "low": low, "high": high}


def _read_metrics(path: Path) -> dict[str, Any]:
    """The figures of an earlier evaluation; none where there is none."""
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text())
        if not isinstance(metrics, dict):
            raise ValueError(f"holds a {type(metrics).__name__}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not of an evaluation ({error}); delete the file, and it is written anew") from error
    return metrics
