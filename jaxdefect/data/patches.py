"""Overlapping patches of an image: where they lie, their pixels, their samples, and their maps put together again."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxdefect.data import images
from jaxdefect.types import Sample, Window


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
    if not 1 <= stride_px <= min(size):
        raise ValueError(f"a stride of {stride_px} px: must be between 1 and the shorter side of the patch, {size}")
    tops, lefts = (_starts(*sides, stride_px) for sides in zip((height, width), size, strict=True))
    return [Window(top, left, *size) for top in tops for left in lefts]


def cut(array: np.ndarray, window: Window) -> np.ndarray:
    """The pixels of a window; where it reaches beyond the image, the image is mirrored (the edge pixel not repeated).

    Args:
      array: [H, W] or [H, W, C].
      window: any part of the plane; the mirror images repeat as often as it takes.

    Returns:
      [height, width] or [height, width, C]; a view of `array` where the window lies inside.
    """
    top, left, height, width = window
    is_inside = top >= 0 and left >= 0 and top + height <= array.shape[0] and left + width <= array.shape[1]
    if is_inside:
        return array[top : top + height, left : left + width]
    rows, columns = _mirrored(top, height, array.shape[0]), _mirrored(left, width, array.shape[1])
    return array[rows[:, None], columns]


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


def blend(values: np.ndarray, windows: Sequence[Window], *, height: int, width: int, stride: int) -> np.ndarray:
    """The map of a whole image from the maps of its overlapping patches.

    Where patches overlap, their values are averaged with weights that fall linearly from a patch's middle to its
    border, where it knows least of the surroundings: no seam shows. Where they agree, the result is their value. A
    patch that begins between two cells of the image's map is shared out to them by the area it covers of each.

    Args:
      values: [N, h, w], the maps of N patches; a cell stands for `stride` x `stride` pixels.
      windows: of the N patches, h * stride by w * stride pixels each.
      height: of the image.
      width: of the image.
      stride: pixels per cell.

    Returns:
      [ceil(height / stride), ceil(width / stride)] float32, within the range of `values`.

    Raises:
      ValueError: `values` and `windows` do not fit, or no patch covers some part of the image.
    """
    num_patches, map_height, map_width = values.shape
    expected = (map_height * stride, map_width * stride)
    if num_patches != len(windows) or any((window.height, window.width) != expected for window in windows):
        raise ValueError(f"maps of shape {values.shape} need {num_patches} windows of {expected} px, not {windows}")
    # In float64, so that values in [0, 1] stay there when they come back to float32.
    total = np.zeros((-(-height // stride), -(-width // stride)))
    weight = np.zeros(total.shape)
    row_weights, column_weights = _falling_weights(map_height), _falling_weights(map_width)
    patch_weights = np.outer(row_weights, column_weights)
    for patch, window in zip(values, windows, strict=True):
        (first_row, row_offset), (first_column, column_offset) = divmod(window.top, stride), divmod(window.left, stride)
        spread = _spread(_spread(patch * patch_weights, row_offset / stride).T, column_offset / stride).T
        shares = np.outer(_spread(row_weights, row_offset / stride), _spread(column_weights, column_offset / stride))
        rows, patch_rows = _overlap(first_row, map_height + 1, total.shape[0])
        columns, patch_columns = _overlap(first_column, map_width + 1, total.shape[1])
        total[rows, columns] += spread[patch_rows, patch_columns]
        weight[rows, columns] += shares[patch_rows, patch_columns]
    if not weight.all():
        row, column = np.argwhere(weight == 0)[0]
        raise ValueError(f"no window covers cell ({row}, {column}) of the map: a smaller stride between them is needed")
    return (total / weight).astype(np.float32)


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


def _falling_weights(count: int) -> np.ndarray:
    """Weights of a row of cells by the distance of a cell's middle to the nearer end, [count] float64."""
    middle = np.arange(count) + 0.5
    return np.minimum(middle, count - middle)


def _spread(values: np.ndarray, fraction: float) -> np.ndarray:
    """Patch cells [n, ...] shared out to the n + 1 image cells they touch when shifted by a fraction of a cell."""
    spread = np.zeros((len(values) + 1, *values.shape[1:]))
    spread[:-1] = (1 - fraction) * values
    spread[1:] += fraction * values
    return spread


def _overlap(first: int, count: int, length: int) -> tuple[slice, slice]:
    """Of `count` cells from `first` on: which of `length` cells they are, and which of their own those are."""
    begin, end = max(first, 0), min(first + count, length)
    return slice(begin, end), slice(begin - first, end - first)
