"""What a finished run of a study says of its test images, kept in the run's directory; its presence says "finished"."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdefect.reports import files
from jaxdefect.reports.evaluation import report_directory, run_evaluation
from jaxdefect.training import runs
from jaxdefect.types import InputError

_RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of the N test images of a run.

    `ids` N, `labels` [N] int, `scores` [N] float64. `threshold`: the run's own, chosen on `threshold_source`
    ("validation" or "train" images). `defects`: figures of pixels and single defects (`inference.defects.summary`);
    empty where no test image has a mask.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    threshold: float
    threshold_source: str
    defects: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def tested(self) -> frozenset[tuple[str, int]]:
        """The images with their labels: runs are comparable where these are equal."""
        return frozenset(zip(self.ids, self.labels.tolist(), strict=True))


def evaluate(workdir: Path) -> Result:
    """Evaluates a trained run on its test images, as `launch.evaluate` does, and keeps the result.

    Raises:
      InputError: as `reports.evaluation.run_evaluation`; or the result cannot be written.
    """
    metrics = run_evaluation(workdir, part="test")
    columns = files.read_columns(report_directory(workdir, "test") / "scores.csv")
    result = Result(
        ids=tuple(columns["id"]),
        labels=np.array(columns["label"], int),
        scores=np.array(columns["score"], np.float64),
        threshold=metrics["threshold"],
        threshold_source=metrics["threshold_source"],
        defects=metrics["defects"] or {},
    )
    save(result, workdir)
    return result


def save(result: Result, workdir: Path) -> None:
    """Keeps the result with its run.

    Raises:
      InputError: it cannot be written.
    """
    values = dataclasses.asdict(result) | {"labels": result.labels.tolist(), "scores": result.scores.tolist()}
    files.write(workdir / _RESULT, json.dumps(values | {"versions": runs.versions()}) + "\n")


def load(workdir: Path) -> Result | None:
    """The result of a run; None where it has not been finished.

    Raises:
      InputError: the file is there but is not a result.
    """
    path = workdir / _RESULT
    if not path.exists():
        return None
    try:
        return _from_values(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: not a result ({type(error).__name__}: {error}); delete the file, and the same command writes it "
            "anew"
        ) from error


def _from_values(values: dict[str, Any]) -> Result:
    return Result(
        ids=tuple(values["ids"]),
        labels=np.array(values["labels"], int),
        scores=np.array(values["scores"], np.float64),
        threshold=float(values["threshold"]),
        threshold_source=str(values["threshold_source"]),
        defects=dict(values.get("defects", {})),
    )
