"""Components against a flood fill and the distances between all pairs of pixels."""

import cv2
import numpy as np
import pytest

from jaxdefect.inference.components import defects_of, find_defects, runs_of, runs_without
from jaxdefect.types import Window


def brute_force(is_defect: np.ndarray, distance_px: float) -> set[frozenset[tuple[int, int]]]:
    """The defects as sets of pixels: two pixels are tied if they are neighbours or closer than the distance."""
    pixels = np.argwhere(is_defect)
    offsets = pixels[:, None] - pixels[None]
    is_tied = (np.abs(offsets).max(axis=-1) <= 1) | ((offsets**2).sum(axis=-1) < distance_px**2)
    defects, left = set(), set(range(len(pixels)))
    while left:
        defect, border = set(), {min(left)}
        while border:
            defect |= border
            border = set(np.flatnonzero(is_tied[sorted(border)].any(axis=0)).tolist()) - defect
        defects.add(frozenset(tuple(pixels[index].tolist()) for index in defect))
        left -= defect
    return defects


@pytest.mark.parametrize("distance_px", [0, 1.5, 2, 2.5, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_defects_are_the_pixels_tied_by_neighbourhood_or_distance(distance_px, seed):
    rng = np.random.default_rng(seed)
    is_defect = rng.random((40, 56)) < 0.012
    is_defect[10:18, 20:30] = True  # a component with an inside, which the search skips
    probability = np.where(is_defect, rng.uniform(0.5, 1, is_defect.shape), rng.uniform(0, 0.4, is_defect.shape))
    probability = probability.astype(np.float32)
    labels, defects = find_defects(probability, threshold=0.5, join_distance_px=distance_px)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels > 0, is_defect)
    found = {frozenset(map(tuple, np.argwhere(labels == defect.label).tolist())) for defect in defects}
    assert found == brute_force(is_defect, distance_px)
    assert [defect.label for defect in defects] == list(range(1, len(found) + 1))
    for defect in defects:
        pixels = np.argwhere(labels == defect.label)
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        assert defect.box == Window(*low.tolist(), *(high - low + 1).tolist())
        assert defect.area_px == len(pixels)
        values = probability[labels == defect.label].astype(np.float64)
        assert (defect.mean, defect.maximum) == pytest.approx((values.mean(), values.max()))


def test_a_distance_of_four_joins_what_is_closer_than_four_and_no_more():
    probability = np.zeros((20, 20), np.float32)
    probability[5, 2] = probability[5, 5] = probability[5, 9] = 0.5  # 3 apart, then 4
    probability[8, 11] = 0.5  # (3, 2) from the last: 3.6
    labels, defects = find_defects(probability, threshold=0.5, join_distance_px=4)
    assert [defect.area_px for defect in defects] == [2, 2]
    assert labels[5, 9] == labels[8, 11] != labels[5, 5] == labels[5, 2]
    probability[5, 5] = 0
    probability[9, 5] = 0.5  # (4, 3) from the first: 5; (1, 6) from the last
    for distance_px, count in ((5, 3), (5.1, 2)):
        assert len(find_defects(probability, threshold=0.5, join_distance_px=distance_px)[1]) == count


def test_nothing_above_the_threshold_is_no_defect_and_everything_is_one():
    probability = np.full((8, 8), 0.5, np.float32)
    labels, defects = find_defects(probability, threshold=0.51, join_distance_px=4)
    assert (labels.any(), defects) == (False, [])
    labels, defects = find_defects(probability, threshold=0.5, join_distance_px=4)
    assert (labels == 1).all()
    assert [defect.box for defect in defects] == [Window(0, 0, 8, 8)]


def test_bands_give_the_defects_of_the_whole_map_and_small_ones_are_left_out():
    rng = np.random.default_rng(0)
    plane = cv2.blur(rng.random((200, 90)).astype(np.float32), (5, 5))
    _, whole = find_defects(plane, threshold=0.55, join_distance_px=3)
    bands = [(start, plane[start : start + 7]) for start in range(0, 200, 7)]
    runs = runs_of(bands, threshold=0.55)
    in_bands = defects_of(runs, join_distance_px=3)
    assert [defect.mean for defect in in_bands] == pytest.approx([defect.mean for defect in whole], rel=1e-6)
    for found, expected in zip(in_bands, whole, strict=True):
        assert (found.box, found.rotated_box, found.maximum) == (expected.box, expected.rotated_box, expected.maximum)
        np.testing.assert_array_equal(found.runs, expected.runs)
    areas = [defect.area_px for defect in whole]
    limit = int(np.median(areas))
    kept_labels, kept = find_defects(plane, threshold=0.55, join_distance_px=3, min_area_px=limit)
    assert [defect.area_px for defect in kept] == [area for area in areas if area >= limit]
    assert 0 < len(kept) < len(whole)
    assert (kept_labels > 0).sum() == sum(defect.area_px for defect in kept)
    left = runs_without(runs, kept)
    assert int((left.stop - left.start).sum()) == sum(area for area in areas if area < limit)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 130])
def test_the_rotated_box_lies_along_a_turned_bar(degrees):
    plane = np.zeros((200, 200), np.float32)
    direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])  # y down: clockwise
    rows, columns = np.mgrid[:200, :200] + 0.5
    along = (columns - 90) * direction[0] + (rows - 110) * direction[1]
    across = (rows - 110) * direction[0] - (columns - 90) * direction[1]
    plane[(np.abs(along) <= 50) & (np.abs(across) <= 6)] = 1
    _, (defect,) = find_defects(plane, threshold=0.5, join_distance_px=0)
    x, y, length, width, found = defect.rotated_box
    assert (x, y, length, width) == pytest.approx((90, 110, 100, 12), abs=2)
    assert (found - degrees + 90) % 180 - 90 == pytest.approx(0, abs=1)
    assert -90 < found <= 90
    assert defect.length_px == length


def test_one_pixel_is_one_pixel_long():
    plane = np.zeros((5, 7), np.float32)
    plane[2, 3] = 1
    _, (defect,) = find_defects(plane, threshold=0.5, join_distance_px=0)
    assert defect.rotated_box[:4] == (3.5, 2.5, 1, 1)
