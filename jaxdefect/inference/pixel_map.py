"""The defect map of an image of any size, computed row by row at the image's own size from the network's cells."""

import dataclasses
import tempfile
import weakref
from collections.abc import Iterator, Mapping

import numpy as np

from jaxdefect import overlay
from jaxdefect.inference.components import Runs

_IN_MEMORY_BYTES = 2**24  # of cells; what is larger goes to a temporary file
_BAND_PIXELS = 2**20
_BELOW = 1 - 1e-5  # a pixel is at most what the largest cell around it is, but for rounding


class Cells:
    """P planes of h x w cells, written from top to bottom, read in rows; in memory or, if large, in a temporary file.

    Not for several threads at once.
    """

    def __init__(self, num_planes: int, num_columns: int):
        self.num_planes, self.num_columns = num_planes, num_columns
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    @classmethod
    def of(cls, planes: np.ndarray) -> "Cells":
        """Cells that are there already, [P, h, w] float32."""
        cells = cls(planes.shape[0], planes.shape[2])
        cells.write(planes)
        return cells

    def write(self, band: np.ndarray) -> None:
        """Adds rows, [P, n, w] float32."""
        self._file.write(np.ascontiguousarray(band.transpose(1, 0, 2), np.float32).tobytes())

    def read(self, start: int, stop: int, *, plane: int) -> np.ndarray:
        """Rows [stop - start, w] float32 of one plane."""
        row_bytes = 4 * self.num_planes * self.num_columns
        self._file.seek(start * row_bytes)
        rows = np.frombuffer(self._file.read((stop - start) * row_bytes), np.float32)
        return rows.reshape(-1, self.num_planes, self.num_columns)[:, plane]


@dataclasses.dataclass(frozen=True, eq=False)
class PixelMap:
    """A map of P planes that is read at the image's size, by interpolation between its cells.

    Attributes:
      height: of the image.
      width: of the image.
      cells: the network's values; plane 0 is the map, further ones, of an ensemble, are those of its classes.
      num_rows: of cells.
      cell_px: pixels of the image per cell, vertical and horizontal.
      alignment_stride: as `overlay.map_to_image_size` takes it.
      erased: pixels that are 0 in plane 0, whatever their cells say.
    """

    height: int
    width: int
    cells: Cells
    num_rows: int
    cell_px: tuple[float, float]
    alignment_stride: int
    erased: Runs | None = None

    def rows(self, start: int, stop: int, *, plane: int = 0) -> np.ndarray:
        """[stop - start, width] float32 of the rows from `start` on."""
        band = self._interpolated(start, stop, plane)
        if self.erased is not None and plane == 0:
            for row, first, end in self.erased.between(start, stop):
                band[row - start, first:end] = 0
        return band

    def whole(self) -> np.ndarray:
        """[height, width] float32."""
        return self.rows(0, self.height)

    def bands(self, *, plane: int = 0, reaching: float = 0.0) -> Iterator[tuple[int, np.ndarray]]:
        """All rows from top to bottom in bands of bounded size: the first row of each, and its pixels.

        Those without a pixel of `reaching` or more may be left out: what its cells say is not interpolated then.
        """
        step = max(1, _BAND_PIXELS // self.width)
        for start in range(0, self.height, step):
            stop = min(start + step, self.height)
            if reaching <= 0 or self._cells_of(start, stop, plane).max() >= reaching * _BELOW:
                yield start, self.rows(start, stop, plane=plane)

    def statistics(self) -> Mapping[str, float]:
        """ "mean" and "max" of plane 0."""
        total, maximum = 0.0, 0.0
        for _, band in self.bands():
            total += float(band.sum(dtype=np.float64))
            maximum = max(maximum, float(band.max()))
        return {"mean": total / (self.height * self.width), "max": maximum}

    def _interpolated(self, start: int, stop: int, plane: int) -> np.ndarray:
        if self.cell_px == (1, 1) and self.alignment_stride == 1:
            return self.cells.read(start, stop, plane=plane)[:, : self.width].copy()
        rows, row_fraction = self._row_taps(start, stop)
        columns, column_fraction = overlay.taps(
            self.cells.num_columns, cell_px=self.cell_px[1], stride=self.alignment_stride, pixels=range(self.width)
        )
        first = int(rows[0][0])
        cells = self._cells_of(start, stop, plane)
        return overlay.interpolate(cells, (rows[0] - first, rows[1] - first), row_fraction, columns, column_fraction)

    def _row_taps(self, start: int, stop: int) -> tuple[overlay.Taps, np.ndarray]:
        return overlay.taps(
            self.num_rows, cell_px=self.cell_px[0], stride=self.alignment_stride, pixels=range(start, stop)
        )

    def _cells_of(self, start: int, stop: int, plane: int) -> np.ndarray:
        """The rows of cells between which these rows of pixels lie."""
        rows, _ = self._row_taps(start, stop)
        return self.cells.read(int(rows[0][0]), int(rows[1][-1]) + 1, plane=plane)
