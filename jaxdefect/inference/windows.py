"""What the classifier of defects sees: windows that slide over a defect, and the vote on what it is."""

from collections.abc import Sequence

import numpy as np

from jaxdefect.data import images, patches
from jaxdefect.data.sources import ImageSource
from jaxdefect.types import Window

_LARGEST_CUT_PX = 2**22


def defect_windows(box: Window, *, height: int, width: int, window_px: int, stride_px: int) -> list[Window]:
    """Square windows that slide over a defect, each showing all of it at another place.

    A window's side is `window_px`, doubled until the defect fits; the stride is doubled with it. Windows stay inside
    the image; along a side on which the image is smaller than the window, there is one, which begins at the image's
    edge and reaches beyond it.

    Args:
      box: the defect, inside the image.
      height: of the image.
      width: of the image.
      window_px: side of the classifier's input, 64 in the paper.
      stride_px: from window to window where no doubling was needed.

    Returns:
      At least one window, left to right, top to bottom. Windows leave the same room on both sides of those positions
      that the stride does not fill.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), section III-C-2.
    """
    size, stride = window_px, stride_px
    while size < max(box.height, box.width):
        size, stride = 2 * size, 2 * stride
    tops = _starts(box.top, box.height, length=height, size=size, stride=stride)
    lefts = _starts(box.left, box.width, length=width, size=size, stride=stride)
    return [Window(top, left, size, size) for top in tops for left in lefts]


def cut_windows(source: ImageSource, windows: Sequence[Window], *, window_px: int) -> np.ndarray:
    """The windows' pixels at the classifier's input size, averaged by area where a window is larger.

    Args:
      source: the image.
      windows: N parts of the image, their sides `window_px` or multiples of it; what reaches beyond it is mirrored.
      window_px: side of the classifier's input.

    Returns:
      [N, window_px, window_px, C] float32.

    Raises:
      InputError: a part of the image cannot be decoded.
    """
    cuts = [_cut_window(source, window, window_px=window_px) for window in windows]
    return np.stack(cuts)


def _cut_window(source: ImageSource, window: Window, *, window_px: int) -> np.ndarray:
    """One window, some of its rows at a time: one around a long defect can be as large as the image."""
    factor = window.height // window_px
    rows = min(window_px, max(1, _LARGEST_CUT_PX // (factor * window.width)))
    bands = []
    for first in range(0, window_px, rows):
        count = min(rows, window_px - first)
        band = Window(window.top + first * factor, window.left, count * factor, window.width)
        bands.append(images.to_input(patches.cut_source(source, band), count, window_px))
    return np.concatenate(bands)


def vote(probabilities: np.ndarray) -> int:
    """The class that most windows of a defect have as their most probable one.

    Of classes with as many votes, the one with the larger summed probability wins.

    Args:
      probabilities: [N, K], of the K classes in each of N windows.

    Raises:
      ValueError: no windows.
    """
    if not len(probabilities):
        raise ValueError("no windows: a defect needs at least one to be voted on")
    votes = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    sums = probabilities.sum(axis=0, dtype=np.float64)
    return int(np.argmax(np.where(votes == votes.max(), sums, -np.inf)))


def _starts(begin: int, extent: int, *, length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along one side so that each holds the defect and lies inside the image."""
    if length <= size:
        return [0]
    first, last = max(begin + extent - size, 0), min(begin, length - size)
    unfilled = (last - first) % stride
    return list(range(first + unfilled // 2, last + 1, stride))
