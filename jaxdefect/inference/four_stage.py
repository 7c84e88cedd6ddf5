"""The later stages of deep regression (He & Liu 2020): defects are cut into windows, classified, and voted on."""

import csv
import dataclasses
import functools
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdefect import models
from jaxdefect.config import ClassifierConfig
from jaxdefect.data import images, pipeline
from jaxdefect.data.sources import ImageSource
from jaxdefect.inference import windows
from jaxdefect.inference.components import find_defects
from jaxdefect.inference.defects import UNKNOWN_CLASS, known_class
from jaxdefect.models import hoisting
from jaxdefect.training import checkpoint as checkpoints
from jaxdefect.training import runs
from jaxdefect.types import Defect, InputError, Sample, Window

_FOLDER = "classifier"  # under the detector's run
_BATCH = 16
_CROP_FOLDER = "images"


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier of defects: `forward(variables, windows [16, w, w, C]) -> probabilities [16, K + 1]`.

    Class 0 is "not a defect", class k the k-th of `classes`. `step`: the training step that the variables come from.
    """

    settings: ClassifierConfig
    classes: tuple[str, ...]
    variables: Any
    step: int
    forward: Callable[[Any, Any], jax.Array]


def classifier_directory(workdir: Path) -> Path:
    """Where the classifier's run lies under the detector's."""
    return workdir / _FOLDER


def load_classifier(run: runs.Run) -> Classifier:
    """The classifier that was trained for a detector; its classes as the detector's data set calls them.

    Raises:
      InputError: there is none yet, or it is not a run.
    """
    directory = classifier_directory(run.workdir)
    if not directory.is_dir():
        raise InputError(f"{directory}: no classifier yet; the command that trained the detector goes on to train it")
    own = runs.load(directory)
    variables, step = checkpoints.restore_variables(directory, config=own.config)
    apply = functools.partial(models.build(own.config.model).apply, train=False)
    classes = tuple(urllib.parse.unquote(name) for name in own.config.data.classes)  # `write_crops` quotes them
    shape = (*own.config.data.image_size, own.config.data.num_channels)
    forward, weights = hoisting.for_inference(compile_classifier(apply), jax.device_put(variables), image_shape=shape)
    return Classifier(settings=run.config.classifier, classes=classes, variables=weights, step=step, forward=forward)


def compile_classifier(apply: Callable[[Any, jax.Array], Any]) -> Callable[[Any, Any], jax.Array]:
    """A `Classifier.forward` from what gives a network's {"classes": logits [N, K + 1]}."""

    @jax.jit
    def forward(variables: Any, pixels: jax.Array) -> jax.Array:
        return jax.nn.softmax(apply(variables, pixels)["classes"], axis=-1)

    return forward


def classify_defects(source: ImageSource, defects: Iterable[Defect], *, classifier: Classifier) -> list[Defect]:
    """Stage 4: each defect is what the majority of its windows says.

    Args:
      source: the image.
      defects: as stages 2 and 3 found them.
      classifier: the trained one.

    Returns:
      The defects that it does not reject, with class, confidence (the mean probability of the class over the windows)
      and vote (the share of the windows that named it).

    Raises:
      InputError: a part of the image cannot be decoded.
    """
    accepted = []
    for defect in defects:
        parts = _windows(defect.box, (source.height, source.width), classifier.settings)
        probabilities = _classify(source, parts, classifier)
        winner = windows.vote(probabilities)
        if winner == 0:
            continue
        accepted.append(
            dataclasses.replace(
                defect,
                class_name=classifier.classes[winner - 1],
                confidence=float(probabilities[:, winner].mean(dtype=np.float64)),
                vote=float((probabilities.argmax(axis=1) == winner).mean()),
            )
        )
    return accepted


def _windows(box: Window, size: tuple[int, int], settings: ClassifierConfig) -> list[Window]:
    height, width = size
    return windows.defect_windows(
        box, height=height, width=width, window_px=settings.window_px, stride_px=settings.window_stride_px
    )


def _classify(source: ImageSource, parts: Sequence[Window], classifier: Classifier) -> np.ndarray:
    """Probabilities [N, K + 1] of the windows, computed in padded batches of one size."""
    cuts = windows.cut_windows(source, parts, window_px=classifier.settings.window_px)
    rows = []
    for start in range(0, len(cuts), _BATCH):
        chunk = cuts[start : start + _BATCH]
        probabilities = classifier.forward(classifier.variables, pipeline.pad(chunk, _BATCH))
        rows.append(np.asarray(probabilities)[: len(chunk)])
    return np.concatenate(rows)


@dataclasses.dataclass(frozen=True)
class Crop:
    """A window to train the classifier on: `class_name` None for "not a defect"."""

    sample: Sample
    window: Window
    class_name: str | None


def training_crops(
    sample: Sample,
    mask: np.ndarray,
    probability: np.ndarray,
    *,
    settings: ClassifierConfig,
    threshold: float,
    join_distance_px: float,
    rng: np.random.Generator,
) -> list[Crop]:
    """The windows over an image's true defects, and over what the detector takes for defects where there is none.

    A detection that touches no annotated pixel is a false alarm. A detector that has learnt its training images raises
    few; then windows at random places without a defect stand in, as many as there are true ones (one at least).
    Where the image's classes are named, a true defect of which it is not known to which it belongs gives no windows.

    Args:
      sample: the image's; its classes name the defects.
      mask: [H, W], the annotation at the size of the image as the detector judged it.
      probability: [H, W], the detector's map.
      settings: of the classifier.
      threshold: of the map.
      join_distance_px: of components.
      rng: for the random places.
    """
    crops: list[Crop] = []
    true_labels, true_defects = find_defects(mask, threshold=0.5, join_distance_px=join_distance_px)
    for defect in true_defects:
        name = known_class(sample, true_labels == defect.label)
        if name is None and sample.classes:
            continue
        crops += [Crop(sample, window, name or UNKNOWN_CLASS) for window in _windows(defect.box, mask.shape, settings)]
    labels, detected = find_defects(probability, threshold=threshold, join_distance_px=join_distance_px)
    touched = set(np.unique(labels[mask >= 0.5]))
    false_alarms = [
        Crop(sample, window, None)
        for defect in detected
        if defect.label not in touched
        for window in _windows(defect.box, mask.shape, settings)
    ]
    num_wanted = max(1, len(crops)) - len(false_alarms)
    return crops + false_alarms + list(_background(sample, mask, num_wanted, settings=settings, rng=rng))


def _background(
    sample: Sample, mask: np.ndarray, count: int, *, settings: ClassifierConfig, rng: np.random.Generator
) -> Iterator[Crop]:
    """Up to `count` windows at random places that show no defect; fewer where there is hardly room for any."""
    side, (height, width) = settings.window_px, mask.shape
    for _ in range(10 * max(count, 0)):
        top, left = rng.integers(0, max(height - side, 0) + 1), rng.integers(0, max(width - side, 0) + 1)
        if (mask[top : top + side, left : left + side] >= 0.5).any():
            continue
        yield Crop(sample, Window(int(top), int(left), side, side), None)
        count -= 1
        if count <= 0:
            return


def write_crops(crops: Iterable[tuple[Crop, np.ndarray]], folder: Path) -> list[Sample]:
    """Writes windows [w, w, C] as a data set in the layout of the `folder` reader, and returns its samples.

    Classes are written, and returned, percent-encoded ("deep%20scratch"), since that layout separates them by spaces.

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        (folder / _CROP_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
    samples: list[Sample] = []
    for number, (crop, pixels) in enumerate(crops):
        path = folder / _CROP_FOLDER / f"{number:06d}.png"
        rounded = np.rint(pixels * 255).astype(np.uint8)
        images.write_image(path, rounded[..., 0] if rounded.shape[-1] == 1 else rounded)
        classes = () if crop.class_name is None else (urllib.parse.quote(crop.class_name, safe=""),)
        samples.append(
            Sample(
                id=f"{_CROP_FOLDER}/{path.stem}",
                image=path,
                mask=None,
                label=len(classes),
                group=crop.sample.group,
                classes=classes,
            )
        )
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "group", "classes"])
        for sample in samples:
            name = sample.classes[0] if sample.label else ""
            writer.writerow([f"{sample.id}.png", sample.label, sample.group, name])
    return samples
