"""Shapes drawn by an annotator as pixels: polygons, polylines and ellipses, decided exactly at the pixels' centres."""

import functools
import itertools
from collections.abc import Callable

import numpy as np

from jaxdefect.types import InputError, Shape, ShapeMask

_STEPS_PER_PIXEL = 8  # of the points that stand for an outline


def draw(mask: ShapeMask, *, height: int, width: int) -> np.ndarray:
    """The union of the shapes as [height, width] uint8 in {0, 1}.

    The pixel of row i and column j reaches from x = j to j + 1 and from y = i to i + 1, as the canvas of an annotation
    tool and COCO have it, so a rectangle of 20 x 10 has 200 pixels. A shape covers the pixels whose centres lie in it:
    in a polygon by the even-odd rule, in a polyline within half its width of it. (`cv2.fillPoly` would add every
    pixel that the outline crosses.) So that nothing vanishes, a shape that covers no centre at all, because it is
    thinner than a pixel, marks the pixels that its outline crosses.

    Raises:
      InputError: a shape lies outside the image.
    """
    pixels = np.zeros((height, width), np.uint8)
    for number, shape in enumerate(mask.shapes, 1):
        parts = [_mark(pixels, *part) for part in _parts(shape)]
        if not any(parts) and not _mark_outline(pixels, shape):
            x, y = _outline(shape)[0]
            raise InputError(
                f"{mask.source}: shape {number}, a {shape.kind} at x {x:g}, y {y:g}, lies outside the image of "
                f"{height} x {width} (height x width); correct or delete it"
            )
    return pixels


# From the pixels' centres, y [h, 1] and x [1, w], to whether the shape covers them, [h, w] bool.
_Covers = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _parts(shape: Shape) -> list[tuple[np.ndarray, np.ndarray, _Covers]]:
    """The shape in parts: the lowest and the highest (x, y) of each, and what it covers."""
    if shape.kind == "ellipse":
        center, radius = np.array(shape.numbers[:2]), max(shape.numbers[2:4])
        return [(center - radius, center + radius, functools.partial(_in_ellipse, shape.numbers))]
    corners = np.array(shape.numbers, np.float64).reshape(-1, 2)
    if shape.kind == "polygon":
        return [(corners.min(axis=0), corners.max(axis=0), functools.partial(_in_polygon, corners))]
    reach = shape.width_px / 2
    ends = list(itertools.pairwise(corners)) or [(corners[0], corners[0])]
    return [
        (np.minimum(a, b) - reach, np.maximum(a, b) + reach, functools.partial(_near_line, a, b, reach))
        for a, b in ends
    ]


def _mark(pixels: np.ndarray, low: np.ndarray, high: np.ndarray, covers: _Covers) -> bool:
    """Sets the pixels that a part between `low` and `high` covers; whether there was any."""
    size = pixels.shape[::-1]
    left, top = np.clip(np.ceil(low - 0.5), 0, size).astype(int)
    right, bottom = np.clip(np.floor(high - 0.5) + 1, 0, size).astype(int)
    if right <= left or bottom <= top:
        return False
    covered = covers(np.arange(top, bottom)[:, None] + 0.5, np.arange(left, right)[None] + 0.5)
    pixels[top:bottom, left:right] |= covered
    return bool(covered.any())


def _in_ellipse(numbers: tuple[float, ...], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    center_x, center_y, radius_x, radius_y, degrees = numbers
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along = (x - center_x) * cosine + (y - center_y) * sine
    across = (y - center_y) * cosine - (x - center_x) * sine
    return (along / radius_x) ** 2 + (across / radius_y) ** 2 <= 1


def _in_polygon(corners: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Even-odd rule: on its way along the row, every edge that is crossed leads from outside to inside or back."""
    rows_y, columns_x = y[:, 0], x[0]
    num_crossed = np.zeros((rows_y.size, columns_x.size + 1), np.int32)
    for (start_x, start_y), (end_x, end_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, last = np.searchsorted(rows_y, sorted((start_y, end_y)))
        rows = np.arange(first, last)  # none for a level edge
        slope = (end_x - start_x) / (end_y - start_y) if rows.size else 0.0
        crossing = start_x + (rows_y[rows] - start_y) * slope
        num_crossed[rows, np.searchsorted(columns_x, crossing)] += 1
    return num_crossed[:, :-1].cumsum(axis=1) % 2 == 1


def _near_line(start: np.ndarray, end: np.ndarray, reach: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    (start_x, start_y), (step_x, step_y) = start, end - start
    length_squared = step_x**2 + step_y**2
    along = ((x - start_x) * step_x + (y - start_y) * step_y) / (length_squared or 1.0)
    along = np.clip(along, 0, 1)
    return (x - start_x - along * step_x) ** 2 + (y - start_y - along * step_y) ** 2 <= reach**2


def _mark_outline(pixels: np.ndarray, shape: Shape) -> bool:
    """Sets the pixels of the image that the outline crosses; whether there was any."""
    columns, rows = np.floor(_outline(shape)).astype(int).T
    height, width = pixels.shape
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixels[rows[is_inside], columns[is_inside]] = 1
    return bool(is_inside.any())


def _outline(shape: Shape) -> np.ndarray:
    """Points (x, y) close together on the outline, [N, 2] float64."""
    if shape.kind == "ellipse":
        center_x, center_y, radius_x, radius_y, degrees = shape.numbers
        turn = np.linspace(0, 2 * np.pi, int(np.ceil(2 * np.pi * max(radius_x, radius_y) * _STEPS_PER_PIXEL)) + 1)
        along, across = radius_x * np.cos(turn), radius_y * np.sin(turn)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.stack([center_x + along * cosine - across * sine, center_y + along * sine + across * cosine], axis=1)
    corners = np.array(shape.numbers, np.float64).reshape(-1, 2)
    following = np.roll(corners, -1, axis=0) if shape.kind == "polygon" else corners[1:]
    edges = [
        np.linspace(start, end, int(np.ceil(np.linalg.norm(end - start) * _STEPS_PER_PIXEL)) + 1)
        for start, end in zip(corners, following, strict=False)
    ]
    return np.concatenate([corners[:1], *edges])
