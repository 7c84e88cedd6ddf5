"""The thresholds that turn scores and maps into decisions, kept beside the weights they were chosen for."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from jaxdefect.types import InputError

# When nothing says where a pixel turns defective.
DEFAULT_PIXEL_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Thresholds chosen for one checkpoint of a run.

    `threshold`: an image is defective when its score >= this. `pixel_threshold`: the same for a pixel's probability.
    `logistic`: weights of the map's maximum and mean and a bias, where the score is a logistic regression on them.
    `source`: "validation", or "train" when the split has no validation images to choose on; then the decisions look
    better on the training images than they will on new ones. `checkpoint_step`: the weights it was chosen with;
    `classifier_step`: those of the classifier, where there is one.
    """

    threshold: float
    pixel_threshold: float
    source: str
    checkpoint_step: int
    logistic: tuple[float, float, float] | None = None
    classifier_step: int | None = None


def calibration_path(workdir: Path) -> Path:
    """Where a run keeps its calibration."""
    return Path(workdir) / "calibration.json"


def save(calibration: Calibration, workdir: Path) -> None:
    """Writes `<workdir>/calibration.json` whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    path = calibration_path(workdir)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(dataclasses.asdict(calibration), indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def load(workdir: Path) -> Calibration | None:
    """The run's calibration; None when it has none yet.

    Raises:
      InputError: the file is there but is not a calibration.
    """
    path = calibration_path(workdir)
    if not path.exists():
        return None
    try:
        return _from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: not a calibration ({type(error).__name__}: {error}); delete the file and run "
            f"`python -m launch.evaluate --workdir={workdir}`, which writes it anew"
        ) from error


def _from_json(values: dict[str, Any]) -> Calibration:
    threshold, pixel_threshold = float(values["threshold"]), float(values["pixel_threshold"])
    for name, value in (("threshold", threshold), ("pixel_threshold", pixel_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} = {value} is not in [0, 1]")
    if values["source"] not in ("validation", "train"):
        raise ValueError(f"source = {values['source']!r} is neither 'validation' nor 'train'")
    logistic = values.get("logistic")
    if logistic is not None:
        maximum, mean, bias = map(float, logistic)
        logistic = maximum, mean, bias
    return Calibration(
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        source=values["source"],
        checkpoint_step=int(values["checkpoint_step"]),
        logistic=logistic,
        classifier_step=values.get("classifier_step"),
    )
