"""Severity of a defect, cell by cell: how far its intensities are from those of the surface beside it."""

import cv2
import numpy as np

from jaxdefect.types import MAX_SEVERITY

_CLIP = 500.0  # lambda of equation 2, in intensities of 0..255
_WHITE = 255.0


def severity(image: np.ndarray, mask: np.ndarray, *, cell_px: int) -> np.ndarray:
    """Raw severity of every cell of `cell_px` x `cell_px` pixels; 0 for a cell without a defect.

    With m and M the smallest and the largest intensity in a cell, D a defect cell and N a good cell beside the defect:

      d0 = min(|m_D - m_N|, |M_D - M_N|),  d1 = |M_D - m_N|,  severity = min(mean over N of (d0 + d1), 500)

    Where the paper leaves room:
      - A cell is a defect cell if any of its pixels is one: most cracks are thinner than half a cell. m and M are over
        all pixels of the cell.
      - The two N of a cell are the good cells at both ends of its unbroken row of defect cells, one where the other
        end is the image's border. A row that fills the image's width is compared with the ends of its columns
        instead, and a cell that has neither with the average good cell (mean m, mean M).
      - An image of nothing but defect cells has no surface to compare with: 0.

    Args:
      image: [H, W, C] float32 in [0, 1], C = 1 or 3 (RGB, compared by its luma).
      mask: [H, W]; a pixel is a defect at 0.5 and above.
      cell_px: side of a cell, a divisor of H and W.

    Returns:
      [H / cell_px, W / cell_px] float32 in [0, 500], in intensities of 0..255.

    Raises:
      ValueError: image and mask differ in size, or their sides are no multiples of `cell_px`.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), section III-C-1-a.
    """
    height, width = mask.shape
    if image.shape[:2] != (height, width) or height % cell_px or width % cell_px:
        raise ValueError(
            f"image {image.shape[:2]} and mask {mask.shape} must have one size, a multiple of the cell's {cell_px} px"
        )
    is_defect = _per_cell(mask >= 0.5, np.logical_or, cell_px=cell_px)
    if is_defect.all() or not is_defect.any():
        return np.zeros(is_defect.shape, np.float32)
    gray = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    gray = gray * np.float32(_WHITE)
    lowest, highest = (_per_cell(gray, extreme, cell_px=cell_px) for extreme in (np.minimum, np.maximum))

    raw, has_reference = _compare_with_row_ends(lowest, highest, is_defect)
    if not has_reference.all():
        by_column, has_column_reference = _compare_with_row_ends(lowest.T, highest.T, is_defect.T)
        by_average = _contrast(lowest, highest, lowest[~is_defect].mean(), highest[~is_defect].mean())
        raw = np.where(has_reference, raw, np.where(has_column_reference.T, by_column.T, by_average))
    return np.minimum(raw, np.float32(_CLIP))


def scale(raw: np.ndarray, maximum: float) -> np.ndarray:
    """Raw severities on the network's scale: `maximum`, the largest of the training images, becomes 12.

    Args:
      raw: any shape, as `severity` gives it.
      maximum: above 0.

    Returns:
      The shape of `raw`, float32 in [0, 12]; what is above `maximum` is clipped.

    Raises:
      ValueError: `maximum` is not above 0.
    """
    if not maximum > 0:
        raise ValueError(f"the largest severity is {maximum}: it must be above 0")
    return np.clip(raw * (MAX_SEVERITY / maximum), 0, MAX_SEVERITY).astype(np.float32)


def _per_cell(values: np.ndarray, extreme: np.ufunc, *, cell_px: int) -> np.ndarray:
    """[H, W] -> [H / cell_px, W / cell_px], `extreme` taken over each cell."""
    # Whole rows, then whole columns: many times faster than a reduction over two short axes.
    rows = extreme.reduce(values.reshape(-1, cell_px, values.shape[1]), axis=1)
    return extreme.reduce([rows[:, offset::cell_px] for offset in range(cell_px)])


def _compare_with_row_ends(
    lowest: np.ndarray, highest: np.ndarray, is_defect: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean contrast of each defect cell with the nearest good cells to its left and right, and whether it has any.

    Good cells get 0 and True.
    """
    height, width = is_defect.shape
    columns = np.arange(width)
    left = np.maximum.accumulate(np.where(is_defect, -1, columns), axis=1)
    right = np.minimum.accumulate(np.where(is_defect, width, columns)[:, ::-1], axis=1)[:, ::-1]
    rows = np.arange(height)[:, None]
    total, count = np.zeros(is_defect.shape, np.float32), np.zeros(is_defect.shape, np.float32)
    for reference in (left, right):
        exists = (reference >= 0) & (reference < width) & is_defect
        column = np.where(exists, reference, 0)
        total += np.where(exists, _contrast(lowest, highest, lowest[rows, column], highest[rows, column]), 0)
        count += exists
    return total / np.maximum(count, 1), (count > 0) | ~is_defect


def _contrast(
    lowest: np.ndarray,
    highest: np.ndarray,
    good_lowest: np.ndarray | np.floating,
    good_highest: np.ndarray | np.floating,
) -> np.ndarray:
    """d0 + d1 of cells against good cells."""
    smaller = np.minimum(np.abs(lowest - good_lowest), np.abs(highest - good_highest))
    return smaller + np.abs(highest - good_lowest)
