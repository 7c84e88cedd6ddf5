"""Checks before anything is compiled: every file of the data set can be read and agrees, and the disk has room."""

import concurrent.futures
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2

from jaxdefect.data import annotation, images
from jaxdefect.types import InputError, Sample

_NUM_LISTED = 10
_MIB = 2**20
_DEFECT_FROM = 0.5  # the degree of a soft mask from which evaluation takes a pixel for a defect


def check_samples(samples: Sequence[Sample], *, num_threads: int = 8) -> None:
    """Decodes every image and mask and reports everything that is wrong at once.

    Raises:
      InputError: files that are missing, empty, truncated or no images; masks of another size than their image; a
        positive whose mask is empty, or soft and below 0.5 throughout; a negative whose mask is not empty. The text has
        the count and the first ten.
    """
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        problems = [text for text in pool.map(_problem, samples) if text]
    if problems:
        listed = "".join(f"\n  {text}" for text in problems[:_NUM_LISTED])
        rest = f"\n  and {len(problems) - _NUM_LISTED} more" if len(problems) > _NUM_LISTED else ""
        raise InputError(
            f"{len(problems)} of {len(samples)} images have a problem; repair or remove them:{listed}{rest}"
        )


def check_disk(path: Path, *, needed_bytes: int) -> None:
    """Checks that the disk that holds `path` (or will) has `needed_bytes` free.

    Raises:
      InputError: it has not.
    """
    free = shutil.disk_usage(_nearest_existing(path)).free
    if free < needed_bytes:
        raise InputError(
            f"{path}: the disk has {free // _MIB} MiB left but about {-(-needed_bytes // _MIB)} MiB are needed; "
            "free some space or choose a folder on another disk"
        )


def check_writable(path: Path) -> None:
    """Checks that the folder `path` can be made (which this does) and written to, by writing a file.

    Raises:
      InputError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose another folder") from error


def _problem(sample: Sample) -> str:
    """What is wrong with one sample's files, or an empty string."""
    try:
        height, width = images.decode(sample.image, flags=cv2.IMREAD_UNCHANGED).shape[:2]
        mask = annotation.load_mask(sample, height=height, width=width)
    except InputError as error:
        return str(error)
    if sample.mask is None:
        return ""
    if bool(mask.any()) != bool(sample.label):
        found = "the mask is empty but the image is labelled defective" if sample.label else "the mask marks a defect"
    elif sample.label and mask.max() < _DEFECT_FROM:
        found = (
            f"the soft mask's largest degree is {mask.max():.3g}, so it marks no defect (that is from {_DEFECT_FROM} "
            "on); a file with the values 0 and 1 is a hard mask: set config.data.masks = 'hard'"
        )
    else:
        return ""
    return f"{annotation.source_of(sample.mask)}: {found} (image {sample.image}, label {sample.label})"


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
