"""How well single defects are found: the true and the predicted ones of each image, and figures over all images."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdefect.data import annotation, images
from jaxdefect.inference.components import find_defects
from jaxdefect.metrics import defect as defect_metrics
from jaxdefect.metrics.counts import count_figures, hits_and_misses
from jaxdefect.metrics.pixel import pixel_counts
from jaxdefect.types import Defect, Mask, Sample

UNKNOWN_CLASS = "defect"  # of defects that the annotation does not name
NOTHING = "nothing"  # the class of a false alarm, and of the prediction for a missed defect
IOU_THRESHOLDS = np.linspace(0, 1, 21)


@dataclasses.dataclass(frozen=True)
class ImageDefects:
    """One image: its true and predicted defects, `counts` [3] of pixels (true positives, false positives, false
    negatives), and their IoU (None with neither annotated nor predicted pixels).
    """

    match: defect_metrics.DefectMatch
    counts: np.ndarray
    iou: float | None


def compare(
    sample: Sample,
    mask: np.ndarray,
    probability: np.ndarray,
    *,
    threshold: float,
    join_distance_px: int,
    min_area_px: int = 0,
    predicted: Sequence[Defect] | None = None,
) -> ImageDefects:
    """Holds a map [H, W] against an annotation [H, W].

    Args:
      sample: whose annotation it is; its classes name the true defects.
      mask: the annotation, a defect from 0.5 on.
      probability: the map.
      threshold: of the map.
      join_distance_px: components closer than this are one defect, in both.
      min_area_px: a predicted one is no smaller.
      predicted: what a classifier said of the map's components, in their order; None: they have no class.
    """
    true_labels, true_defects = find_defects(mask, threshold=0.5, join_distance_px=join_distance_px)
    labels, found = find_defects(
        probability, threshold=threshold, join_distance_px=join_distance_px, min_area_px=min_area_px
    )
    names = [None] * len(found) if predicted is None else [defect.class_name for defect in predicted]
    return ImageDefects(
        match=defect_metrics.DefectMatch(
            ious=defect_metrics.defect_ious(true_labels, labels),
            true_classes=tuple(class_of(sample, true_labels == defect.label) for defect in true_defects),
            predicted_classes=tuple(names),
        ),
        counts=pixel_counts(probability, mask >= 0.5, threshold),
        iou=count_figures(hits_and_misses(mask >= 0.5, labels > 0)).iou,
    )


def class_of(sample: Sample, region: np.ndarray) -> str:
    """`known_class` of the true defect in a region [H, W] of bool, UNKNOWN_CLASS where there is none."""
    return known_class(sample, region) or UNKNOWN_CLASS


def known_class(sample: Sample, region: np.ndarray) -> str | None:
    """The class of the true defect in a region [H, W] of bool: of several masks by class, the one that covers most.

    None: the image has no classes, several that are not known apart, or none of their masks covers any of the region.
    """
    if not sample.class_masks:
        return sample.classes[0] if len(sample.classes) == 1 else None
    height, width = images.image_size(sample.image)

    def covered(entry: tuple[str, Mask]) -> int:
        of_class = annotation.load_mask(dataclasses.replace(sample, mask=entry[1]), height=height, width=width)
        return int((annotation.resize_mask(of_class, *region.shape)[region] >= 0.5).sum())

    area_px, name = max(((covered(entry), entry[0]) for entry in sample.class_masks), key=lambda found: found[0])
    return name if area_px else None


def summary(found: Sequence[ImageDefects], *, with_class: bool) -> dict[str, Any]:
    """Figures over images: pixels, mean IoU over the images with a defect, AR, and single defects by overlap.

    Pixel precision and recall are over all pixels of all images. A defect counts as found from an IoU of 0.5 on, or
    with any overlap; `with_class`: only if its class is right too. Figures that are undefined are None.
    """
    matches = [image.match for image in found]
    counts = np.sum([image.counts for image in found], axis=0) if found else np.zeros(3, np.int64)
    pixels = count_figures(counts)
    at = defect_metrics.precision_recall_by_iou(matches, thresholds=np.array([0.0, 0.5]), with_class=with_class)
    ious = [defect_metrics.matched_ious(match, with_class=with_class) for match in matches]
    return {
        "num_true": sum(len(match.true_classes) for match in matches),
        "num_predicted": sum(len(match.predicted_classes) for match in matches),
        "pixel_precision": pixels.precision,
        "pixel_recall": pixels.recall,
        "pixel_f1": pixels.f1,
        "mean_iou": defect_metrics.mean_iou([image.iou for image in found if image.match.true_classes]),
        "average_recall": defect_metrics.average_recall(np.concatenate([np.zeros(0), *ious])),
        "precision_any_overlap": None if at.precision is None else float(at.precision[0]),
        "recall_any_overlap": None if at.recall is None else float(at.recall[0]),
        "precision_iou_50": None if at.precision is None else float(at.precision[1]),
        "recall_iou_50": None if at.recall is None else float(at.recall[1]),
    }


def curve(found: Sequence[ImageDefects], *, with_class: bool) -> defect_metrics.DefectCurve:
    """Defect-level precision and recall against the IoU from which a defect counts as found."""
    matches = [image.match for image in found]
    return defect_metrics.precision_recall_by_iou(matches, thresholds=IOU_THRESHOLDS, with_class=with_class)


def confusion(found: Sequence[ImageDefects]) -> tuple[np.ndarray, list[str]]:
    """How often a true defect of one class (row) was predicted as another (column), [K, K], and the K names.

    Defects are matched by their overlap whatever their class. The last name stands for nothing: its column counts the
    missed defects, its row the false alarms.
    """
    pairs: list[tuple[str, str]] = []
    for image in found:
        match = image.match
        joined = defect_metrics.match(match.ious)
        hit_true, hit_predicted = {true for true, _ in joined}, {predicted for _, predicted in joined}
        pairs += [(str(match.true_classes[t]), str(match.predicted_classes[p])) for t, p in joined]
        pairs += [(str(name), NOTHING) for t, name in enumerate(match.true_classes) if t not in hit_true]
        pairs += [(NOTHING, str(name)) for p, name in enumerate(match.predicted_classes) if p not in hit_predicted]
    names = [*sorted({name for pair in pairs for name in pair} - {NOTHING}), NOTHING]
    numbers = np.array([[names.index(name) for name in pair] for pair in pairs], np.int64).reshape(-1, 2)
    return defect_metrics.confusion_matrix(numbers[:, 0], numbers[:, 1], len(names)), names
