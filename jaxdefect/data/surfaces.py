"""Procedural rolled-steel surfaces with four classes of defects, each image a pure function of its seed and number.

Intensities are made as reflectance (1 = the plain sheet) times exposure, so that contrast follows brightness, and
positives and negatives carry the same harmless marks: no single statistic of the pixels tells them apart.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

CLASS_NAMES = {1: "pits", 2: "crack", 3: "scratches", 4: "scab"}

_SUBPIXEL_BITS = 4


@dataclasses.dataclass(frozen=True)
class Surface:
    """One rendered image: `image` [H, W] uint8, `masks` from class 1..4 to [H, W] bool; no masks: no defect."""

    image: np.ndarray
    masks: dict[int, np.ndarray]


def render(*, seed: int, index: int, is_positive: bool, height: int, width: int) -> Surface:
    """Renders image number `index` of the data set `seed`; lengths scale with the shorter side, 256 being nominal.

    With `is_positive` the same sheet, marks, light and noise carry defects: one to three of one or two classes.
    """
    rng, defect_rng = (np.random.default_rng((seed, index, purpose)) for purpose in (0, 1))
    size, scale = (height, width), min(height, width) / 256
    sheet, left, right = _sheet(rng, size)
    reflectance = 1 + _steel(rng, size, scale) + _harmless_marks(rng, size, scale)
    masks: dict[int, np.ndarray] = {}
    for class_id in _choose_classes(defect_rng) if is_positive else ():
        center = np.array([defect_rng.uniform(left, right), defect_rng.uniform(0.15, 0.85) * height])
        change, mask = _DEFECTS[class_id](defect_rng, size, scale, center)
        reflectance += change
        masks[class_id] = masks.get(class_id, np.zeros(size, bool)) | (mask & (sheet > 0.5))
    image = rng.uniform(0.24, 0.55) * reflectance * (0.08 + 0.92 * sheet)
    image += rng.uniform(0.006, 0.016) * rng.standard_normal(size, dtype=np.float32)
    return Surface(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), masks)


# The sheet. `size` is (height, width), `scale` the length of one nominal pixel.


def _noise(rng: np.random.Generator, size: tuple[int, int], sigma_x: float, sigma_y: float) -> np.ndarray:
    """Normal noise blurred to these widths in pixels, mean 0, deviation 1; [H, W] float32."""
    height, width = size
    # Wide noise is made on a coarse grid and enlarged: the cost does not grow with the width.
    stride_x, stride_y = max(1, int(sigma_x / 2)), max(1, int(sigma_y / 2))
    coarse = rng.standard_normal((-(-height // stride_y) + 1, -(-width // stride_x) + 1), dtype=np.float32)
    blur_x, blur_y = max(sigma_x / stride_x, 0.3), max(sigma_y / stride_y, 0.3)
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigmaX=blur_x, sigmaY=blur_y)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return (field - field.mean()) / (field.std() + 1e-6)


def _sheet(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """Where there is steel: coverage [H, W] in [0, 1], and the columns between which a defect's centre may lie.

    One image in four shows the sheet's edge, with the dark bed beside it.
    """
    height, width = size
    sheet = np.ones(size, np.float32)
    if rng.random() >= 0.25:
        return sheet, 0.08 * width, 0.92 * width
    edge = rng.uniform(0.05, 0.35) * width
    edge_by_row = edge + 0.003 * width * _noise(rng, (height, 1), 1, height / 6)
    sheet = np.clip((np.arange(width) - edge_by_row) / 3, 0, 1).astype(np.float32)
    if rng.random() < 0.5:
        return np.ascontiguousarray(sheet[:, ::-1]), 0.08 * width, 0.9 * (width - edge)
    return sheet, edge + 0.1 * (width - edge), 0.92 * width


def _steel(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Reflectance less 1 of a plain sheet: grain along the rolling direction (x), bands, uneven light."""
    height, width = size
    activity = rng.uniform(0.6, 1.4)
    grain = rng.uniform(0.03, 0.05) * _noise(rng, size, scale * rng.uniform(8, 25), 0.7 * scale)
    grain += rng.uniform(0.02, 0.045) * _noise(rng, size, scale * rng.uniform(80, 250), scale * rng.uniform(2, 5))
    grain += rng.uniform(0.008, 0.02) * _noise(rng, size, 2.5 * scale, 1.5 * scale)
    bands = rng.uniform(0.0, 0.07) * _noise(rng, (1, width), scale * rng.uniform(15, 70), 1)
    bands = bands + rng.uniform(0.0, 0.05) * _noise(rng, (height, 1), 1, scale * rng.uniform(4, 20))
    light = rng.uniform(0.03, 0.14) * _noise(rng, size, width / 4, height / 2)
    return activity * grain + bands + light


# Harmless marks, on positives and negatives alike.


def _harmless_marks(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """The change of reflectance by stains, water marks, faint scratches, roll marks and specks of dust."""
    change = np.zeros(size, np.float32)
    for _ in range(rng.integers(0, 4)):
        change += _stain(rng, size, scale)
    if rng.random() < 0.4:
        change += _water_mark(rng, size, scale)
    if rng.random() < 0.5:
        change += _faint_scratches(rng, size, scale)
    if rng.random() < 0.3:
        change += _roll_marks(rng, size, scale)
    if rng.random() < 0.7:
        change += _specks(rng, size, scale)
    return change


def _random_point(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return rng.uniform(0, 1, 2) * (size[1], size[0])


def _sign(rng: np.random.Generator, *, positive: float = 0.5) -> float:
    return 1.0 if rng.random() < positive else -1.0


def _stain(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """A soft cloud, darker or brighter."""
    blob = _blob(rng, size, _random_point(rng, size), scale * rng.uniform(15, 70), rng.uniform(1, 3))
    soft = _blur(blob, scale * rng.uniform(6, 14))
    return _sign(rng) * rng.uniform(0.08, 0.3) * soft


def _water_mark(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """The dried rim of a drop: the difference of two blurs of one blob."""
    blob = _blob(rng, size, _random_point(rng, size), scale * rng.uniform(20, 60), rng.uniform(1, 1.6))
    rim = np.clip(_blur(blob, 2 * scale) - _blur(blob, 5 * scale), 0, None)
    return _sign(rng) * rng.uniform(0.2, 0.5) * rim


def _faint_scratches(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Hairlines in any direction, thinner and weaker than a defect."""
    change = np.zeros(size, np.float32)
    for _ in range(rng.integers(1, 5)):
        path = _path(rng, _random_point(rng, size), scale * rng.uniform(60, 300), rng.uniform(0, np.pi), 2 * scale)
        line = _ribbon(size, path, np.full(len(path), 1.2 * scale))
        change += _sign(rng) * rng.uniform(0.06, 0.15) * line
    return change


def _roll_marks(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """One soft print of a worn roll, repeated with the roll's turn along the rolling direction."""
    height, width = size
    canvas = np.zeros(size, np.float32)
    period, y = scale * rng.uniform(120, 320), rng.uniform(0.1, 0.9) * height
    axes = scale * rng.uniform(4, 9), scale * rng.uniform(8, 22)
    for x in np.arange(rng.uniform(0, period), width, period):
        _draw_ellipse(canvas, (x, y), axes, 0.0)
    return _sign(rng) * rng.uniform(0.1, 0.22) * _blur(canvas, 4 * scale)


def _specks(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Scattered dust and glints of a pixel or two, strong enough to own the image's minimum and maximum."""
    change = np.zeros(size, np.float32)
    for sign in (-1, 1):
        canvas = np.zeros(size, np.float32)
        for _ in range(rng.integers(0, 12)):
            radius = scale * rng.uniform(0.8, 2.2)
            _draw_ellipse(canvas, _random_point(rng, size), (radius, radius), 0.0)
        change += sign * rng.uniform(0.3, 0.8) * canvas
    return change


# Defects: each returns the change of reflectance and the mask of where it shows.


def _choose_classes(rng: np.random.Generator) -> list[int]:
    """One to three defects of one or two classes, as class numbers."""
    classes = rng.permutation(list(CLASS_NAMES))[: 2 if rng.random() < 0.3 else 1]
    extra = rng.choice(classes, rng.integers(0, 4 - len(classes)))
    return [int(class_id) for class_id in (*classes, *extra)]


def _pits(
    rng: np.random.Generator, size: tuple[int, int], scale: float, center: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class 1: a cluster of small dark pits, each with a lit lower rim."""
    canvas = np.zeros(size, np.float32)
    spread = scale * rng.uniform(18, 40) * np.array([rng.uniform(1, 2), 1])
    for _ in range(rng.integers(18, 50)):
        radius = scale * rng.uniform(2.2, 5)
        point = center + spread * np.clip(rng.standard_normal(2), -2, 2)
        _draw_ellipse(canvas, point, (radius * rng.uniform(1, 1.5), radius), rng.uniform(0, 180))
    pit = _blur(canvas, 0.8 * scale)
    shift = max(1, round(2 * scale))
    rim = np.clip(np.roll(pit, (shift, shift), (0, 1)) - pit, 0, 1)
    return rng.uniform(0.28, 0.45) * (0.4 * rim - pit), canvas > 0.5


def _crack(
    rng: np.random.Generator, size: tuple[int, int], scale: float, center: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class 2: a dark wandering line across the rolling direction, pointed at its ends."""
    path = _path(rng, center, scale * rng.uniform(90, 240), np.pi / 2 + rng.uniform(-0.15, 0.15), 6 * scale)
    line = _ribbon(size, path, scale * rng.uniform(4.5, 8) * _taper(rng, len(path)))
    return -rng.uniform(0.28, 0.45) * _blur(line, 0.7 * scale), line > 0.5


def _scratches(
    rng: np.random.Generator, size: tuple[int, int], scale: float, center: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class 3: a bundle of long abrasions, nearly parallel, oblique to the grain, bright or dark."""
    change, mask = np.zeros(size, np.float32), np.zeros(size, bool)
    direction = _sign(rng) * rng.uniform(0.12, 0.6)
    sign = _sign(rng, positive=0.7)
    for _ in range(rng.integers(2, 6)):
        start = center + scale * rng.normal(0, (40, 16))
        path = _path(rng, start, scale * rng.uniform(120, 350), direction + rng.normal(0, 0.03), 3 * scale)
        line = _ribbon(size, path, scale * rng.uniform(4, 7.5) * _taper(rng, len(path)))
        change += sign * rng.uniform(0.25, 0.42) * _blur(line, 0.7 * scale)
        mask |= line > 0.5
    return change, mask


def _scab(
    rng: np.random.Generator, size: tuple[int, int], scale: float, center: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class 4: a patch whose surface is rough in all directions, with a dark seam around it."""
    blob = _blob(rng, size, center, scale * rng.uniform(28, 65), rng.uniform(1, 2.2))
    soft = _blur(blob, 1.5 * scale)
    sigma = scale * rng.uniform(2, 4)
    rough = rng.uniform(0.11, 0.18) * _noise(rng, size, sigma, sigma) + rng.uniform(-0.15, 0.1)
    seam = soft * (1 - soft) * 4
    return soft * rough - rng.uniform(0.1, 0.25) * seam, blob > 0.5


_DEFECTS = {1: _pits, 2: _crack, 3: _scratches, 4: _scab}


# Drawing. Points are (x, y) in pixels; coverages are [H, W] float32 in [0, 1].


def _fixed(points: Any) -> np.ndarray:
    """Points as the fixed-point integers that OpenCV's drawing takes for positions between pixels."""
    return np.rint(np.asarray(points) * 2**_SUBPIXEL_BITS).astype(np.int32)


def _fill(size: tuple[int, int], outline: np.ndarray) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [_fixed(outline)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def _draw_ellipse(canvas: np.ndarray, center: Any, axes: tuple[float, float], angle_degrees: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    outline = np.stack([axes[0] * np.cos(angle), axes[1] * np.sin(angle)], 1)
    turn = np.deg2rad(angle_degrees)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cv2.fillPoly(canvas, [_fixed(outline @ rotation + center)], 1.0, cv2.LINE_8, _SUBPIXEL_BITS)


def _blob(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float, stretch: float
) -> np.ndarray:
    """A filled irregular outline, `stretch` times as long in x as in y."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    order = np.arange(2, 9)[:, None]
    waves = (
        rng.normal(0, 0.5, order.shape) / order**1.4 * np.cos(order * angle + rng.uniform(0, 2 * np.pi, order.shape))
    )
    length = radius * np.clip(1 + waves.sum(0), 0.4, 1.8)
    return _fill(size, center + length[:, None] * np.stack([stretch * np.cos(angle), np.sin(angle)], 1))


def _path(rng: np.random.Generator, center: np.ndarray, length: float, direction: float, wander: float) -> np.ndarray:
    """A wandering line of points [N, 2] through `center`; `wander` is its deviation from straight in pixels."""
    along = np.linspace(-length / 2, length / 2, 40)
    across = wander * np.cumsum(rng.normal(0, 0.25, along.shape))
    across -= across[len(across) // 2]
    unit = np.array([np.cos(direction), np.sin(direction)])
    return center + along[:, None] * unit + across[:, None] * unit[::-1] * (-1, 1)


def _taper(rng: np.random.Generator, num_points: int) -> np.ndarray:
    """Relative widths along a line [N]: uneven, and pointed at both ends."""
    position = np.linspace(-1, 1, num_points)
    return np.clip(1 - position**8, 0.15, 1) * rng.uniform(0.8, 1.15, num_points)


def _ribbon(size: tuple[int, int], path: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """A line of varying width along the points of `path`."""
    tangent = np.gradient(path, axis=0)
    normal = tangent[:, ::-1] * (-1, 1) / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9)
    # Thinner than this a line breaks up into separate pixels.
    half = normal * np.maximum(widths, 1.2)[:, None] / 2
    return _fill(size, np.concatenate([path + half, (path - half)[::-1]]))


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)
