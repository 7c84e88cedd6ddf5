"""Patches against brute force: mirrored as OpenCV mirrors, labelled by their own part of a mask, blended by pixel."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.data import patches
from jaxdefect.types import Sample, Window


def test_windows_go_left_to_right_and_top_to_bottom_and_end_at_the_border():
    found = patches.windows(100, 130, size=(64, 64), stride_px=32)
    assert found == [Window(top, left, 64, 64) for top in (0, 32, 36) for left in (0, 32, 64, 66)]
    assert patches.windows(128, 64, size=(64, 64), stride_px=64) == [Window(0, 0, 64, 64), Window(64, 0, 64, 64)]
    assert patches.windows(50, 70, size=(64, 64), stride_px=48) == [Window(0, 0, 64, 64), Window(0, 6, 64, 64)]
    for stride_px in (0, 65):
        with pytest.raises(ValueError, match="must be between 1 and the sides"):
            patches.windows(100, 100, size=(64, 128), stride_px=stride_px)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (5, 1), (1, 1, 1)])
@pytest.mark.parametrize(
    "window", [Window(0, 0, 4, 1), Window(-3, -2, 12, 5), Window(5, 0, 40, 30), Window(-40, 50, 3, 4)]
)
def test_cut_pixels_are_those_of_the_repeatedly_mirrored_image(shape, window):
    image = np.random.default_rng(0).random(shape, np.float32)
    part = patches.cut(image, window)
    assert part.shape == (window.height, window.width, *shape[2:])
    for row, column in np.ndindex(window.height, window.width):
        source = tuple(
            cv2.borderInterpolate(index, length, cv2.BORDER_REFLECT_101)
            for index, length in zip((window.top + row, window.left + column), shape[:2], strict=True)
        )
        np.testing.assert_array_equal(part[row, column], image[source])


def _write(path: Path, height: int, width: int) -> Path:
    assert cv2.imwrite(str(path), np.zeros((height, width), np.uint8))
    return path


def test_patches_are_labelled_by_their_own_part_of_the_mask(tmp_path: Path):
    image = _write(tmp_path / "a.png", 64, 128)
    masks = {"all": np.zeros((64, 128), np.float32), "scratch": np.zeros((64, 128), np.float32)}
    masks["all"][10, 20] = masks["scratch"][10, 20] = 0.5
    masks["all"][10, 70] = 1  # a dent
    masks["dent"] = masks["all"] - masks["scratch"]
    masks["all"][10, 127] = 0.4  # too faint for a label
    classes = ("dent", "scratch")
    paths = {name: tmp_path / name for name in masks}
    defective = Sample("a", image, paths["all"], 1, "item 1", classes, tuple((name, paths[name]) for name in classes))
    unlabelled = dataclasses.replace(defective, id="b", mask=None)
    good = Sample("c", _write(tmp_path / "c.png", 32, 40), None, 0, "item 2")

    found = patches.patch_samples(
        [defective, unlabelled, good],
        size=(32, 32),
        stride_px=32,
        load_mask=lambda sample: masks[sample.mask.name],  # type: ignore[union-attr]
    )
    scratch, nothing, dent, faint, *rest, good_left, good_right = found
    assert [sample.id for sample in found[:2]] == ["a@0,0", "a@0,32"]
    assert [sample.window for sample in found[:2]] == [Window(0, 0, 32, 32), Window(0, 32, 32, 32)]
    for sample, name in ((scratch, "scratch"), (dent, "dent")):
        assert (sample.label, sample.classes) == (1, (name,))
        assert sample.class_masks == ((name, paths[name]),)
    for sample in (scratch, dent, faint):
        assert sample.mask == paths["all"]  # what is faint stays a soft target
    for sample in (nothing, faint, *rest):
        assert (sample.label, sample.classes, sample.class_masks) == (0, (), ())
    assert [nothing.mask, *(sample.mask for sample in rest)] == [None] * 5
    assert {sample.group for sample in found[:8]} == {"item 1"}
    assert [(s.id, s.label, s.group) for s in (good_left, good_right)] == [
        ("c@0,0", 0, "item 2"),
        ("c@0,8", 0, "item 2"),
    ]
    with pytest.raises(ValueError, match="'a@0,0' is a part of an image already"):
        patches.patch_samples([scratch], size=(32, 32), stride_px=32, load_mask=lambda _: masks["all"])
