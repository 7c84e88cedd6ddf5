"""Blended maps against brute force over pixels, and against the map of the whole image."""

import numpy as np
import pytest

from jaxdefect.data import patches
from jaxdefect.inference.blending import Blender
from jaxdefect.types import Window


def blend(grid: patches.Grid, values: np.ndarray) -> np.ndarray:
    """All bands of one plane, from maps [tops, lefts, h, w]."""
    blender = Blender(grid, map_size=(values.shape[2], values.shape[3]))
    bands = [blender.add(row[:, None])[0] for row in values]
    assert all(len(band) <= values.shape[2] + 1 for band in bands)  # no more than a tile's rows is held back
    return np.concatenate(bands)


@pytest.mark.parametrize(("height", "width", "cell"), [(100, 132, 4), (40, 50, 1), (30, 59, 8)])
@pytest.mark.parametrize("stride_px", [(16, 16), (24, 32)])
def test_maps_of_tiles_that_agree_blend_to_the_whole_map(height, width, cell, stride_px):
    whole = np.random.default_rng(0).random((-(-height // cell), -(-width // cell))).astype(np.float32)
    grid = patches.grid(whole.shape[0] * cell, whole.shape[1] * cell, size=(32, 32), stride_px=stride_px)
    values = np.stack(
        [
            [patches.cut(whole, Window(top // cell, left // cell, 32 // cell, 32 // cell)) for left in grid.lefts]
            for top in grid.tops
        ]
    )
    np.testing.assert_allclose(blend(grid, values), whole, rtol=1e-6)
    assert blend(grid, np.ones_like(values)).max() == 1


def falling(count: int, overlap: float, *, is_first: bool, is_last: bool) -> np.ndarray:
    """Weights of a tile's cells along one side: up in the middle quarter of the overlap, but not at the border of
    the image.
    """
    middle = np.arange(count) + 0.5
    distance = np.minimum(np.inf if is_first else middle, np.inf if is_last else count - middle)
    return np.clip((distance - 3 / 8 * overlap) / (overlap / 4), 1e-6, 1)


def test_blended_maps_are_weighted_averages_over_pixels():
    """Off the grid of cells: every pixel of a tile has its cell's value and weight, and a cell averages its pixels."""
    height, width, cell = 41, 39, 4
    grid = patches.grid(height, width, size=(16, 24), stride_px=(7, 9))
    assert any(left % cell for left in grid.lefts)
    values = np.random.default_rng(1).random((len(grid.tops), len(grid.lefts), 4, 6)).astype(np.float32)
    total, weight = np.zeros((44, 40)), np.zeros((44, 40))
    for i, top in enumerate(grid.tops):
        rows = falling(4, 9 / cell, is_first=top == 0, is_last=top + 16 >= height)
        for j, left in enumerate(grid.lefts):
            columns = falling(6, 15 / cell, is_first=left == 0, is_last=left + 24 >= width)
            for row, column in np.ndindex(16, 24):
                at = row // cell, column // cell
                total[top + row, left + column] += values[i, j][at] * rows[at[0]] * columns[at[1]]
                weight[top + row, left + column] += rows[at[0]] * columns[at[1]]
    expected = total.reshape(11, 4, 10, 4).sum(axis=(1, 3)) / weight.reshape(11, 4, 10, 4).sum(axis=(1, 3))
    np.testing.assert_allclose(blend(grid, values), expected, rtol=1e-6)


def test_a_step_between_two_tiles_is_no_seam_and_a_tile_says_nothing_of_its_border():
    grid = patches.grid(32, 48, size=(32, 32), stride_px=(32, 16))
    row = blend(grid, np.stack([np.zeros((32, 32)), np.ones((32, 32))])[None].astype(np.float32))[16]
    assert np.abs(np.diff(row)).max() <= 0.25  # over the middle quarter of 16 pixels; a plain average would jump by 0.5
    assert (row[:22].max(), row[26:].min()) == pytest.approx((0, 1), abs=1e-5)


def test_maps_that_do_not_fit_their_tiles_are_refused():
    grid = patches.grid(32, 48, size=(32, 32), stride_px=(16, 16))
    with pytest.raises(ValueError, match="cannot be divided"):
        Blender(grid, map_size=(5, 8))
    with pytest.raises(ValueError, match="2 tiles of"):
        Blender(grid, map_size=(8, 8)).add(np.zeros((3, 1, 8, 8)))
