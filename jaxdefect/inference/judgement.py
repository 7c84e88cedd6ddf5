"""What a predictor says of an image: of any size, or in memory."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdefect.data.sources import ImageSource
from jaxdefect.inference.pixel_map import PixelMap
from jaxdefect.types import Defect


class Result(NamedTuple):
    """What a predictor says of one image of any size; `Predictor.with_defects` adds the defects.

    `score` in [0, 1], float64. `class_scores`: of an ensemble, by class. `map`: read by rows, at the image's size.
    `raw_score`: as a `Judgement` has it.
    """

    score: float
    map: PixelMap
    source: ImageSource
    class_scores: Mapping[str, float] = {}
    defects: tuple[Defect, ...] = ()
    raw_score: float | None = None


class Judgement(NamedTuple):
    """What a predictor says of one image.

    `score` in [0, 1], float64. `probability` [h, w] float32 in [0, 1]; its cells as `overlay.map_to_image_size` takes
    `stride`. `class_scores`: of an ensemble, by class. With a classifier, `defects` are those that it accepted, and
    `detected` the map before it rejected the others. `raw_score`: the score before its calibration made a probability
    of it; None where there is none.
    """

    score: float
    probability: np.ndarray
    stride: int
    class_scores: Mapping[str, float] = {}
    defects: tuple[Defect, ...] = ()
    detected: np.ndarray | None = None
    raw_score: float | None = None
