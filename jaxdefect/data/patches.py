"""Overlapping patches of an image: where they lie, their pixels, their samples."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxdefect.data import images
from jaxdefect.data.sources import ArrayImage, ImageSource
from jaxdefect.types import Sample, Window


class Grid(NamedTuple):
    """Patches of one `size` that cover an image `height` x `width`: one at every pair of `tops` and `lefts`.

    `overlap_px`: how many rows and columns neighbours share, where the last is not moved back.
    """

    height: int
    width: int
    size: tuple[int, int]
    overlap_px: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]


def windows(height: int, width: int, *, size: tuple[int, int], stride_px: int) -> list[Window]:
    """The patches that cover an image: left to right, top to bottom, `stride_px` apart.

    The last of a row or column is moved back so that it ends at the image's border. Along a side that is shorter than
    the patch there is one, which begins at the image's edge and reaches beyond it.

    Args:
      height: of the image.
      width: of the image.
      size: height and width of a patch.
      stride_px: at most the patch's shorter side, or pixels between two patches belong to none.

    Raises:
      ValueError: `stride_px` is below 1 or above a side of the patch.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), section IV-A: 256 x 256
      patches every 64 pixels.
    """
    found = grid(height, width, size=size, stride_px=(stride_px, stride_px))
    return [Window(top, left, *size) for top in found.tops for left in found.lefts]


def grid(height: int, width: int, *, size: tuple[int, int], stride_px: tuple[int, int]) -> Grid:
    """The same patches as `windows`, with a stride for either side.

    Raises:
      ValueError: a stride is below 1 or above its side of the patch.
    """
    if not all(1 <= stride <= side for stride, side in zip(stride_px, size, strict=True)):
        raise ValueError(f"a stride of {stride_px} px: must be between 1 and the sides of the patch, {size}")
    tops, lefts = (
        _starts(length, side, stride) for length, side, stride in zip((height, width), size, stride_px, strict=True)
    )
    overlap_px = size[0] - stride_px[0], size[1] - stride_px[1]
    return Grid(height, width, size, overlap_px, tuple(tops), tuple(lefts))


def cut(array: np.ndarray, window: Window) -> np.ndarray:
    """The pixels of a window; where it reaches beyond the image, the image is mirrored (the edge pixel not repeated).

    Args:
      array: [H, W] or [H, W, C].
      window: any part of the plane; the mirror images repeat as often as it takes.

    Returns:
      [height, width] or [height, width, C]; a view of `array` where the window lies inside.
    """
    return cut_source(ArrayImage(array), window)


def cut_source(source: ImageSource, window: Window) -> np.ndarray:
    """`cut` of an image that is read in windows: only what the window shows is read."""
    top, left, height, width = window
    if top >= 0 and left >= 0 and top + height <= source.height and left + width <= source.width:
        return source.read(window)
    rows, columns = _mirrored(top, height, source.height), _mirrored(left, width, source.width)
    first_row, first_column = int(rows.min()), int(columns.min())
    num_rows, num_columns = int(rows.max()) + 1 - first_row, int(columns.max()) + 1 - first_column
    shown = source.read(Window(first_row, first_column, num_rows, num_columns))
    return shown[(rows - first_row)[:, None], columns - first_column]


def patch_samples(
    samples: Iterable[Sample], *, size: tuple[int, int], stride_px: int, load_mask: Callable[[Sample], np.ndarray]
) -> list[Sample]:
    """Every patch of every image as a sample of its own, labelled by the defects within it.

    A patch is positive if any pixel of its mask is at 0.5 or above. It keeps its image's group, and its classes where
    it is positive; of an image with a mask per class, only those of the classes that it shows. Positive images without
    a mask are left out: nobody knows which of their patches are positive.

    Args:
      samples: whole images.
      size: height and width of a patch.
      stride_px: from patch to patch.
      load_mask: gives the mask of a sample's whole image, [H, W] in [0, 1]. Only asked for positives.

    Returns:
      Samples with `window` set and the id "<image's id>@<top>,<left>", in the order of `samples` and `windows`.

    Raises:
      ValueError: a sample is a part of an image already, or what `windows` refuses.
      InputError: an image or mask cannot be read.
    """
    patches = []
    for sample in samples:
        if sample.window is not None:
            raise ValueError(f"sample {sample.id!r} is a part of an image already ({sample.window})")
        if sample.label == 0:
            height, width = images.image_size(sample.image)
            patches += [_at(sample, window) for window in windows(height, width, size=size, stride_px=stride_px)]
        elif sample.mask is not None:
            patches += _positive_image_patches(sample, size=size, stride_px=stride_px, load_mask=load_mask)
    return patches


def _starts(length: int, size: int, stride_px: int) -> list[int]:
    """Where patches begin along one side."""
    last = max(length - size, 0)
    return [*range(0, last, stride_px), last]


def _mirrored(start: int, count: int, length: int) -> np.ndarray:
    """Indices into `length` pixels for the `count` from `start` on, mirrored at both ends as often as needed."""
    period = max(2 * (length - 1), 1)  # a single pixel has only itself to show
    phase = np.arange(start, start + count) % period
    return np.minimum(phase, period - phase)


def _at(sample: Sample, window: Window) -> Sample:
    return dataclasses.replace(sample, id=f"{sample.id}@{window.top},{window.left}", window=window)


def _positive_image_patches(
    sample: Sample, *, size: tuple[int, int], stride_px: int, load_mask: Callable[[Sample], np.ndarray]
) -> list[Sample]:
    mask = load_mask(sample)
    masks_of_classes = [load_mask(dataclasses.replace(sample, mask=mask)) for _, mask in sample.class_masks]
    patches = []
    for window in windows(*mask.shape, size=size, stride_px=stride_px):
        part = cut(mask, window)
        if not (part >= 0.5).any():
            # Of a soft mask, what is below 0.5 stays a target; a mask that is all zero here need not be read again.
            kept = sample.mask if part.any() else None
            patches.append(dataclasses.replace(_at(sample, window), mask=kept, label=0, classes=(), class_masks=()))
            continue
        shown = tuple(
            entry
            for entry, class_mask in zip(sample.class_masks, masks_of_classes, strict=True)
            if (cut(class_mask, window) >= 0.5).any()
        )
        classes = tuple(name for name, _ in shown) if sample.class_masks else sample.classes
        patches.append(dataclasses.replace(_at(sample, window), classes=classes, class_masks=shown))
    return patches
