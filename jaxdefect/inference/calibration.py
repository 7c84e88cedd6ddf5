"""The thresholds that turn scores and maps into decisions, kept beside the weights they were chosen for."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxdefect.inference import policies, score_maps
from jaxdefect.inference.policies import Policy
from jaxdefect.inference.score_maps import ScoreMap
from jaxdefect.inference.thresholds import NEVER
from jaxdefect.inference.tiles import Tiling
from jaxdefect.types import InputError, Verdict

_LOGGER = logging.getLogger(__name__)

# When nothing says where a pixel turns defective.
DEFAULT_PIXEL_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class CalibrationImages:
    """What a calibration was chosen on, N images: `ids`, `labels` 0 or 1, and `scores` in [0, 1] before any score
    calibration.
    """

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Thresholds chosen for one checkpoint of a run.

    `threshold`: an image is defective when its score >= this. `pixel_threshold`: the same for a pixel's probability.
    `source`: what it was chosen on: "validation", "train" or "test", parts of the run's split, or other images in
    words. On "train" the decisions look better than they will be on new images. `checkpoint_step`: the weights it was
    chosen with, and `weights_sha256`: their hash, None in files of before it was kept; `classifier_step`: those of the
    classifier, where there is one. `tiling`: the tiles it was chosen with; None: none but those of the config.
    `logistic`: weights of the map's maximum and mean and a bias, where the score is a logistic regression on them.
    `reject_threshold`: of a three-way decision, defective images below it are inspected by hand; None: none are.
    `policy`: how the thresholds were chosen; `promise`: what holds for new images, None: nothing; `notes`: what weakens
    that. `score_map`: turns the score into a probability, before any threshold; None: the score stays as it is.
    `images`: those it was chosen on; None in files of before they were kept. `num_trained`: how many of them the
    network was trained on.
    """

    threshold: float
    pixel_threshold: float
    source: str
    checkpoint_step: int
    logistic: tuple[float, float, float] | None = None
    classifier_step: int | None = None
    reject_threshold: float | None = None
    policy: Policy = policies.BEST_F1
    promise: str | None = None
    notes: tuple[str, ...] = ()
    score_map: ScoreMap | None = None
    images: CalibrationImages | None = None
    num_trained: int = 0
    weights_sha256: str | None = None
    tiling: Tiling | None = None

    def calibrated(self, score: float) -> float:
        """A raw score as the thresholds are meant for."""
        return score if self.score_map is None else float(self.score_map(np.array(score, np.float64)))

    def verdict(self, score: float) -> Verdict:
        """What is done with an image of this calibrated score."""
        if score < self.threshold:
            return "accept"
        return "inspect" if self.reject_threshold is not None and score < self.reject_threshold else "reject"


def calibration_path(workdir: Path) -> Path:
    """Where a run keeps its calibration."""
    return Path(workdir) / "calibration.json"


def save(calibration: Calibration, workdir: Path) -> None:
    """Writes `<workdir>/calibration.json`, as `write`."""
    write(calibration, calibration_path(workdir))


def write(calibration: Calibration, path: Path) -> None:
    """Writes the calibration to a file, whole or not at all; its directory is made.

    Raises:
      InputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(to_json(calibration))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def load(workdir: Path) -> Calibration | None:
    """The run's calibration; None when it has none yet.

    Raises:
      InputError: the file is there but is not a calibration.
    """
    path = calibration_path(workdir)
    return read(path) if path.exists() else None


def read(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
      InputError: no such file, or it is not a calibration.
    """
    try:
        return from_json(json.loads(Path(path).read_text()))
    except OSError as error:
        raise InputError(
            f"{path}: no calibration there ({error.strerror}); `python -m launch.calibrate --workdir=DIR --out={path}` "
            "writes one"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: not a calibration ({type(error).__name__}: {error}); give a file that launch.calibrate wrote; a "
            "run's own calibration.json can be deleted, and launch.evaluate or launch.calibrate writes it anew"
        ) from error


def to_json(calibration: Calibration) -> str:
    """A calibration as text: a line for everything but the images, which come last, a line for each column."""
    values = {field.name: getattr(calibration, field.name) for field in dataclasses.fields(calibration)}
    images, score_map = values.pop("images"), values.pop("score_map")
    values["policy"] = policies.to_json(calibration.policy)
    values["score_map"] = None if score_map is None else score_maps.to_json(score_map)
    if images is None:
        return json.dumps(values, indent=2) + "\n"
    values |= {"num_defective": sum(images.labels), "num_good": len(images.labels) - sum(images.labels)}
    columns = [f'    "{name}": {json.dumps(column)}' for name, column in dataclasses.asdict(images).items()]
    return json.dumps(values, indent=2)[:-2] + ',\n  "images": {\n' + ",\n".join(columns) + "\n  }\n}\n"


def from_json(values: dict[str, Any]) -> Calibration:
    """A calibration from what `to_json` wrote, parsed; old files have the first fields only.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: it is not one.
    """
    threshold, pixel_threshold = float(values["threshold"]), float(values["pixel_threshold"])
    reject_threshold = _optional(float, values.get("reject_threshold"))
    for name, value in (("threshold", threshold), ("reject_threshold", reject_threshold)):
        if value is not None and not 0 <= value <= NEVER:
            raise ValueError(f"{name} = {value} is not in [0, 1]")
    if not 0 <= pixel_threshold <= 1:
        raise ValueError(f"pixel_threshold = {pixel_threshold} is not in [0, 1]")
    if reject_threshold is not None and reject_threshold < threshold:
        raise ValueError(f"reject_threshold = {reject_threshold} is below threshold = {threshold}")
    source = values["source"]
    if not isinstance(source, str) or not source:
        raise ValueError(f"source = {source!r} does not say what it was chosen on")
    logistic = values.get("logistic")
    if logistic is not None:
        maximum, mean, bias = map(float, logistic)
        if not np.isfinite([maximum, mean, bias]).all():
            raise ValueError(f"logistic = {logistic} is not finite")
        logistic = maximum, mean, bias
    return Calibration(
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        source=source,
        checkpoint_step=int(values["checkpoint_step"]),
        logistic=logistic,
        classifier_step=values.get("classifier_step"),
        reject_threshold=reject_threshold,
        policy=policies.make(**values.get("policy", {"name": "f1"})),
        promise=values.get("promise"),
        notes=tuple(values.get("notes", ())),
        score_map=_optional(score_maps.from_json, values.get("score_map")),
        images=_optional(_images_from_json, values.get("images")),
        num_trained=int(values.get("num_trained", 0)),
        weights_sha256=values.get("weights_sha256"),
        tiling=_optional(tiling_from_json, values.get("tiling")),
    )


def _optional(convert: Any, value: Any) -> Any:
    return None if value is None else convert(value)


def tiling_from_json(values: list[list[int]]) -> Tiling:
    """Raises `ValueError` or `TypeError` where JSON's lists are no tiling."""
    (height, width), (down, right) = values
    return Tiling((int(height), int(width)), (int(down), int(right)))


def _images_from_json(values: dict[str, Any]) -> CalibrationImages:
    images = CalibrationImages(
        tuple(map(str, values["ids"])), tuple(map(int, values["labels"])), tuple(map(float, values["scores"]))
    )
    if not len(images.ids) == len(images.labels) == len(images.scores) > 0:
        raise ValueError("images: ids, labels and scores are not of one length")
    return images


def warn_of_others(
    calibration: Calibration | None, workdir: Path, *, default: float, checkpoint_step: int, weights_sha256: str
) -> None:
    """Warns where a run has no calibration, or one that was chosen for other weights than those that are loaded.

    Args:
      calibration: the run's.
      workdir: of the run.
      default: the threshold without one.
      checkpoint_step: of the weights.
      weights_sha256: their hash.
    """
    if calibration is None:
        _LOGGER.warning(
            "%s holds no calibration: the threshold is the model's default, %.6g. "
            "`python -m launch.evaluate --workdir=%s` chooses one on the validation images.",
            workdir,
            default,
            workdir,
        )
    else:
        warn_of_other_weights(calibration, workdir, checkpoint_step=checkpoint_step, weights_sha256=weights_sha256)


def warn_of_other_weights(
    calibration: Calibration, workdir: Path, *, checkpoint_step: int, weights_sha256: str | None
) -> None:
    """Warns where a calibration was chosen for other weights than those of `workdir`, of this step (and hash)."""
    if calibration.checkpoint_step != checkpoint_step:
        _LOGGER.warning(
            "The threshold of %s was chosen for the checkpoint of step %d, and this is step %d.",
            workdir,
            calibration.checkpoint_step,
            checkpoint_step,
        )
    elif None not in (calibration.weights_sha256, weights_sha256) and calibration.weights_sha256 != weights_sha256:
        _LOGGER.warning(
            "The threshold of %s was chosen for the checkpoint of step %d of another training: the weights differ.",
            workdir,
            checkpoint_step,
        )
