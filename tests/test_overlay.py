"""Maps laid over images: in the right place, in the right colours."""

import numpy as np
import pytest

from jaxdefect import overlay


def reduced_to_an_eighth(mask: np.ndarray) -> np.ndarray:
    """The training target by its definition: reflect 8 pixels, then the mean of 17 x 17 windows at stride 8."""
    padded = np.pad(mask.astype(np.float64), 8, mode="reflect")
    height, width = mask.shape
    return np.array(
        [[padded[y : y + 17, x : x + 17].mean() for x in range(0, width, 8)] for y in range(0, height, 8)], np.float32
    )


def centroid(plane: np.ndarray) -> np.ndarray:
    return np.array([(np.indices(plane.shape)[axis] * plane).sum() / plane.sum() for axis in (0, 1)])


@pytest.mark.parametrize(("top", "left"), [(40, 64), (43, 61), (47, 71)])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_perfect_map_lies_on_the_defect(top, left, scale):
    mask = np.zeros((128, 160))
    mask[top : top + 20, left : left + 30] = 1
    image_mask = np.kron(mask, np.ones((scale, scale)))
    found = overlay.map_to_image_size(reduced_to_an_eighth(mask), *image_mask.shape)
    # A map that is off by the half cell of an ordinary resize misses by 3.5 input pixels.
    np.testing.assert_allclose(centroid(found), centroid(image_mask), atol=0.6 * scale)


def test_a_full_size_map_is_left_alone():
    plane = np.random.default_rng(0).random((24, 40), np.float32)
    np.testing.assert_array_equal(overlay.map_to_image_size(plane, 24, 40, stride=1), plane)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_keeps_the_image_where_the_map_is_zero_and_outlines_what_reaches_the_threshold(channels):
    image = np.full((64, 48, channels), 0.4, np.float32)
    probability = np.zeros((64, 48), np.float32)
    probability[10:30, 10:30] = 0.5
    probability[40:50, 10:20] = 0.4
    drawn = overlay.overlay(image, probability, threshold=0.5)
    assert drawn.shape == (64, 48, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[probability == 0] == 102).all()
    is_contour = (drawn == (0, 255, 96)).all(axis=-1)
    inner = np.zeros_like(is_contour)
    inner[11:29, 11:29] = True
    np.testing.assert_array_equal(is_contour, (probability == 0.5) & ~inner)
    assert drawn[45, 15, 0] > drawn[45, 15, 2]  # a weak defect is tinted warm, without a contour
    assert drawn[20, 20, 0] > drawn[45, 15, 0]


@pytest.mark.parametrize(("size", "expected"), [((64, 160), (200, 160, 3)), ((160, 64), (160, 200, 3))])
def test_validation_strip_runs_along_the_short_side(size, expected):
    height, width = size
    mask = np.zeros((height // 8, width // 8, 1), np.float32)
    mask[2:5, 2:5] = 1
    strip = overlay.validation_strip(np.full((height, width, 1), 0.5, np.float32), mask, 0 * mask)
    assert strip.shape == expected
    image, annotation, prediction = (
        strip[i * (height + 4) :][:height] if width > height else strip[:, i * (width + 4) :][:, :width]
        for i in range(3)
    )
    np.testing.assert_array_equal(image, prediction)
    assert (annotation != image).any()
