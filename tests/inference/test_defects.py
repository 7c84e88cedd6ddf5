"""The class of a true defect: of the image's only class, by the masks of each class, or not known."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.inference import defects
from jaxdefect.types import Sample, Shape, ShapeMask


def square(left: float, right: float) -> ShapeMask:
    corners = (left, 10.0, right, 10.0, right, 30.0, left, 30.0)
    return ShapeMask((Shape("polygon", corners),), f"from {left} to {right}")


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """Its dent lies in the columns 8 to 24, its deep scratch in 40 to 56, of 64."""
    image = tmp_path / "a.png"
    assert cv2.imwrite(str(image), np.zeros((48, 64), np.uint8))
    masks = (("dent", square(8, 24)), ("deep scratch", square(40, 56)))
    return Sample("a", image, square(8, 56), 1, "a", ("deep scratch", "dent"), masks)


@pytest.mark.parametrize("scale", [1, 2])  # the network may see the image at half its size
def test_the_mask_that_covers_most_names_the_defect(sample: Sample, scale: int):
    def region(left: int, right: int) -> np.ndarray:
        inside = np.zeros((48 // scale, 64 // scale), bool)
        inside[12 // scale : 28 // scale, left // scale : right // scale] = True
        return inside

    assert defects.class_of(sample, region(10, 20)) == "dent"
    assert defects.class_of(sample, region(42, 48)) == "deep scratch"
    assert defects.class_of(sample, region(16, 56)) == "deep scratch"
    assert defects.class_of(sample, region(28, 36)) == defects.UNKNOWN_CLASS
    without = dataclasses.replace(sample, class_masks=())
    assert defects.class_of(without, region(10, 20)) == defects.UNKNOWN_CLASS
    for classes, name in (((), defects.UNKNOWN_CLASS), (("dent",), "dent")):
        assert defects.class_of(dataclasses.replace(without, classes=classes), region(42, 48)) == name
