"""What an audit must know of every image and its mask: decoded once, in threads, with errors kept as text."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from jaxdefect.data import annotation, duplicates, images
from jaxdefect.types import InputError, MaskFile, Sample

_NUM_THREADS = 8


@dataclasses.dataclass(frozen=True)
class MaskFacts:
    """Of a mask: its marked pixels, a digest of them all, and the values that its file holds (none but for images)."""

    area_px: int
    digest: str
    values: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Of an image: its size in pixels, mean and standard deviation of the gray levels in [0, 1], and who it is like."""

    height: int
    width: int
    mean: float
    deviation: float
    digest: str
    signature: duplicates.Signature


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A sample and what its files hold; a text in place of what could not be read.

    `unused_mask`: an image file beside that of a positive without a mask which has its name and marks nothing.
    """

    sample: Sample
    image: ImageFacts | None = None
    image_error: str = ""
    mask: MaskFacts | None = None
    mask_error: str = ""
    unused_mask: Path | None = None


def inspect(samples: Sequence[Sample], *, on_progress: Callable[[int], None] = lambda _: None) -> list[Inspection]:
    """Inspects all samples; `on_progress` hears how many are done."""
    inspections = []
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        for inspection in pool.map(_inspect, samples):
            inspections.append(inspection)
            on_progress(len(inspections))
    return inspections


def _inspect(sample: Sample) -> Inspection:
    try:
        pixels = images.decode(sample.image, flags=cv2.IMREAD_UNCHANGED)
        gray = images.read_image(sample.image, num_channels=1)[..., 0]
    except InputError as error:
        return Inspection(sample, image_error=str(error))
    facts = ImageFacts(
        *gray.shape,
        mean=float(gray.mean()),
        deviation=float(gray.std()),
        digest=duplicates.pixel_digest(pixels),
        signature=duplicates.signature(gray),
    )
    try:
        if sample.mask is None:
            return Inspection(sample, facts, unused_mask=_empty_file_beside(sample.image) if sample.label else None)
        mask = annotation.load_mask(sample, height=facts.height, width=facts.width)
        values = _stored_values(sample)
    except InputError as error:
        return Inspection(sample, facts, mask_error=str(error))
    return Inspection(sample, facts, mask=MaskFacts(int(np.count_nonzero(mask)), duplicates.pixel_digest(mask), values))


def _stored_values(sample: Sample) -> tuple[int, ...]:
    """The values that a hard mask's image file holds, in rising order; of colours each channel's."""
    mask = sample.mask
    file = MaskFile(mask) if isinstance(mask, Path) else mask
    if not isinstance(file, MaskFile) or file.is_soft or file.path.suffix.lower() == ".mat":
        return ()
    pixels = images.decode(file.path, flags=cv2.IMREAD_UNCHANGED)
    return tuple(np.unique(pixels if pixels.ndim == 2 else pixels[..., :3]).tolist())


def _empty_file_beside(image: Path) -> Path | None:
    """An image file with the same name but another suffix, if all its pixels are 0."""
    for suffix in images.IMAGE_SUFFIXES:
        path = image.with_suffix(suffix)
        if path != image and path.is_file() and not images.decode(path, flags=cv2.IMREAD_UNCHANGED).any():
            return path
    return None
