"""The mean of an image over each pixel of a smaller one: INTER_AREA as matrix products, faster than OpenCV's."""

import functools
import math

import cv2
import numpy as np

_CELLS = 8  # of a row or column that one product gives
_STRIP_VALUES = 2**18  # that are averaged at once, but `_CELLS` rows at least: these stay in the cache


def shrink(image: np.ndarray, height: int, width: int, *, rows: slice | None = None) -> np.ndarray:
    """The mean of an image over each pixel of a smaller one; a pixel in two cells counts for each by its part there.

    Args:
      image: [H, W] or [H, W, C], C at most 4, of any type.
      height: of the whole result, at most H.
      width: of the result, at most W.
      rows: those of the result that are wanted, from a start to a stop; all by default.

    Returns:
      [height, width] or [height, width, C] float32, in the image's unit; of it what `rows` are.
    """
    rows = rows or slice(0, height)
    groups = slice(rows.start // _CELLS, -(-rows.stop // _CELLS))
    columns, channels = image.shape[1], image.shape[2:]
    above, down = (shares[groups] for shares in _shares(image.shape[0], height))
    beside, across = _shares(columns, width)
    flat = image.reshape(len(image), -1)
    first_row = _CELLS * groups.start
    result = np.empty((min(_CELLS * groups.stop, height) - first_row, width, *channels), np.float32)
    step = max(1, _STRIP_VALUES // (above.shape[1] * flat.shape[1]))
    for first in range(0, len(above), step):
        here = slice(first, first + step)
        means = down[here] @ np.take(flat, above[here], axis=0).astype(np.float32, copy=False)
        turned = cv2.transpose(means.reshape(-1, columns, *channels))  # [W, n, C]; C of 1 is dropped
        means = across @ np.take(turned.reshape(columns, -1), beside, axis=0)
        upright = cv2.transpose(means.reshape(-1, *turned.shape[1:])[:width])
        strip = result[_CELLS * first : _CELLS * (first + step)]
        strip[...] = upright.reshape(-1, *strip.shape[1:])[: len(strip)]
    return result[rows.start - first_row : rows.stop - first_row]


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
