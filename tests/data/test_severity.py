"""Severity against a loop over cells in float64, and against values worked out by hand."""

import numpy as np
import pytest

from jaxdefect.data.severity import scale, severity


def reference(image: np.ndarray, mask: np.ndarray, cell_px: int) -> np.ndarray:
    """Cell by cell: walk left and right to a good cell, else up and down, else take the average good cell."""
    luma = [1.0] if image.shape[2] == 1 else [0.299, 0.587, 0.114]
    gray = 255 * (image.astype(np.float64) @ luma)
    height, width = mask.shape[0] // cell_px, mask.shape[1] // cell_px
    cells = {}
    for row in range(height):
        for column in range(width):
            part = np.s_[row * cell_px : (row + 1) * cell_px, column * cell_px : (column + 1) * cell_px]
            cells[row, column] = gray[part].min(), gray[part].max(), bool((mask[part] >= 0.5).any())
    good = [(low, high) for low, high, is_defect in cells.values() if not is_defect]

    def walk(row: int, column: int, down: int, right: int) -> list[tuple[float, float]]:
        while (row, column) in cells:
            if not cells[row, column][2]:
                return [cells[row, column][:2]]
            row, column = row + down, column + right
        return []

    result = np.zeros((height, width))
    for (row, column), (low, high, is_defect) in cells.items():
        if not is_defect or not good:
            continue
        references = walk(row, column, 0, -1) + walk(row, column, 0, 1)
        references = references or walk(row, column, -1, 0) + walk(row, column, 1, 0)
        references = references or [(np.mean([m for m, _ in good]), np.mean([m for _, m in good]))]
        scores = [min(abs(low - m), abs(high - M)) + abs(high - m) for m, M in references]
        result[row, column] = min(np.mean(scores), 500)
    return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cell_px", [2, 4])
def test_is_that_of_a_loop_over_cells(cell_px, channels):
    rng = np.random.default_rng(cell_px + channels)
    image = rng.random((48, 64, channels), np.float32)
    scattered = (rng.random((48, 64)) < 0.04).astype(np.uint8)
    cross = scattered.copy()
    cross[:, 30:35] = cross[20:31] = 1  # whole rows, whole columns, and cells that have both
    soft = np.round(4 * rng.random((48, 64), np.float32) ** 9) / 4  # 0.5 among them
    for mask in (scattered, cross, soft):
        raw = severity(image, mask, cell_px=cell_px)
        assert raw.dtype == np.float32
        assert (raw > 0).sum() > 40
        np.testing.assert_allclose(raw, reference(image, mask, cell_px), rtol=1e-5, atol=1e-4)


def test_a_dark_spot_on_a_two_sided_surface_by_hand():
    image, mask = np.full((4, 16, 1), 100 / 255, np.float32), np.zeros((4, 16), np.uint8)
    image[:, 12:] = 140 / 255
    image[0, 12] = 150 / 255
    image[1, 5:8] = image[2, 8:10] = 20 / 255
    mask[1, 5:8] = mask[2, 8:10] = 1
    # Both defect cells have m = 20, M = 100. Left reference (100, 100): d0 = 0, d1 = 0; right one (140, 150):
    # d0 = min(120, 50), d1 = 40.
    np.testing.assert_allclose(severity(image, mask, cell_px=4), [[0, 45, 45, 0]], rtol=1e-5)
    # With the border to the left there is only the right reference; the new cell has m = M = 100, so d0 = d1 = 40.
    mask[:, :4] = 1
    np.testing.assert_allclose(severity(image, mask, cell_px=4), [[80, 90, 90, 0]], rtol=1e-5)


def test_the_strongest_contrast_is_clipped_at_500():
    image, mask = np.zeros((4, 8, 1), np.float32), np.zeros((4, 8), np.uint8)
    image[:, 4:], mask[:, 4:] = 1, 1
    np.testing.assert_array_equal(severity(image, mask, cell_px=4), [[0, 500]])  # 255 + 255


def test_without_a_defect_or_without_anything_else_there_is_no_severity():
    image = np.random.default_rng(0).random((8, 8, 1), np.float32)
    for mask in (np.zeros((8, 8), np.uint8), np.full((8, 8), 0.49, np.float32), np.ones((8, 8), np.uint8)):
        np.testing.assert_array_equal(severity(image, mask, cell_px=4), np.zeros((2, 2)))


def test_sizes_that_do_not_fit_are_refused():
    for image_shape, mask_shape in (((8, 8, 1), (8, 12)), ((8, 10, 1), (8, 10))):
        with pytest.raises(ValueError, match="must have one size, a multiple of the cell's 4 px"):
            severity(np.zeros(image_shape, np.float32), np.zeros(mask_shape, np.uint8), cell_px=4)


def test_the_largest_of_the_training_set_becomes_12():
    scaled = scale(np.array([[0, 50, 200, 300]], np.float32), 200.0)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[0, 3, 12, 12]])
    for maximum in (0.0, float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            scale(scaled, maximum)
