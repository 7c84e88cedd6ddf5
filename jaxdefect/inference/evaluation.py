"""Runs a predictor over labelled samples and keeps what a report needs to judge it."""

import collections
import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Protocol

import numpy as np

from jaxdefect.config import Config, DataConfig
from jaxdefect.data.pipeline import load
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.defects import ImageDefects, compare
from jaxdefect.inference.judgement import Judgement
from jaxdefect.inference.tiles import Tiling
from jaxdefect.metrics.pixel import pixel_counts
from jaxdefect.overlay import map_to_image_size
from jaxdefect.types import InputError, Sample

# Decoding threads; OpenCV releases the interpreter lock, and more than a few only wait for the network.
_NUM_READERS = 4


class BatchPredictor(Protocol):
    """What evaluation asks of a predictor (`jaxdefect.inference.predictor.Predictor` is one)."""

    @property
    def config(self) -> Config: ...

    @property
    def checkpoint_step(self) -> int: ...

    @property
    def weights_sha256(self) -> str | None: ...

    @property
    def tiling(self) -> Tiling | None: ...

    def judge_each(self, images: Iterable[np.ndarray], *, batch_size: int) -> Iterator[Judgement]:
        """Images [H, W, C] float32 in [0, 1] -> what there is to say of each, in order."""
        ...


@dataclasses.dataclass(frozen=True)
class GalleryEntry:
    """An image worth showing: its sample, score, and probability map [h, w] uint8 (255 for 1) as the network gave it.

    `stride`: network input pixels per cell of the map.
    `error` in [-1, 1] says how wrong the decision is: above 0 (or 0 for a false alarm right at the threshold) when
    wrong, below when right, in fractions of the way from the threshold to the end of the range of scores.
    `iou`: of the map's pixels with the annotation's; None where there are neither, or no annotation.
    """

    sample: Sample
    score: float
    is_predicted: bool
    error: float
    probability: np.ndarray
    stride: int
    iou: float | None = None

    @property
    def verdict(self) -> str:
        """ "missed", "false_alarm" or "correct"."""
        if self.is_predicted == bool(self.sample.label):
            return "correct"
        return "false_alarm" if self.is_predicted else "missed"


@dataclasses.dataclass(frozen=True)
class GallerySize:
    """How many images a gallery holds: the worst, beside them the most clearly right of either class, and of the
    defective images that are called so those with the worst masks.
    """

    worst: int = 60
    best_of_each: int = 6
    worst_masks: int = 12


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a predictor said of N samples.

    `ids` N, `labels` [N] int, `scores` [N] float64. `counts` [3] int64: pixel true positives, false positives, false
    negatives at the calibration's pixel threshold, over the `num_masked` positives with masks and all negatives.
    `gallery`: worst first. `compared`: of each sample its defects, true and found, None for a positive without a mask;
    `detected`: with a classifier, those before it, of the samples that are compared.
    `classes`, `groups`: those of each sample, N; `class_scores`: of an ensemble, [N] by class.
    `raw_scores` [N]: before their calibration; None where they are not calibrated.
    `checkpoint_step`, `weights_sha256`, `tiling`: the predictor's, which may be others than the calibration was for.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    counts: np.ndarray
    num_masked: int
    gallery: tuple[GalleryEntry, ...]
    compared: tuple[ImageDefects | None, ...] = ()
    detected: tuple[ImageDefects, ...] | None = None
    classes: tuple[tuple[str, ...], ...] = ()
    groups: tuple[str, ...] = ()
    class_scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    raw_scores: np.ndarray | None = None
    checkpoint_step: int | None = None
    weights_sha256: str | None = None
    tiling: Tiling | None = None

    @property
    def found(self) -> tuple[ImageDefects, ...]:
        """Those of `compared` that there are."""
        return tuple(image for image in self.compared if image is not None)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A sample, what the predictor says of it, the map [H, W] at the size that the image was judged at, and the
    annotation there [H, W] uint8; None for a positive without pixel labels.
    """

    sample: Sample
    judgement: Judgement
    upsampled: np.ndarray
    mask: np.ndarray | None


def evaluate(
    predictor: BatchPredictor,
    samples: Sequence[Sample],
    *,
    calibration: Calibration,
    batch_size: int,
    gallery_size: GallerySize = GallerySize(),
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Scores all samples, counts pixels, and keeps the maps of the gallery's images only.

    Pixels are compared at network input size, or at the image's own where images keep it: the map upsampled bilinearly
    (`overlay.map_to_image_size`), against the annotation as it is (not dilated), resized as in training; a soft one is
    defective from 0.5 on. A positive without a mask is left out of the pixel counts.

    Args:
      predictor: gives scores and maps.
      samples: what to evaluate; at least one.
      calibration: the thresholds to decide by.
      batch_size: images per computation.
      gallery_size: how many images to keep for the report.
      on_progress: called with the number of images done after each.

    Raises:
      InputError: no samples, or an image or mask cannot be read.
    """
    if not samples:
        raise InputError("no images to evaluate: this part of the split is empty")
    ids, labels, scores, raw_scores, classes, groups, class_scores = [], [], [], [], [], [], []
    counts, num_masked = np.zeros(3, np.int64), 0
    gallery: list[GalleryEntry] = []
    compared: list[ImageDefects | None] = []
    detected: list[ImageDefects] = []
    settings = {
        "threshold": calibration.pixel_threshold,
        "join_distance_px": predictor.config.inference.join_distance_px,
        "min_area_px": predictor.config.inference.min_area_px,
    }
    for scored in score(predictor, samples, batch_size=batch_size, on_progress=on_progress):
        ids.append(scored.sample.id)
        labels.append(scored.sample.label)
        scores.append(scored.judgement.score)
        raw_scores.append(scored.judgement.raw_score)
        classes.append(scored.sample.classes)
        groups.append(scored.sample.group)
        class_scores.append(scored.judgement.class_scores)
        image = None
        if scored.mask is not None:
            counts += pixel_counts(scored.upsampled, scored.mask, calibration.pixel_threshold)
            num_masked += scored.sample.label
            before = scored.judgement.detected
            named = None if before is None else scored.judgement.defects
            image = compare(scored.sample, scored.mask, scored.upsampled, predicted=named, **settings)
            if before is not None:
                detected.append(compare(scored.sample, scored.mask, before, **settings))
        compared.append(image)
        entry = _gallery_entry(scored, calibration.threshold, iou=None if image is None else image.iou)
        # Choosing among the chosen and the new is choosing among all: a choice never comes back from being dropped.
        gallery = select_gallery([*gallery, entry], size=gallery_size)
    return Evaluation(
        ids=tuple(ids),
        labels=np.array(labels),
        scores=np.array(scores),
        counts=counts,
        num_masked=num_masked,
        gallery=tuple(gallery),
        compared=tuple(compared),
        detected=tuple(detected) or None,
        classes=tuple(classes),
        groups=tuple(groups),
        class_scores={name: np.array([row[name] for row in class_scores]) for name in class_scores[0]},
        raw_scores=None if None in raw_scores else np.array(raw_scores, np.float64),
        checkpoint_step=predictor.checkpoint_step,
        weights_sha256=predictor.weights_sha256,
        tiling=predictor.tiling,
    )


def select_gallery(entries: Iterable[GalleryEntry], *, size: GallerySize) -> list[GalleryEntry]:
    """The entries to show, worst first.

    Up to `size.worst` of the worst: wrong decisions first, and if there are too many, at least half of the places to
    either kind as long as it can fill them; then the right ones nearest to being wrong. Besides, the
    `size.best_of_each` that are most clearly right of either class, and `worst_masks`.
    """
    ranked = sorted(entries, key=lambda entry: (entry.verdict == "correct", -entry.error, entry.sample.id))
    missed = [entry for entry in ranked if entry.verdict == "missed"]
    false_alarms = [entry for entry in ranked if entry.verdict == "false_alarm"]
    correct = [entry for entry in ranked if entry.verdict == "correct"]
    half = size.worst // 2
    num_missed = min(len(missed), max(size.worst - len(false_alarms), half))
    num_false_alarms = min(len(false_alarms), size.worst - num_missed)
    chosen = missed[:num_missed] + false_alarms[:num_false_alarms]
    chosen += correct[: size.worst - len(chosen)]
    for label in (1, 0):
        of_class = (entry for entry in correct if entry.sample.label == label)
        chosen += heapq.nsmallest(size.best_of_each, of_class, key=lambda entry: (entry.error, entry.sample.id))
    chosen += worst_masks(ranked, size=size)
    chosen_ids = {entry.sample.id for entry in chosen}
    return [entry for entry in ranked if entry.sample.id in chosen_ids]


def worst_masks(entries: Iterable[GalleryEntry], *, size: GallerySize = GallerySize()) -> list[GalleryEntry]:
    """Of the defective images that are called so, the `size.worst_masks` with the smallest IoU, worst first."""
    found = (entry for entry in entries if entry.iou is not None and entry.is_predicted and entry.sample.label)
    return heapq.nsmallest(size.worst_masks, found, key=lambda entry: (entry.iou, entry.sample.id))


def _gallery_entry(scored: Scored, threshold: float, *, iou: float | None) -> GalleryEntry:
    judgement = scored.judgement
    is_predicted = bool(judgement.score >= threshold)
    certainty = abs(margin(judgement.score, threshold=threshold))
    error = -certainty if is_predicted == bool(scored.sample.label) else certainty
    probability = np.round(np.clip(judgement.probability, 0, 1) * 255).astype(np.uint8)
    return GalleryEntry(scored.sample, judgement.score, is_predicted, error, probability, judgement.stride, iou)


def margin(score: float, *, threshold: float) -> float:
    """How far a score in [0, 1] lies above (positive) or below the threshold, in fractions of the way to 1 or to 0."""
    room = (1 - threshold) if score >= threshold else threshold
    return (score - threshold) / room if room > 0 else 0.0


def score(
    predictor: BatchPredictor,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Scored]:
    """Every sample with its score, map and mask, in order; images are decoded while the network computes.

    Args:
      predictor: judges them.
      samples: what to score.
      batch_size: images per computation, and as many are decoded ahead of it.
      on_progress: called with the number of images done after each.

    Raises:
      InputError: an image or mask cannot be read.
    """
    taken: collections.deque[_Read] = collections.deque()

    def images() -> Iterator[np.ndarray]:
        for read in _read_ahead(samples, data=predictor.config.data, num_ahead=batch_size):
            taken.append(read)
            yield read[1]

    for num_done, judgement in enumerate(predictor.judge_each(images(), batch_size=batch_size), start=1):
        sample, image, mask = taken.popleft()
        upsampled = map_to_image_size(judgement.probability, *image.shape[:2], stride=judgement.stride)
        yield Scored(sample, judgement, upsampled, mask)
        if on_progress:
            on_progress(num_done)


_Read = tuple[Sample, np.ndarray, np.ndarray | None]


def _read_ahead(samples: Sequence[Sample], *, data: DataConfig, num_ahead: int) -> Iterator[_Read]:
    """Decoded samples, `num_ahead` of them before they are asked for."""
    with futures.ThreadPoolExecutor(_NUM_READERS) as readers:
        waiting: collections.deque[futures.Future[_Read]] = collections.deque()
        try:
            for sample in samples:
                waiting.append(readers.submit(_read, sample, data))
                if len(waiting) > num_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # an unreadable image ends the run at once, not after all that was queued
            readers.shutdown(cancel_futures=True)


def _read(sample: Sample, data: DataConfig) -> _Read:
    """The sample's image and mask, at network input size unless images keep their own."""
    image, mask = load(sample, data)
    if sample.label and sample.mask is None:
        return sample, image, None
    return sample, image, (mask >= 0.5).astype(np.uint8)
