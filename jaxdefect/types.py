"""The few records that cross rooms: a sample, a split, a prediction, and the error that a user can cause."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class InputError(ValueError):
    """A mistake in what the user gave: its text says what is wrong, where, and what to do.

    The launchers print the text without a traceback and exit with code 2.
    """


@dataclasses.dataclass(frozen=True)
class RunLengthMask:
    """A mask as run lengths: `runs` holds (start, length) pairs, start 1-based, pixels counted column by column.

    `source` says where the runs stand, for error messages ("train.csv, line 17").
    """

    runs: tuple[tuple[int, int], ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image of a data set, by reference: paths, not pixels.

    `mask` is a file, run lengths, or None. A negative (label 0) counts as pixel-labelled, all zero, without a mask;
    a positive (label 1) without one is known at image level only.
    `group` ties images of one physical item together: a split never parts a group.
    """

    id: str
    image: Path
    mask: Path | RunLengthMask | None
    label: int
    group: str
    classes: tuple[str, ...] = ()


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
# label [B] float32 in {0, 1}, has_mask [B] float32 in {0, 1}, id [B] str.
Batch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the predictor says of one image.

    `score` in [0, 1]: how probably the image is defective. `is_defective`: score at or above the threshold.
    `probability` [H, W] float32 in [0, 1]: the defect map at the image's own size.
    """

    score: float
    is_defective: bool
    probability: np.ndarray
