"""An image as what the network takes, resized or in overlapping tiles, and its maps put together again."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdefect.config import Config
from jaxdefect.data import patches
from jaxdefect.data.images import to_input
from jaxdefect.data.patches import Grid
from jaxdefect.data.sources import ImageSource
from jaxdefect.inference.blending import Blender
from jaxdefect.inference.pixel_map import Cells, PixelMap
from jaxdefect.model_config import ModelConfig
from jaxdefect.types import InputError, Window


class Tiling(NamedTuple):
    """How an image is cut: `size` (height, width) of a tile and the `stride_px` from tile to tile, in its pixels.

    A tile is resized to the network's input, as a training image is.
    """

    size: tuple[int, int]
    stride_px: tuple[int, int]


_MAX_TILE_PX = 2**28


def make_tiling(config: Config, *, size: tuple[int, int] | None = None, overlap: float | None = None) -> Tiling:
    """Tiles for the images of a run.

    The stride is rounded so that all tiles lie on the network's own grid: what it pools together in one tile, it pools
    together in the next.

    Args:
      config: of the run.
      size: of a tile in pixels of the image; None: the network's input, so that nothing is resized.
      overlap: the share of a tile's side that neighbours have in common; None: as the config has it.

    Raises:
      InputError: the size cannot be divided into the cells of the network's map, or the overlap is out of range.
    """
    model, input_size = config.model, config.data.image_size
    overlap = config.inference.tile_overlap if overlap is None else overlap
    if not 0 <= overlap <= 0.9:
        raise InputError(f"an overlap of {overlap:g} of a tile: must be between 0 and 0.9")
    size = size or input_size
    if size[0] * size[1] > _MAX_TILE_PX:
        raise InputError(
            f"tiles of {size[0]}x{size[1]} px (height x width): more than {_MAX_TILE_PX} pixels; a tile is held in "
            f"memory and resized to the network's input, {input_size[0]}x{input_size[1]}"
        )
    num_cells = [side // model.output_stride for side in input_size]
    nearest = [max(1, round(side / count)) * count for side, count in zip(size, num_cells, strict=True)]
    if list(size) != nearest:
        raise InputError(
            f"tiles of {size[0]}x{size[1]} px (height x width): the network's map of {num_cells[0]}x{num_cells[1]} "
            f"cells must fit in; the nearest valid size is {nearest[0]}x{nearest[1]}"
        )
    units = (
        model.size_step * side // wanted if model.size_step * side % wanted == 0 else side // count
        for side, wanted, count in zip(size, input_size, num_cells, strict=True)
    )
    strides = [
        min(max(1, round((1 - overlap) * side / unit)) * unit, side) for side, unit in zip(size, units, strict=True)
    ]
    return Tiling((size[0], size[1]), (strides[0], strides[1]))


def check_tiling(tiling: Tiling | None, config: Config, *, where: Path) -> Tiling | None:
    """The tiles of a calibration, read from `where`, if a network of this config can compute them.

    Raises:
      InputError: it cannot: the calibration is that of another run.
    """
    if tiling is None:
        return None
    try:
        make_tiling(config, size=tiling.size)
        if not all(1 <= stride <= side for stride, side in zip(tiling.stride_px, tiling.size, strict=True)):
            raise InputError(f"a stride of {tiling.stride_px} px between tiles of {tiling.size} px")
    except InputError as error:
        raise InputError(f"{where}: chosen with tiles that do not suit this run: {error}") from error
    return tiling


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network takes it: its tiles are those of `grid`; without one, it is `resized` [h, w, C]."""

    source: ImageSource
    input_size: tuple[int, int]
    grid: Grid | None = None
    resized: np.ndarray | None = None

    @property
    def num_tiles(self) -> int:
        return 1 if self.grid is None else len(self.grid.tops) * len(self.grid.lefts)

    def tiles(self) -> Iterator[np.ndarray]:
        """[h, w, C] each, row by row, as the source has them, or resized, float32; one row of them is in memory.

        Raises:
          InputError: a part of the image cannot be decoded.
        """
        if self.grid is None:
            assert self.resized is not None
            yield self.resized
            return
        height, width = self.grid.size
        for top in self.grid.tops:
            band = patches.cut_source(self.source, Window(top, 0, height, max(self.source.width, width)))
            for left in self.grid.lefts:
                tile = band[:, left : left + width]
                yield tile if self.grid.size == self.input_size else to_input(tile, *self.input_size)


def prepare(source: ImageSource, tiling: Tiling | None, *, input_size: tuple[int, int]) -> Prepared:
    """An image to be judged in tiles, or resized as a whole if `tiling` is None.

    Raises:
      InputError: it cannot be decoded.
    """
    height, width = source.height, source.width
    if tiling is None:
        whole = source.read(Window(0, 0, height, width))
        return Prepared(source, input_size, resized=to_input(whole, *input_size))
    return Prepared(source, input_size, patches.grid(height, width, size=tiling.size, stride_px=tiling.stride_px))


class Assembly:
    """Takes what the network says of an image's tiles, in their order.

    Attributes:
      scores: [K] float64, the largest of every detector over the tiles so far (K is 1 without an ensemble).
      error: why the image cannot be judged.
    """

    def __init__(self, item: Prepared, model: ModelConfig):
        self.item = item
        self.scores: np.ndarray | None = None
        self.error: InputError | None = None
        self._model = model
        self._missing = item.num_tiles
        self._row: list[np.ndarray] = []
        self._blender: Blender | None = None
        self._cells: Cells | None = None
        self._sum, self._count, self._maximum = 0.0, 0, -np.inf

    @property
    def is_complete(self) -> bool:
        return self._missing == 0 or self.error is not None

    def add(self, scores: np.ndarray, planes: np.ndarray) -> None:
        """The next tile: scores [K] of the detectors, maps [P, h, w]."""
        self.scores = scores if self.scores is None else np.maximum(self.scores, scores)
        self._missing -= 1
        grid = self.item.grid
        if grid is None:
            self._keep(planes)
            return
        self._row.append(planes)
        if len(self._row) == len(grid.lefts):
            self._blender = self._blender or Blender(grid, map_size=(planes.shape[1], planes.shape[2]))
            self._keep(self._blender.add(np.stack(self._row)))
            self._row = []

    def _keep(self, band: np.ndarray) -> None:
        if self._cells is None:
            self._cells = Cells(band.shape[0], band.shape[2])
        self._cells.write(band)
        self._count += band[0].size
        if band[0].size:
            self._sum += float(band[0].sum(dtype=np.float64))
            self._maximum = max(self._maximum, float(band[0].max()))

    @property
    def statistics(self) -> Mapping[str, float]:
        """ "mean" and "max" of the map's cells."""
        return {"mean": self._sum / self._count, "max": self._maximum}

    def pixel_map(self) -> PixelMap:
        """The map of the whole image, once it is complete."""
        assert self._cells is not None
        source, model = self.item.source, self._model
        num_rows = self._count // self._cells.num_columns
        if self._blender is None:
            cell_px = source.height / num_rows, source.width / self._cells.num_columns
        else:
            cell_px = self._blender.cell_px
        return PixelMap(source.height, source.width, self._cells, num_rows, cell_px, model.alignment_stride)
