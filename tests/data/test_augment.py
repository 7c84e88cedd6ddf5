"""Augmentation: image and mask move together, photometry spares the mask, and the generator alone decides."""

import numpy as np
import pytest

from jaxdefect.config import AugmentConfig
from jaxdefect.data.augment import augment

GEOMETRIC = {
    "flip": AugmentConfig(flip=True),
    "rotate90": AugmentConfig(rotate90=True),
    "angle": AugmentConfig(affine_degrees=20.0),
    "zoom": AugmentConfig(affine_scale=0.3),
    "shift": AugmentConfig(affine_shift=0.2),
    "all": AugmentConfig(flip=True, rotate90=True, affine_degrees=20.0, affine_scale=0.3, affine_shift=0.2),
}
PHOTOMETRIC = {
    "brightness": AugmentConfig(brightness=0.3),
    "contrast": AugmentConfig(contrast=0.5),
    "noise": AugmentConfig(noise=0.2),
}


def pair(*, height: int = 96, width: int = 160, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """An off-centre, asymmetric figure as mask, and as the image itself."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:50, 20:60] = 1
    mask[40:80, 50:140] = 1
    return np.repeat(mask[..., None], channels, axis=2).astype(np.float32), mask


def centroid(weights: np.ndarray) -> np.ndarray:
    positions = np.indices(weights.shape).reshape(2, -1)
    return positions @ weights.ravel().astype(np.float64) / weights.sum(dtype=np.float64)


def texture(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(7).uniform(0.3, 0.7, (96, 160, channels)).astype(np.float32)


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("channels", [1, 3])
def test_geometry_moves_image_and_mask_together(name: str, channels: int) -> None:
    image, mask = pair(channels=channels)
    num_changed, offsets = 0, []
    for seed in range(40):
        moved, moved_mask = augment(image, mask, config=GEOMETRIC[name], rng=np.random.default_rng(seed))
        assert moved.shape == image.shape
        assert moved.dtype == np.float32
        assert moved_mask.dtype == np.uint8
        assert set(np.unique(moved_mask)) <= {0, 1}
        # Linear and nearest interpolation differ on the outline only.
        assert np.abs(moved - moved_mask[..., None]).mean() < 0.015
        offsets.append(centroid(moved[..., -1]) - centroid(moved_mask))
        num_changed += not np.array_equal(moved_mask, mask)
    assert num_changed >= 15
    # Rounding to the nearest pixel moves the mask by part of a pixel, but not always to the same side.
    assert np.abs(offsets).max() < 0.8
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.15


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_soft_mask_moves_as_an_image_does(name: str) -> None:
    image = texture()
    for seed in range(10):
        moved, mask = augment(image, image[..., 0], config=GEOMETRIC[name], rng=np.random.default_rng(seed))
        assert mask.dtype == np.float32
        np.testing.assert_allclose(mask, moved[..., 0], atol=1e-6)


def test_flips_and_quarter_turns_of_a_square_are_exact() -> None:
    image, mask = pair(height=128, width=128)
    image = image * texture()[:1, :1]
    orbit = [
        np.rot90(np.flip(image, axis) if axis is not None else image, turns) for axis in (None, 0) for turns in range(4)
    ]
    seen = set()
    for seed in range(60):
        moved, _ = augment(image, mask, config=AugmentConfig(flip=True, rotate90=True), rng=np.random.default_rng(seed))
        seen.add(next(i for i, candidate in enumerate(orbit) if np.array_equal(moved, candidate)))
    assert seen == set(range(8))


def test_shift_moves_by_the_drawn_fraction_and_reflects() -> None:
    image = np.zeros((64, 64, 1), np.float32)
    image[32, 32] = 1
    offsets = []
    for seed in range(200):
        moved, _ = augment(
            image,
            np.zeros((64, 64), np.uint8),
            config=AugmentConfig(affine_shift=0.25),
            rng=np.random.default_rng(seed),
        )
        y, x = np.unravel_index(moved[..., 0].argmax(), (64, 64))
        offsets.append((y - 32, x - 32))
    assert np.abs(offsets).max() in (15, 16)
    bright = np.full((64, 64, 1), 0.5, np.float32)
    moved, _ = augment(bright, np.zeros((64, 64), np.uint8), config=GEOMETRIC["all"], rng=np.random.default_rng(1))
    np.testing.assert_allclose(moved, 0.5, atol=1e-6)


def test_rotation_and_zoom_leave_the_centre_in_place() -> None:
    image = np.zeros((64, 96, 1), np.float32)
    image[16:48, 32:64] = 1
    config = AugmentConfig(affine_degrees=30.0, affine_scale=0.3)
    for seed in range(10):
        moved, _ = augment(image, np.zeros((64, 96), np.uint8), config=config, rng=np.random.default_rng(seed))
        np.testing.assert_allclose(centroid(moved[..., 0]), (31.5, 47.5), atol=0.05)


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_photometry_changes_the_image_within_range_and_never_the_mask(name: str) -> None:
    image, (_, mask) = texture(), pair()
    for seed in range(8):
        changed, same_mask = augment(image, mask, config=PHOTOMETRIC[name], rng=np.random.default_rng(seed))
        np.testing.assert_array_equal(same_mask, mask)
        assert changed.dtype == np.float32
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert np.abs(changed - image).max() > 1e-3


def test_photometry_does_what_its_settings_say() -> None:
    image, (_, mask) = texture(), pair()

    def outcomes(config: AugmentConfig) -> list[np.ndarray]:
        return [augment(image, mask, config=config, rng=np.random.default_rng(seed))[0] for seed in range(100)]

    shifts = np.array([(changed - image).mean() for changed in outcomes(AugmentConfig(brightness=0.2))])
    assert 0.17 < shifts.max() <= 0.2
    assert -0.2 <= shifts.min() < -0.17
    changed = outcomes(AugmentConfig(contrast=0.4))
    np.testing.assert_allclose([c.mean() for c in changed], image.mean(), atol=1e-5)
    factors = np.array([c.std() for c in changed]) / image.std()
    assert 0.6 - 1e-4 < factors.min() < 0.65
    assert 1.35 < factors.max() < 1.4 + 1e-4
    deviations = np.array([(changed - image).std() for changed in outcomes(AugmentConfig(noise=0.1))])
    assert 0.08 < deviations.max() < 0.105
    assert deviations.min() < 0.02


def test_same_generator_same_result_and_all_off_changes_nothing() -> None:
    image, (_, mask) = texture(3), pair()
    everything = AugmentConfig(True, True, 10.0, 0.1, 0.1, 0.1, 0.1, 0.1)
    original = image.copy()
    first = augment(image, mask, config=everything, rng=np.random.default_rng(3))
    second = augment(image, mask, config=everything, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(image, original)
    other, _ = augment(image, mask, config=everything, rng=np.random.default_rng(4))
    assert not np.array_equal(first[0], other)
    same, same_mask = augment(image, mask, config=AugmentConfig(), rng=np.random.default_rng(3))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(same_mask, mask)
