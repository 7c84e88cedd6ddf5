"""Random changes of a training image and its mask together: geometry for both, photometry for the image alone."""

import cv2
import numpy as np

from jaxdefect.config import AugmentConfig


def augment(
    image: np.ndarray, mask: np.ndarray, *, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Applies the transforms that `config` switches on, in a fixed order, every choice drawn from `rng`.

    The geometry (flips, rotation by 90 degrees, affine) comes first and moves image and mask alike: the image is
    interpolated linearly, as is a soft mask, while a hard one takes the nearest pixel; all are mirrored beyond the
    border, so that no artificial edge enters the image. Contrast, brightness and noise follow, on the image alone.
    What they leave is cut to [0, 1].

    Args:
      image: [H, W, C] float32 in [0, 1], C at most 4.
      mask: [H, W], hard (uint8 in {0, 1}) or soft (float32 in [0, 1]).
      config: which transforms, and how strong.
      rng: the only source of randomness; the same state gives the same result.

    Returns:
      The changed image, [H, W, C] float32 in [0, 1], and mask, [H, W] of the type it had. The inputs are not written
      to; where nothing is changed they are the outputs.
    """
    flipped, mask = _flip(image, mask, config, rng)
    image, mask = _rotate90(flipped, mask, config, rng)
    image, mask = _affine(image, mask, config, rng)
    image = _photometry(image, config, rng)
    return image if image is flipped else np.clip(image, 0.0, 1.0), np.ascontiguousarray(mask)


def _flip(
    image: np.ndarray, mask: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if not config.flip:
        return image, mask
    is_upside_down, is_mirrored = (rng.random() < 0.5 for _ in range(2))
    if not (is_upside_down or is_mirrored):
        return image, mask
    code = -1 if is_upside_down and is_mirrored else int(is_mirrored)
    return cv2.flip(image, code).reshape(image.shape), cv2.flip(mask, code)


def _rotate90(
    image: np.ndarray, mask: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A quarter turn; the network's input size is fixed, so a turned oblong is stretched back to it."""
    if not config.rotate90 or rng.random() >= 0.5:
        return image, mask
    height, width, channels = image.shape
    image, mask = np.ascontiguousarray(np.rot90(image)), np.ascontiguousarray(np.rot90(mask))
    if height != width:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
        # NEAREST_EXACT shares its pixel centres with LINEAR; plain NEAREST is off by up to half a pixel.
        nearest_or_linear = cv2.INTER_NEAREST_EXACT if mask.dtype == np.uint8 else cv2.INTER_LINEAR
        mask = cv2.resize(mask, (width, height), interpolation=nearest_or_linear)
    return image, mask


def _affine(
    image: np.ndarray, mask: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and zoom about the centre, then a shift."""
    if not (config.affine_degrees or config.affine_scale or config.affine_shift):
        return image, mask
    height, width, channels = image.shape
    angle_degrees = rng.uniform(-1, 1) * config.affine_degrees
    zoom = 1 + rng.uniform(-1, 1) * config.affine_scale
    shift = rng.uniform(-1, 1, 2) * config.affine_shift * (width, height)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_degrees, zoom)
    matrix[:, 2] += shift
    border = cv2.BORDER_REFLECT_101
    size = (width, height)
    image = cv2.warpAffine(np.ascontiguousarray(image), matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
    nearest_or_linear = cv2.INTER_NEAREST if mask.dtype == np.uint8 else cv2.INTER_LINEAR
    mask = cv2.warpAffine(np.ascontiguousarray(mask), matrix, size, flags=nearest_or_linear, borderMode=border)
    return image.reshape(height, width, channels), mask


def _photometry(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Contrast about the mean, brightness, noise; clipped only once, by the caller."""
    if config.contrast:
        factor = np.float32(1 + rng.uniform(-1, 1) * config.contrast)
        mean = image.mean(dtype=np.float64).astype(np.float32)
        image = (image - mean) * factor + mean
    if config.brightness:
        image = image + np.float32(rng.uniform(-1, 1) * config.brightness)
    if config.noise:
        deviation = np.float32(rng.uniform(0, config.noise))
        image = image + deviation * rng.standard_normal(image.shape, dtype=np.float32)
    return image
