"""The mean of an image over each pixel of a smaller one: INTER_AREA as matrix products, faster than OpenCV's."""

import functools
import math

import cv2
import numpy as np

_CELLS = 8  # of a row or column that one product gives
_STRIP_VALUES = 2**18  # that are averaged at once, but `_CELLS` rows at least: these stay in the cache


def shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mean of an image over each pixel of a smaller one; a pixel in two cells counts for each by its part there.

    Args:
      image: [H, W] or [H, W, C], C at most 4, of any type.
      height: of the result, at most H.
      width: of the result, at most W.

    Returns:
      [height, width] or [height, width, C] float32, in the image's unit.
    """
    columns, channels = image.shape[1], image.shape[2:]
    rows, down = _shares(image.shape[0], height)
    beside, across = _shares(columns, width)
    flat = image.reshape(len(image), -1)
    result = np.empty((height, width, *channels), np.float32)
    step = max(1, _STRIP_VALUES // (rows.shape[1] * flat.shape[1]))
    for first in range(0, len(rows), step):
        here = slice(first, first + step)
        means = down[here] @ np.take(flat, rows[here], axis=0).astype(np.float32, copy=False)
        turned = cv2.transpose(means.reshape(-1, columns, *channels))  # [W, n, C]; C of 1 is dropped
        means = across @ np.take(turned.reshape(columns, -1), beside, axis=0)
        upright = cv2.transpose(means.reshape(-1, *turned.shape[1:])[:width])
        strip = result[_CELLS * first : _CELLS * (first + step)]
        strip[...] = upright.reshape(-1, *strip.shape[1:])[: len(strip)]
    return result


@functools.lru_cache(maxsize=128)
def _shares(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of a side's `size` pixels each group of `_CELLS` cells, of `wanted`, is a mean of, and their shares.

    Returns:
      Indices [groups, pixels], shares [groups, _CELLS, pixels] float32; the last group's surplus cells are 0.
    """
    first_cells = np.arange(0, wanted, _CELLS)[:, None]
    count = min(math.ceil(_CELLS * size / wanted) + 1, size)
    pixels = np.minimum(first_cells * size // wanted, size - count) + np.arange(count)
    # Divided last, so that an edge between two pixels is exact, and neither gets a share of the other's cell.
    edges = np.minimum(first_cells + np.arange(_CELLS + 1), wanted)[..., None] * size / wanted
    overlaps = np.minimum(pixels[:, None] + 1, edges[:, 1:]) - np.maximum(pixels[:, None], edges[:, :-1])
    return pixels, (np.maximum(overlaps, 0) * wanted / size).astype(np.float32)
