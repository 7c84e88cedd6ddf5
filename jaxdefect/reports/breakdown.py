"""Where the errors are: the figures of an evaluation by group (an item, its parts) and by class of defect."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdefect.inference import ensemble
from jaxdefect.inference.evaluation import Evaluation
from jaxdefect.metrics.counts import count_figures
from jaxdefect.metrics.image import image_metrics
from jaxdefect.reports import files

# Of each kind in metrics.json and on the page; groups.csv has all.
MAX_ROWS = 30


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one group or one class.

    `average_precision` of a class is that of its images against all good ones. `false_positives` of a class are the
    images without it that are said to have it; None where the run does not name classes. `pixel_iou` is over the pixels
    of all its images that have masks (of a class: whole masks, with the other classes of such an image) and, of a
    group, its good images. None: undefined.
    """

    name: str
    num_images: int
    num_defective: int
    average_precision: float | None
    false_positives: int | None
    false_negatives: int
    pixel_iou: float | None


class Breakdown(NamedTuple):
    """Rows by group and by class, worst first; both empty where they would say nothing."""

    groups: tuple[Row, ...]
    classes: tuple[Row, ...]


def break_down(evaluation: Evaluation, *, threshold: float) -> Breakdown:
    """The figures of each group and class, most wrong decisions per image first, then the smallest pixel IoU.

    Groups are left out where each image is one of its own, or all are one; classes where no defect has one.

    Args:
      evaluation: of N images.
      threshold: images that score at least this are called defective.
    """
    groups, classes = np.array(evaluation.groups, object), sorted({c for row in evaluation.classes for c in row})
    names = sorted(set(evaluation.groups))
    rows = []
    if 1 < len(names) < len(groups):
        rows = [_row(evaluation, name, groups == name, threshold=threshold) for name in names]
    has_class = {name: np.array([name in row for row in evaluation.classes]) for name in classes}
    of_classes = [_class_row(evaluation, name, chosen, threshold=threshold) for name, chosen in has_class.items()]
    return Breakdown(_worst_first(rows), _worst_first(of_classes))


def to_csv(breakdown: Breakdown) -> str:
    """groups.csv: all rows, worst first, with all digits; a column `kind` says "group" or "class"."""
    header = ["kind", *(field.name for field in dataclasses.fields(Row))]
    kinds = (("group", breakdown.groups), ("class", breakdown.classes))
    rows = [(kind, *dataclasses.astuple(row)) for kind, of_kind in kinds for row in of_kind]
    return files.to_csv(header, rows)


def to_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The worst `MAX_ROWS` rows for metrics.json."""
    return [dataclasses.asdict(row) for row in rows[:MAX_ROWS]]


def _row(evaluation: Evaluation, name: str, chosen: np.ndarray, *, threshold: float) -> Row:
    """The figures of the chosen images ([N] bool)."""
    figures = image_metrics(evaluation.labels[chosen], evaluation.scores[chosen], threshold=threshold)
    compared = {i: image for i, image in enumerate(evaluation.compared) if chosen[i] and image is not None}
    counts = np.sum([np.zeros(3, np.int64), *(image.counts for image in compared.values())], axis=0)
    is_masked = any(evaluation.labels[i] for i in compared)
    return Row(
        name=name,
        num_images=figures["num_images"],
        num_defective=figures["num_defective"],
        average_precision=figures["average_precision"],
        false_positives=figures["false_positives"],
        false_negatives=figures["false_negatives"],
        pixel_iou=count_figures(counts).iou if is_masked else None,
    )


def _class_row(evaluation: Evaluation, name: str, chosen: np.ndarray, *, threshold: float) -> Row:
    against = chosen | (evaluation.labels == 0)
    figures = image_metrics(evaluation.labels[against], evaluation.scores[against], threshold=threshold)
    row = _row(evaluation, name, chosen, threshold=threshold)
    named = _named(evaluation, name)
    return dataclasses.replace(
        row,
        average_precision=figures["average_precision"],
        false_positives=None if named is None else int(np.sum(named & ~chosen)),
    )


def _named(evaluation: Evaluation, name: str) -> np.ndarray | None:
    """Which images [N] the run says have the class; None where it does not name classes."""
    if evaluation.class_scores:
        scores = evaluation.class_scores.get(name)
        return None if scores is None else scores >= ensemble.THRESHOLD
    if evaluation.detected is None:
        return None
    return np.array([image is not None and name in image.match.predicted_classes for image in evaluation.compared])


def _worst_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    def badness(row: Row) -> tuple[float, float, float, str]:
        num_wrong = row.false_negatives + (row.false_positives or 0)
        iou = 1.0 if row.pixel_iou is None else row.pixel_iou
        return -num_wrong / row.num_images, iou, -num_wrong, row.name

    return tuple(sorted(rows, key=badness))
