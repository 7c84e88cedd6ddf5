"""The few records that cross rooms: a sample, a split, a prediction, and the error that a user can cause."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np


class InputError(ValueError):
    """A mistake in what the user gave: its text says what is wrong, where, and what to do.

    The launchers print the text without a traceback and exit with code 2.
    """


class UnreadableImageError(InputError):
    """An image file whose pixels cannot be read, or not any more."""


@dataclasses.dataclass(frozen=True)
class RunLengthMask:
    """A mask as run lengths: `runs` holds (start, length) pairs, start 1-based, pixels counted column by column.

    `source` says where the runs stand, for error messages ("train.csv, line 17").
    """

    runs: tuple[tuple[int, int], ...]
    source: str


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """A mask kept in a file whose values need a word of explanation; a plain `Path` is one with `above` 0.

    A pixel is defective where the stored value (of an image, or of the array in a CrackForest .mat file) is above
    `above`. With `is_soft` the stored value divided by the largest that its type can hold is a degree in [0, 1].
    """

    path: Path
    above: float = 0.0
    is_soft: bool = False


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape drawn by an annotator, in pixels (x to the right, y down) of the stored image.

    `numbers` of a "polygon": x, y of every corner; of a "polyline": the same, a line `width_px` wide; of an "ellipse":
    centre x, centre y, radius x, radius y, and the angle in degrees by which it is turned clockwise.
    """

    kind: Literal["polygon", "polyline", "ellipse"]
    numbers: tuple[float, ...]
    width_px: int = 1


@dataclasses.dataclass(frozen=True)
class ShapeMask:
    """A mask as the union of shapes. `source` says where they stand ("via.json, image a.png")."""

    shapes: tuple[Shape, ...]
    source: str


Mask = Path | MaskFile | RunLengthMask | ShapeMask


class Window(NamedTuple):
    """A part of an image, in pixels as stored."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image of a data set, by reference: paths, not pixels.

    `mask` is None or says where the mask is kept. A negative (label 0) counts as pixel-labelled, all zero, without a
    mask; a positive (label 1) without one is known at image level only.
    `group` ties images of one physical item together: a split never parts a group.
    `class_masks` holds (class, its mask) where an image can have defects of several classes; with a single class that
    one has the whole mask.
    `window`: the part of the image that is meant; None: all of it. It may reach beyond the image, which is mirrored.
    """

    id: str
    image: Path
    mask: Mask | None
    label: int
    group: str
    classes: tuple[str, ...] = ()
    class_masks: tuple[tuple[str, Mask], ...] = ()
    window: Window | None = None


MAX_SEVERITY = 12.0  # of a target cell: what the network sees of the largest raw severity (He & Liu 2020)


@dataclasses.dataclass(frozen=True)
class Targets:
    """What training targets need besides the data's config: `stride` input pixels per target cell, the raw severity
    that maps to the largest severity (the maximum over the training images; 1 where the target is a mask), and the
    loss's `undisputed_power`, by which pixels weigh.
    """

    stride: int
    severity_scale: float = 1.0
    undisputed_power: float = 0.0


@dataclasses.dataclass(frozen=True)
class Split:
    """Which samples serve for what, by id. `masked` names the training positives whose masks may be used."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    masked: tuple[str, ...]
    source: str = ""


# A batch as the pipeline yields it, B images of H x W, maps at h x w (the model's output resolution):
# image [B, H, W, C] float32 in [0, 1], mask [B, h, w, 1] float32 in [0, 1], weight [B, h, w, 1] float32,
# label [B] float32 in {0, 1}, has_mask [B] float32 in {0, 1}, id [B] str; class_id [B] int32 where the config names
# classes: 0 for a good image, k for the k-th class.
Batch = Mapping[str, np.ndarray]


class RotatedBox(NamedTuple):
    """The rectangle of least area around a defect, in pixels of the image, whose first pixel reaches from 0 to 1.

    `x`, `y`: its middle. `length` and `width`: the longer and the shorter side. `degrees` in (-90, 90]: how far the
    longer side is turned clockwise from a horizontal one.
    """

    x: float
    y: float
    length: float
    width: float
    degrees: float


@dataclasses.dataclass(frozen=True)
class Defect:
    """One defect of an image.

    `label`: its number in the label map, from 1. `box`: the smallest part of the image that holds it. `mean` and
    `maximum`: of the map (the severity, in [0, 1]) over its pixels. `class_name` and `confidence` (the classifier's, in
    [0, 1]) are None until a classifier has seen it; so is `vote`, the share of its windows that named this class.
    `runs` [N, 3] int32: its pixels as row, first column, and the column behind the last.
    """

    label: int
    box: Window
    rotated_box: RotatedBox
    area_px: int
    mean: float
    maximum: float
    class_name: str | None = None
    confidence: float | None = None
    vote: float | None = None
    runs: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3), np.int32), compare=False, repr=False)

    @property
    def length_px(self) -> float:
        """How long it is: the longer side of its rotated box. What is bent is longer."""
        return self.rotated_box.length


# What is done with an image: let it pass, look at it by hand, sort it out.
Verdict = Literal["accept", "inspect", "reject"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the predictor says of one image.

    `score` in [0, 1]: how probably the image is defective. `is_defective`: score at or above the threshold.
    `verdict`: "accept" what is not; the rest is "reject", or, by a three-way calibration, "inspect" up to its second
    threshold.
    `probability` [H, W] float32 in [0, 1]: the defect map at the image's own size.
    `class_scores` in [0, 1]: of an ensemble, by class; a class is called from 0.5 on. Else empty.
    `defects`: the parts of the map at or above the pixel threshold; of a run with a classifier, those that it accepted;
    of an ensemble, those of each class, which may overlap.
    """

    score: float
    is_defective: bool
    verdict: Verdict
    probability: np.ndarray
    class_scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    defects: tuple[Defect, ...] = ()
