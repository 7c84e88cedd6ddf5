"""The maps of overlapping tiles put together to the map of the whole image, one band after the other."""

import numpy as np

from jaxdefect.data.patches import Grid

# The weight of a cell at a tile's inner border: another tile decides there, as long as there is one.
_LEAST_WEIGHT = 1e-6


class Blender:
    """Takes the rows of tiles of a grid from top to bottom and gives the bands of the map that are final.

    Where tiles overlap, their values are averaged. Over an overlap of o pixels the weight of a tile is nothing up to
    3/8 o from its border, where it knows too little of the surroundings, and then grows linearly over o / 4: no seam
    shows, and a network that sees no farther than 3/8 o gives what it gives for the whole image. On the image's own
    border, where the whole image ends too, weights do not fall. Where tiles agree, the result is their value. A tile
    that begins between two cells of the image's map is shared out to them by the area it covers of each.

    Args:
      grid: of tiles; their sides are multiples of those of a cell.
      map_size: cells of a tile, h x w.

    Raises:
      ValueError: a tile's side is not a multiple of its number of cells.
    """

    def __init__(self, grid: Grid, *, map_size: tuple[int, int]):
        if any(side % cells for side, cells in zip(grid.size, map_size, strict=True)):
            raise ValueError(f"tiles of {grid.size} px cannot be divided into {map_size} cells")
        self.cell_px = grid.size[0] // map_size[0], grid.size[1] // map_size[1]
        self.num_rows, self.num_columns = -(-grid.height // self.cell_px[0]), -(-grid.width // self.cell_px[1])
        self._map_size = map_size
        self._rows = _Side(grid.tops, grid.size[0], grid.height, grid.overlap_px[0], self.cell_px[0])
        self._columns = _Side(grid.lefts, grid.size[1], grid.width, grid.overlap_px[1], self.cell_px[1])
        self._next = 0
        self._first = 0
        self._sums: np.ndarray | None = None  # [P, n, num_columns], the rows from `_first` on that have begun

    def add(self, values: np.ndarray) -> np.ndarray:
        """The maps of the next row of tiles.

        Args:
          values: [L, P, h, w]: of each of its L tiles, left to right, P maps.

        Returns:
          [P, n, num_columns] float32, within the range of `values`: the next n rows that are final.

        Raises:
          ValueError: another number of tiles, or maps of another size.
        """
        num_tiles, num_planes = values.shape[:2]
        if num_tiles != len(self._columns.starts) or values.shape[2:] != self._map_size:
            raise ValueError(
                f"maps of shape {values.shape}: {len(self._columns.starts)} tiles of {self._map_size} cells expected"
            )
        index, is_last = self._next, self._next + 1 == len(self._rows.starts)
        first, offset = divmod(self._rows.starts[index], self.cell_px[0])
        # In float64, so that values in [0, 1] stay there when they come back to float32.
        sums = np.zeros((num_planes, min(first + self._map_size[0] + 1, self.num_rows) - self._first, self.num_columns))
        if self._sums is not None:
            sums[:, : self._sums.shape[1]] = self._sums
        weights = self._rows.weights[index][:, None]
        for tile, start, column_weights in zip(values, self._columns.starts, self._columns.weights, strict=True):
            column, column_offset = divmod(start, self.cell_px[1])
            spread = _spread(tile * (weights * column_weights), offset / self.cell_px[0], axis=1)
            spread = _spread(spread, column_offset / self.cell_px[1], axis=2)
            row = first - self._first
            target = sums[:, row : row + spread.shape[1], column : column + spread.shape[2]]
            target += spread[:, : target.shape[1], : target.shape[2]]
        stop = self.num_rows if is_last else self._rows.starts[index + 1] // self.cell_px[0]
        num_final = stop - self._first
        shares = np.outer(self._rows.total[self._first : stop], self._columns.total)
        final = (sums[:, :num_final] / shares).astype(np.float32)
        self._sums, self._first, self._next = sums[:, num_final:], stop, index + 1
        return final


class _Side:
    """Along one side: where tiles begin, the weights [n] of their cells, and the sum of the weights on every cell."""

    def __init__(self, starts: tuple[int, ...], size: int, length: int, overlap_px: int, cell_px: int):
        self.starts = starts
        num_cells = size // cell_px
        middle = np.arange(num_cells) + 0.5
        self.weights = []
        self.total = np.zeros(-(-length // cell_px))
        for start in starts:
            before = middle if start > 0 else np.inf
            behind = num_cells - middle if start + size < length else np.inf
            distance = np.minimum(before, behind) * np.ones(num_cells)
            self.weights.append(_rising(distance, overlap_px / cell_px))
            first, offset = divmod(start, cell_px)
            spread = _spread(self.weights[-1], offset / cell_px, axis=0)
            target = self.total[first : first + len(spread)]
            target += spread[: len(target)]


def _rising(distance: np.ndarray, overlap: float) -> np.ndarray:
    """Weights by the distance to the tile's border."""
    if not overlap:
        return np.ones_like(distance)
    return np.clip((distance - 3 / 8 * overlap) / (overlap / 4), _LEAST_WEIGHT, 1)


def _spread(values: np.ndarray, fraction: float, *, axis: int) -> np.ndarray:
    """Tile cells along an axis shared out to the n + 1 image cells they touch when shifted by a fraction of a cell."""
    if not fraction:
        return values
    widths = [(0, 0)] * values.ndim
    before, behind = list(widths), list(widths)
    before[axis], behind[axis] = (1, 0), (0, 1)
    return (1 - fraction) * np.pad(values, behind) + fraction * np.pad(values, before)
