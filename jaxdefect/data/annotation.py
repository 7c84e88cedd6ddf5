"""From a sample's annotation to training targets: masks, run lengths, dilation, distance weights, reduction to 1/8."""

from typing import Literal

import cv2
import numpy as np

from jaxdefect.data import images
from jaxdefect.types import InputError, RunLengthMask, Sample

REDUCTION = 8  # the networks' output resolution relative to their input
_WINDOW = 2 * REDUCTION + 1


def load_mask(sample: Sample, *, height: int, width: int) -> np.ndarray:
    """The sample's mask as [height, width] uint8 in {0, 1}, 1 wherever the stored mask is above 0.

    A sample without a mask gives zeros: that is the truth for a negative, and for a positive the caller knows from
    `sample.mask is None` that its pixels are unlabelled.

    Args:
      sample: the sample whose mask is wanted.
      height: height of the sample's image as stored.
      width: its width.

    Raises:
      InputError: the mask's file cannot be read, or the mask is of another size than the image.
    """
    if sample.mask is None:
        return np.zeros((height, width), np.uint8)
    if isinstance(sample.mask, RunLengthMask):
        return decode_runs(sample.mask, height=height, width=width)
    pixels = images.decode(sample.mask, flags=cv2.IMREAD_UNCHANGED)
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"{sample.mask}: the mask is {pixels.shape[0]} x {pixels.shape[1]} (height x width) but its image "
            f"{sample.image} is {height} x {width}; they must agree"
        )
    is_defect = pixels > 0 if pixels.ndim == 2 else (pixels[..., :3] > 0).any(axis=-1)  # a fourth channel is alpha
    return np.asarray(is_defect, np.uint8)


def decode_runs(mask: RunLengthMask, *, height: int, width: int) -> np.ndarray:
    """Run lengths (start 1-based, pixels counted column by column) as [height, width] uint8 in {0, 1}.

    Raises:
      InputError: a run leaves the image.
    """
    flat = np.zeros(height * width, np.uint8)
    for start, length in mask.runs:
        if start < 1 or length < 1 or start + length - 1 > flat.size:
            raise InputError(
                f"{mask.source}: the run {start} {length} leaves the image of {height} x {width} = {flat.size} pixels "
                "(pixels count from 1, down the columns)"
            )
        flat[start - 1 : start - 1 + length] = 1
    return np.ascontiguousarray(flat.reshape(height, width, order="F"))


def encode_runs(mask: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The (start, length) runs of a mask [H, W], start 1-based, column by column: the inverse of `decode_runs`."""
    is_defect = np.concatenate([[False], mask.flatten(order="F") > 0, [False]])
    edges = np.flatnonzero(is_defect[1:] != is_defect[:-1])
    return tuple((int(start) + 1, int(end - start)) for start, end in edges.reshape(-1, 2))


def dilate(mask: np.ndarray, *, side_px: int, shape: Literal["square", "ellipse"]) -> np.ndarray:
    """Dilates a mask [H, W] uint8 by a structuring element of side `side_px`; 0 and 1 leave it as it is."""
    if side_px <= 1:
        return mask
    kind = {"square": cv2.MORPH_RECT, "ellipse": cv2.MORPH_ELLIPSE}[shape]
    return cv2.dilate(mask, cv2.getStructuringElement(kind, (side_px, side_px)))


def distance_weights(
    mask: np.ndarray, *, power: float, maximum: float, scope: Literal["image", "component"]
) -> np.ndarray:
    """Pixel weights that grow from the defect's edge to its middle: maximum * (D / max D) ** power inside, 1 outside.

    D is the exact Euclidean distance to the nearest pixel outside the defect.

    Args:
      mask: [H, W] in {0, 1}.
      power: p, how fast the weight falls towards the edge.
      maximum: w_max, the weight in the middle; 0 switches the weights off (all 1).
      scope: take max D over the image, or over each connected component (8 neighbours) by itself.

    Returns:
      [H, W] float32.

    References:
      Božič, Tabernik, Skočaj: Mixed supervision for surface-defect detection (2021); "image" is theirs.
    """
    if maximum == 0:
        return np.ones(mask.shape, np.float32)
    is_defect = mask > 0
    if is_defect.all():  # no edge to measure from: the whole image is middle
        return np.full(mask.shape, maximum, np.float32)
    distance = cv2.distanceTransform(is_defect.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    largest = np.full(1, distance.max())
    labels = np.zeros(mask.shape, np.int32)
    if scope == "component":
        count, components = cv2.connectedComponents(is_defect.astype(np.uint8), connectivity=8)
        labels = components.astype(np.int32, copy=False)
        largest = np.zeros(count, np.float32)
        np.maximum.at(largest, labels, distance)
    weights = np.ones(mask.shape, np.float32)
    weights[is_defect] = maximum * (distance[is_defect] / largest[labels[is_defect]]) ** power
    return weights


def reduce_by_8(values: np.ndarray) -> np.ndarray:
    """Averages a map [H, W] over 17 x 17 windows centred on every eighth pixel, the borders mirrored.

    Returns:
      [H / 8, W / 8] float32.

    Raises:
      ValueError: H or W is not a multiple of 8.
    """
    if values.shape[0] % REDUCTION or values.shape[1] % REDUCTION:
        raise ValueError(f"a map of shape {values.shape} cannot be reduced by {REDUCTION}")
    # OpenCV sums float32 in float64, so a long running sum loses nothing.
    averages = cv2.boxFilter(
        values.astype(np.float32), cv2.CV_32F, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT_101
    )
    return np.ascontiguousarray(averages[::REDUCTION, ::REDUCTION])


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [H, W] uint8 in {0, 1} at another size: 1 where at least half of the pixel's area is defect.

    A defect so thin that nothing of it would be left is kept wherever it touches a pixel.
    """
    if mask.shape == (height, width):
        return mask
    is_smaller = height < mask.shape[0] or width < mask.shape[1]
    covered = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    )
    resized = (covered >= 0.5).astype(np.uint8)
    return resized if resized.any() else (covered > 0).astype(np.uint8)
