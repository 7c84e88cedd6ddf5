"""Drawn shapes against point-in-polygon, distance and ellipse tests, pixel by pixel in float64."""

import itertools
import math

import numpy as np
import pytest

from jaxdefect.data import shapes
from jaxdefect.types import InputError, Shape, ShapeMask

HEIGHT, WIDTH = 23, 31
CENTERS = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]


def draw(*drawn: Shape) -> np.ndarray:
    return shapes.draw(ShapeMask(drawn, "a.json, image b.png"), height=HEIGHT, width=WIDTH)


def by_pixel(contains) -> np.ndarray:
    return np.array([contains(column + 0.5, row + 0.5) for row, column in CENTERS]).reshape(HEIGHT, WIDTH)


def winds_oddly(corners: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule by a ray that is not parallel to the axes."""
    angles = np.random.default_rng(0).uniform(0, 2 * math.pi)
    direction = np.array([math.cos(angles), math.sin(angles)])
    num_hits = 0
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # start + t * direction = a + s * (b - a)
        t, s = np.linalg.solve(np.stack([direction, a - b], axis=1), a - (x, y))
        num_hits += t > 0 and 0 <= s < 1
    return num_hits % 2 == 1


@pytest.mark.parametrize("seed", range(4))
def test_polygons_cover_the_centres_inside(seed: int):
    corners = np.random.default_rng(seed).uniform((-4, -4), (WIDTH + 4, HEIGHT + 4), (7, 2))  # crosses itself
    mask = draw(Shape("polygon", tuple(corners.ravel())))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, by_pixel(lambda x, y: winds_oddly(corners, x, y)))


@pytest.mark.parametrize("numbers", [(15.3, 11.8, 9.2, 3.1, 30), (2, 20, 6, 8, -70), (15, 11, 4, 4, 0)])
def test_ellipses_turn_clockwise(numbers: tuple[float, ...]):
    x0, y0, radius_x, radius_y, degrees = numbers
    # Distances to the two foci add up to the long axis; clockwise on the screen is from x towards y.
    long, short = max(radius_x, radius_y), min(radius_x, radius_y)
    turned = math.radians(degrees + (0 if radius_x >= radius_y else 90))
    focus = math.sqrt(long**2 - short**2) * np.array([math.cos(turned), math.sin(turned)])

    def contains(x: float, y: float) -> bool:
        offset = np.array([x - x0, y - y0])
        return np.linalg.norm(offset - focus) + np.linalg.norm(offset + focus) <= 2 * long

    np.testing.assert_array_equal(draw(Shape("ellipse", numbers)), by_pixel(contains))


@pytest.mark.parametrize("width_px", [1, 5])
def test_polylines_cover_the_centres_within_half_their_width(width_px: int):
    points = np.array([(3.2, 4.1), (20.7, 9.9), (20.7, 18.0), (35.0, 2.0)])
    dense = np.concatenate([np.linspace(a, b, 4000) for a, b in itertools.pairwise(points)])

    def contains(x: float, y: float) -> bool:
        return np.hypot(*(dense - (x, y)).T).min() <= width_px / 2

    mask = draw(Shape("polyline", tuple(points.ravel()), width_px))
    np.testing.assert_array_equal(mask, by_pixel(contains))


def test_a_rectangle_has_its_area_and_shapes_unite():
    square = Shape("polygon", (2, 3, 12, 3, 12, 8, 2, 8))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:8, 2:12] = 1
    np.testing.assert_array_equal(draw(square), expected)
    expected[20, 30] = expected[5, 20] = 1  # two points; one of them in the last pixel
    np.testing.assert_array_equal(draw(square, Shape("polyline", (30.9, 20.9)), Shape("polyline", (20, 5))), expected)


def test_shapes_thinner_than_a_pixel_mark_what_they_cross():
    row = np.zeros((HEIGHT, WIDTH), np.uint8)
    row[7, 4:10] = 1
    np.testing.assert_array_equal(draw(Shape("polygon", (4.2, 7.1, 9.8, 7.1, 9.8, 7.3, 4.2, 7.3))), row)
    np.testing.assert_array_equal(draw(Shape("ellipse", (7, 7.2, 2.8, 0.1, 0))), row)
    # Below the last centre but in the image.
    assert draw(Shape("polygon", (4.2, 22.8, 9.8, 22.8, 9.8, 40, 4.2, 40))).sum() == 6


@pytest.mark.parametrize("numbers", [(40, 2, 50, 2, 45, 9), (2, -9, 5, -9, 3, -0.1)])
def test_a_shape_outside_the_image_is_named(numbers: tuple[float, ...]):
    inside = Shape("polyline", (3, 3, 9, 9))
    with pytest.raises(InputError, match=r"a\.json, image b\.png: shape 2, a polygon at x .*, lies outside .*23 x 31"):
        draw(inside, Shape("polygon", numbers))
