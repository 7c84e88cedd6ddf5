"""From a map to defects: connected components, those close to each other joined into one.

Pixels at or above the threshold are kept as runs along the rows, band by band, so that the memory grows with the
defects and not with the image.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from scipy import sparse

from jaxdefect.types import Defect, RotatedBox, Window


class Runs(NamedTuple):
    """N horizontal runs of pixels, by row and then by column.

    `row`, `start`, `stop` [N] int32: the last is the column behind the run. `total` [N] float64 and `peak` [N] float32:
    sum and maximum of the map over the run.
    """

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    total: np.ndarray
    peak: np.ndarray

    def between(self, first: int, behind: int) -> Iterator[tuple[int, int, int]]:
        """Row, start and stop of the runs in the rows from `first` to before `behind`."""
        part = slice(*np.searchsorted(self.row, (first, behind)))
        return zip(self.row[part].tolist(), self.start[part].tolist(), self.stop[part].tolist(), strict=True)

    def take(self, which: np.ndarray) -> "Runs":
        """Those that an index or a mask [N] chooses."""
        return Runs(*(values[which] for values in self))


def runs_of(bands: Iterable[tuple[int, np.ndarray]], *, threshold: float) -> Runs:
    """The runs of a map's pixels at or above a threshold.

    Args:
      bands: the map from top to bottom: the first row of each band, and its pixels [n, W] float; what is missing is
        below the threshold.
      threshold: the smallest value that belongs to a defect.
    """
    bands = itertools.chain(bands, [(0, np.zeros((0, 0), np.float32))])  # so that there is one
    parts = [_runs_of_band(pixels, first_row=row, threshold=threshold) for row, pixels in bands]
    return Runs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def find_defects(
    probability: np.ndarray, *, threshold: float, join_distance_px: float, min_area_px: int = 0
) -> tuple[np.ndarray, list[Defect]]:
    """The connected components (8 neighbours) of the pixels at or above a threshold.

    Components are one defect if some pixel of one is closer than `join_distance_px` to some pixel of the other
    (Euclidean, from middle to middle: 1 for neighbours, so that up to the square root of 2 nothing is joined), and so
    are those that are joined to the same one.

    Args:
      probability: [H, W] float, of any range.
      threshold: the smallest value that belongs to a defect.
      join_distance_px: 4 in the paper; 0 joins nothing.
      min_area_px: what is smaller, after joining, is no defect.

    Returns:
      [H, W] int32, 0 where there is no defect, k for the k-th; and the defects, by their first pixel.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), section III-A-3.
    """
    runs = runs_of([(0, probability)], threshold=threshold)
    defects = defects_of(runs, join_distance_px=join_distance_px, min_area_px=min_area_px)
    labels = np.zeros(probability.shape, np.int32)
    for defect in defects:
        for row, start, stop in defect.runs.tolist():
            labels[row, start:stop] = defect.label
    return labels, defects


def defects_of(runs: Runs, *, join_distance_px: float, min_area_px: int = 0) -> list[Defect]:
    """`find_defects` of a map whose pixels above the threshold are known; by the first pixel of each defect."""
    if not len(runs.row):
        return []
    owners = _owners(runs, distance_px=join_distance_px)
    lengths = (runs.stop - runs.start).astype(np.int64)
    is_wanted = np.bincount(owners, weights=lengths) >= min_area_px
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners))
    defects = []
    for owner in np.flatnonzero(is_wanted):
        part = runs.take(order[ends[owner - 1] if owner else 0 : ends[owner]])
        defects.append(_describe(part, label=len(defects) + 1))
    return defects


def runs_without(runs: Runs, defects: Iterable[Defect]) -> Runs:
    """The runs that belong to none of the defects."""
    columns = np.stack([runs.row.astype(np.int64), runs.start], axis=1)
    kept = [defect.runs[:, :2] for defect in defects]
    if not kept:
        return runs
    scale = int(columns[:, 1].max(initial=0)) + 1
    taken = np.concatenate(kept).astype(np.int64)
    return runs.take(~np.isin(columns @ [scale, 1], taken @ [scale, 1]))


def _runs_of_band(pixels: np.ndarray, *, first_row: int, threshold: float) -> Runs:
    is_defect = pixels >= threshold
    width = pixels.shape[1]
    padded = np.zeros((len(pixels), width + 2), bool)
    padded[:, 1:-1] = is_defect
    # Every row has as many beginnings as ends, so that they alternate over all rows.
    edges = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    start, stop = edges[0::2], edges[1::2]
    values = pixels[is_defect]  # run after run
    first_values = np.cumsum(stop - start) - (stop - start)
    is_any = bool(len(start))
    return Runs(
        row=(start // (width + 1) + first_row).astype(np.int32),
        start=(start % (width + 1)).astype(np.int32),
        stop=(stop % (width + 1)).astype(np.int32),
        total=np.add.reduceat(values, first_values, dtype=np.float64) if is_any else np.zeros(0),
        peak=np.maximum.reduceat(values, first_values).astype(np.float32) if is_any else np.zeros(0, np.float32),
    )


def _owners(runs: Runs, *, distance_px: float) -> np.ndarray:
    """[N]: which defect a run belongs to; numbered from 0 by their first runs."""
    first, second = [], []
    for rows_apart in range(max(int(np.ceil(distance_px)), 2)):
        # The largest distance between columns at which pixels so many rows apart are closer than the distance.
        squared = distance_px**2 - rows_apart**2
        reach = int(np.ceil(np.sqrt(squared))) - 1 if squared > 0 else -1
        reach = max(reach, 1) if rows_apart <= 1 else reach  # neighbours
        for pairs in _close(runs, rows_apart, reach):
            first.append(pairs[0])
            second.append(pairs[1])
    first, second = np.concatenate(first), np.concatenate(second)
    count = len(runs.row)
    graph = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, owners = sparse.csgraph.connected_components(graph, directed=False)
    # Numbered by their first run, whatever SciPy's order is.
    _, firsts, owners = np.unique(owners, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[owners]


def _close(runs: Runs, rows_apart: int, reach: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of runs `rows_apart` rows apart with pixels at most `reach` columns apart, [K] and [K].

    In a row, runs are sorted and do not touch: those that come near to a given one are neighbours in that order.
    """
    scale = int(runs.stop.max()) + 2 * reach + 2
    base = runs.row.astype(np.int64) * scale + reach
    starts, lasts = base + runs.start, base + runs.stop - 1
    other = base + rows_apart * scale
    begin = np.searchsorted(lasts, other + runs.start - reach)
    end = np.searchsorted(starts, other + runs.stop - 1 + reach, side="right")
    own = np.arange(len(begin))
    while True:
        is_left = begin < end
        if not is_left.any():
            return
        own, begin, end = own[is_left], begin[is_left], end[is_left]
        yield own, begin
        begin = begin + 1


def _describe(runs: Runs, *, label: int) -> Defect:
    top, left = int(runs.row[0]), int(runs.start.min())
    area_px = int((runs.stop - runs.start).sum())
    return Defect(
        label=label,
        box=Window(top, left, int(runs.row[-1]) + 1 - top, int(runs.stop.max()) - left),
        rotated_box=_rotated_box(runs),
        area_px=area_px,
        mean=float(runs.total.sum() / area_px),
        maximum=float(runs.peak.max()),
        runs=np.stack([runs.row, runs.start, runs.stop], axis=1),
    )


def _rotated_box(runs: Runs) -> RotatedBox:
    corners = [np.stack([x, runs.row + down], axis=1) for x in (runs.start, runs.stop) for down in (0, 1)]
    (x, y), (width, height), degrees = cv2.minAreaRect(np.concatenate(corners).astype(np.float32))
    if height > width:
        width, height, degrees = height, width, degrees + 90
    degrees = (degrees + 90) % 180 - 90  # in [-90, 90)
    return RotatedBox(float(x), float(y), float(width), float(height), float(degrees or 0) if degrees > -90 else 90.0)
