"""Annotation against the published implementation's golden file and against brute force."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.data import annotation
from jaxdefect.types import InputError, MaskFile, RunLengthMask, Sample, Shape, ShapeMask


def blobs(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A random mask of several irregular components."""
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    return (cv2.GaussianBlur(noise, (0, 0), 3) > 0.53).astype(np.uint8)


def brute_force_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest zero, in float64, by trying all of them."""
    grid = np.stack(np.mgrid[: mask.shape[0], : mask.shape[1]], axis=-1).astype(np.float64)
    zeros = grid[mask == 0]
    return np.sqrt(((grid[:, :, None] - zeros) ** 2).sum(axis=-1).min(axis=-1))


def test_golden_targets_and_weights_of_the_published_code(shared: Path):
    golden = np.load(shared / "golden" / "segdec_official_1ch.npz")
    for mask, target, weight in zip(golden["mask"], golden["seg_target"], golden["seg_weight"], strict=True):
        mask = mask[..., 0]
        np.testing.assert_allclose(annotation.reduce_by_8(mask), target[..., 0], atol=1e-6)
        weights = annotation.distance_weights(mask.astype(np.uint8), power=2, maximum=3, scope="image")
        np.testing.assert_allclose(annotation.reduce_by_8(weights), weight[..., 0], atol=1e-5)


def test_reduction_averages_mirrored_17_pixel_windows():
    dense = np.random.default_rng(0).random((32, 48))
    sparse = [np.full((96, 136), 1.0) for _ in range(5)]
    boxes = (np.s_[:1, :1], np.s_[95:, 135:], np.s_[40:49, 64:65], np.s_[8:96, 17:30], np.s_[:0])
    for values, box in zip(sparse, boxes, strict=True):
        values[box] = 0.25
    for values in (dense, *sparse):
        padded = np.pad(values, 8, mode="reflect")
        rows, columns = values.shape[0] // 8, values.shape[1] // 8
        expected = [
            [padded[8 * i : 8 * i + 17, 8 * j : 8 * j + 17].mean() for j in range(columns)] for i in range(rows)
        ]
        reduced = annotation.reduce_by_8(values)
        assert reduced.dtype == np.float32
        np.testing.assert_allclose(reduced, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="cannot be reduced"):
        annotation.reduce_by_8(dense[:-1])


@pytest.mark.parametrize("seed", range(3))
def test_distance_weights_by_brute_force(seed: int):
    mask = blobs(seed)
    mask[:12, :12] = 0
    mask[2:5, 2:5] = mask[5:10, 5:10] = 1  # two squares that touch at a corner: one component
    distance = brute_force_distance(mask)
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    assert count > 3  # or the two scopes would be the same
    largest = {
        "image": np.full(mask.shape, distance.max()),
        "component": np.array([distance[labels == label].max() for label in range(count)])[labels],
    }
    for scope, divisor in largest.items():
        expected = np.where(mask > 0, 5.0 * (distance / np.maximum(divisor, 1e-9)) ** 1.5, 1.0)
        weights = annotation.distance_weights(mask, power=1.5, maximum=5.0, scope=scope)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_distance_weights_without_defect_without_edge_and_switched_off():
    empty, full = np.zeros((16, 16), np.uint8), np.ones((16, 16), np.uint8)
    for scope in ("image", "component"):
        np.testing.assert_array_equal(annotation.distance_weights(empty, power=2, maximum=3, scope=scope), 1)
        np.testing.assert_array_equal(annotation.distance_weights(full, power=2, maximum=3, scope=scope), 3)
        np.testing.assert_array_equal(annotation.distance_weights(blobs(0), power=2, maximum=0, scope=scope), 1)


def test_dilation_grows_a_point_to_the_structuring_element():
    point = np.zeros((21, 21), np.uint8)
    point[10, 10] = 1
    rows, columns = np.mgrid[-10:11, -10:11]
    square = (abs(rows) <= 3) & (abs(columns) <= 3)
    np.testing.assert_array_equal(annotation.dilate(point, side_px=7, shape="square"), square)
    ellipse = annotation.dilate(point, side_px=7, shape="ellipse")
    assert not ellipse[~square].any()
    np.testing.assert_array_equal(ellipse, ellipse[::-1, ::-1])
    assert 0.6 < ellipse.sum() / square.sum() < 0.95  # pi / 4 = 0.785 on a fine grid
    for side_px in (0, 1):
        np.testing.assert_array_equal(annotation.dilate(point, side_px=side_px, shape="square"), point)


def test_runs_count_from_one_down_the_columns():
    mask = RunLengthMask(((2, 3), (10, 1)), "train.csv, line 2")
    expected = np.zeros((4, 3), np.uint8)
    expected[1:4, 0] = 1  # pixels 2, 3, 4: the rest of the first column
    expected[1, 2] = 1  # pixel 10: the second of the third column
    np.testing.assert_array_equal(annotation.decode_runs(mask, height=4, width=3), expected)
    for seed in range(3):
        drawn = blobs(seed)
        runs = annotation.encode_runs(drawn)
        decoded = annotation.decode_runs(RunLengthMask(runs, ""), height=48, width=64)
        np.testing.assert_array_equal(decoded, drawn)
    with pytest.raises(InputError, match=r"train\.csv, line 7: the run 11 3 leaves the image of 4 x 3"):
        annotation.decode_runs(RunLengthMask(((11, 3),), "train.csv, line 7"), height=4, width=3)


def test_masks_are_whatever_is_above_zero_at_the_images_size(tmp_path: Path):
    expected = blobs(4)
    gray, color = tmp_path / "gray.png", tmp_path / "color.png"
    cv2.imwrite(str(gray), expected)  # 0 and 1, not 255
    opaque = np.full((*expected.shape, 4), (0, 0, 0, 255), np.uint8)
    opaque[..., 0] = expected  # the faintest blue: as gray it would round to 0
    cv2.imwrite(str(color), opaque)
    for path in (gray, color):
        sample = Sample("a", tmp_path / "a.png", path, 1, "a")
        mask = annotation.load_mask(sample, height=48, width=64)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, expected)
        with pytest.raises(InputError, match=rf"{path.name}: the mask is 48 x 64 .* but its image .*a\.png is 64 x 48"):
            annotation.load_mask(sample, height=64, width=48)
    for label in (0, 1):
        without = Sample("b", tmp_path / "b.png", None, label, "b")
        assert not annotation.load_mask(without, height=48, width=64).any()


def test_resized_masks_are_where_half_is_defect_and_never_lose_a_defect():
    mask = blobs(5)
    halves = mask.reshape(24, 2, 32, 2).sum(axis=(1, 3)) >= 2
    np.testing.assert_array_equal(annotation.resize_mask(mask, 24, 32), halves)
    point = np.zeros((48, 64), np.uint8)
    point[17, 33] = 1
    expected = np.zeros((12, 16), np.uint8)
    expected[4, 8] = 1
    np.testing.assert_array_equal(annotation.resize_mask(point, 12, 16), expected)
    assert annotation.resize_mask(point, 48, 64) is point


@pytest.mark.parametrize("is_soft", [False, True])
def test_a_pixel_of_a_shrunk_mask_is_what_its_area_holds_to_the_last_half(is_soft: bool):
    rng = np.random.default_rng(0)
    for _ in range(50):
        sides = rng.integers(50, 300, 2)
        size = [int(rng.integers(8, side + 1)) for side in sides]
        mask = np.zeros(sides, np.uint8)
        for top, left in rng.integers(0, sides, (2, 2)):
            mask[top : top + rng.integers(4, 60), left : left + rng.integers(4, 60)] = 1
        if is_soft:
            mask = mask * rng.random(sides, dtype=np.float32)
        # A side's pixels in as many parts as it gets pixels: whole numbers, so that a half is one.
        down, across = (
            np.repeat(np.eye(side, dtype=np.uint8), wanted, axis=0).reshape(wanted, side, side).sum(axis=1, dtype=int)
            for side, wanted in zip(sides, size, strict=True)
        )
        covered, area = down @ mask @ across.T, np.prod(sides)
        shrunk = annotation.resize_mask(mask, *size)
        if is_soft:
            np.testing.assert_allclose(shrunk, covered / area, atol=1e-6)
        else:
            half = 2 * covered >= area
            np.testing.assert_array_equal(shrunk, half if half.any() else covered > 0)


def soft(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A random mask of degrees, zero over about half of the image."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), 3)
    return np.clip((noise - np.median(noise)) * 8, 0, 1).astype(np.float32)


def test_masks_above_a_value_and_soft_masks(tmp_path: Path):
    degrees = soft(6)
    for suffix, largest, dtype in ((".png", 255, np.uint8), (".tif", 65535, np.uint16)):
        path = tmp_path / f"a{suffix}"
        stored = np.round(degrees * largest).astype(dtype)
        assert cv2.imwrite(str(path), stored)
        hard, gray = (
            annotation.load_mask(Sample("a", path, mask, 1, "a"), height=48, width=64)
            for mask in (MaskFile(path, above=largest // 2), MaskFile(path, is_soft=True))
        )
        assert (hard.dtype, gray.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(hard, stored > largest // 2)
        np.testing.assert_allclose(gray, stored / largest, rtol=1e-6)
        with pytest.raises(InputError, match=rf"a\{suffix}: the mask is 48 x 64 .* is 64 x 48"):
            annotation.load_mask(Sample("a", path, MaskFile(path, is_soft=True), 1, "a"), height=64, width=48)


def test_soft_masks_dilate_weigh_reduce_and_resize_without_thresholds():
    mask = soft(7)
    padded = np.pad(mask, 2)
    largest = np.max([padded[i : i + 48, j : j + 64] for i in range(5) for j in range(5)], axis=0)
    dilated = annotation.dilate(mask, side_px=5, shape="square")
    np.testing.assert_array_equal(dilated, largest)
    np.testing.assert_array_equal(
        annotation.distance_weights(mask, power=2, maximum=3, scope="component"),
        annotation.distance_weights((mask > 0).astype(np.uint8), power=2, maximum=3, scope="component"),
    )
    mirrored = np.pad(mask.astype(np.float64), 8, mode="reflect")
    np.testing.assert_allclose(annotation.reduce_by_8(mask)[2, 3], mirrored[16:33, 24:41].mean(), rtol=1e-5)
    halved = annotation.resize_mask(mask, 24, 32)
    assert halved.dtype == np.float32
    np.testing.assert_allclose(halved, mask.reshape(24, 2, 32, 2).mean(axis=(1, 3)), atol=1e-6)
    doubled = annotation.resize_mask(mask, 96, 128)
    assert 0 <= doubled.min() < doubled.max() <= 1
    assert doubled.mean() == pytest.approx(mask.mean(), rel=0.01)


def test_a_class_sees_its_own_defects_and_calls_the_rest_good():
    def spot(x: float) -> ShapeMask:
        return ShapeMask((Shape("polyline", (x, 1.0)),), f"a.json, spot at {x}")

    good = Sample("a", Path("a.png"), Path("a_mask.png"), 0, "group")
    assert annotation.of_class(good, "dent") == dataclasses.replace(good, mask=None)
    one = Sample("b", Path("b.png"), spot(1), 1, "group", ("dent",))
    assert annotation.of_class(one, "dent") == one
    other = Sample("b", Path("b.png"), None, 0, "group")
    assert annotation.of_class(one, "scratch") == other
    unmasked = dataclasses.replace(one, mask=None, classes=("dent", "scratch"))
    assert annotation.of_class(unmasked, "scratch") == dataclasses.replace(unmasked, classes=("scratch",))
    both = Sample(
        "b", Path("b.png"), spot(1), 1, "group", ("dent", "scratch"), (("dent", spot(2)), ("scratch", spot(3)))
    )
    assert annotation.of_class(both, "scratch") == Sample("b", Path("b.png"), spot(3), 1, "group", ("scratch",))
    with pytest.raises(
        InputError, match=r"b\.png: has defects of the classes dent, scratch and one mask \(a\.json, spot"
    ):
        annotation.of_class(dataclasses.replace(both, class_masks=()), "dent")
    with pytest.raises(InputError, match=r"b\.png: defective, but of no known class"):
        annotation.of_class(dataclasses.replace(one, classes=()), "dent")


def test_coarse_annotations_are_the_boxes_of_each_defect():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:8, 4:20] = mask[5:15, 4:6] = 1  # an L
    cv2.line(mask, (35, 5), (50, 20), 1, 3)  # a scratch at 45 degrees
    box = np.zeros_like(mask)
    for label in (1, 2):
        rows, columns = np.nonzero(cv2.connectedComponents(mask, connectivity=8)[1] == label)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
    np.testing.assert_array_equal(annotation.coarsen(mask, kind="box"), box)
    rotated = annotation.coarsen(mask, kind="rotated_box")
    assert (rotated >= mask).all()
    scratch = rotated[:, 30:].sum()
    assert mask[:, 30:].sum() <= scratch < 0.5 * box[:, 30:].sum()  # along the scratch, not around it
    assert annotation.coarsen(mask, kind="mask") is mask
    soft = annotation.coarsen(mask * np.float32(0.25), kind="box")
    np.testing.assert_array_equal(soft, box * np.float32(0.25))
