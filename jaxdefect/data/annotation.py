"""From a sample's annotation to training targets: masks of every kind, dilation, distance weights, reduction to 1/8.

A mask is [H, W], hard (uint8 in {0, 1}) or soft (float32 in [0, 1], how surely a pixel is defective); the type tells
which. Everything here takes both.
"""

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from jaxdefect.data import area, images, shapes
from jaxdefect.types import InputError, Mask, MaskFile, RunLengthMask, Sample, ShapeMask

REDUCTION = 8  # the networks' output resolution relative to their input
_WINDOW = 2 * REDUCTION + 1
_HALF = 0.5 - 1e-6  # of a pixel's area: rounding must not decide where half of it is a defect


def load_mask(sample: Sample, *, height: int, width: int) -> np.ndarray:
    """The sample's mask as [height, width], uint8 in {0, 1}, or float32 in [0, 1] where the mask is a soft one.

    A sample without a mask gives zeros: that is the truth for a negative, and for a positive the caller knows from
    `sample.mask is None` that its pixels are unlabelled. The mask is the whole image's, whatever `sample.window` is.

    Args:
      sample: the sample whose mask is wanted.
      height: height of the sample's image as stored.
      width: its width.

    Raises:
      InputError: the mask's file cannot be read, the mask is of another size than the image, or a run or shape lies
        outside it.
    """
    mask = sample.mask
    if mask is None:
        return np.zeros((height, width), np.uint8)
    if isinstance(mask, RunLengthMask):
        return decode_runs(mask, height=height, width=width)
    if isinstance(mask, ShapeMask):
        return shapes.draw(mask, height=height, width=width)
    file = MaskFile(mask) if isinstance(mask, Path) else mask
    pixels = _read_mask_file(file)
    if pixels.shape != (height, width):
        raise InputError(
            f"{file.path}: the mask is {pixels.shape[0]} x {pixels.shape[1]} (height x width) but its image "
            f"{sample.image} is {height} x {width}; they must agree"
        )
    return pixels


def _read_mask_file(file: MaskFile) -> np.ndarray:
    if file.path.suffix.lower() == ".mat":
        return np.asarray(_read_segmentation(file.path) > file.above, np.uint8)
    if file.is_soft:
        return images.read_image(file.path, num_channels=1)[..., 0]
    pixels = images.decode(file.path, flags=cv2.IMREAD_UNCHANGED)
    # With a whole number integers are compared as they are, not converted.
    above = math.floor(file.above) if np.issubdtype(pixels.dtype, np.integer) else file.above
    # A fourth channel is alpha.
    is_defect = pixels > above if pixels.ndim == 2 else (pixels[..., :3] > above).any(axis=-1)
    return np.asarray(is_defect).view(np.uint8)


def _read_segmentation(path: Path) -> np.ndarray:
    """`groundTruth.Segmentation` of a MATLAB file, as CrackForest and the Berkeley segmentation data have it."""
    try:
        pixels = scipy.io.loadmat(path, simplify_cells=True)["groundTruth"]["Segmentation"]
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        NotImplementedError,
        MatReadError,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path}: no MATLAB file (up to version 7.2) with groundTruth.Segmentation in it: "
            f"{type(error).__name__}: {error}; copy the file again"
        ) from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.dtype.kind not in "biuf":
        raise InputError(f"{path}: groundTruth.Segmentation is not a matrix of numbers; copy the file again")
    return pixels


def source_of(mask: Mask) -> str:
    """Where a mask stands, for messages."""
    if isinstance(mask, Path):
        return str(mask)
    return str(mask.path) if isinstance(mask, MaskFile) else mask.source


def of_class(sample: Sample, name: str) -> Sample:
    """The sample as a model for the defects of one class sees it: every other image is good.

    An image with defects of this class has label 1 and their mask, any other label 0 and no mask.

    Raises:
      InputError: the image is defective but its classes are not known, or it has several and their masks are not known
        apart.
    """
    if sample.label and not sample.classes:
        raise InputError(f"{sample.image}: defective, but of no known class, so a model for {name!r} cannot use it")
    if name not in sample.classes:
        return dataclasses.replace(sample, mask=None, label=0, classes=(), class_masks=())
    masks = dict(sample.class_masks)
    if name not in masks and sample.mask is not None and len(sample.classes) > 1:
        raise InputError(
            f"{sample.image}: has defects of the classes {', '.join(sample.classes)} and one mask "
            f"({source_of(sample.mask)}) for all of them, so the part of {name!r} is not known; give a mask per class, "
            "or list this image without its mask"
        )
    return dataclasses.replace(sample, mask=masks.get(name, sample.mask), classes=(name,), class_masks=())


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


def coarsen(mask: np.ndarray, *, kind: Literal["mask", "box", "rotated_box"]) -> np.ndarray:
    """Fills every connected defect (8 neighbours) of a mask [H, W] to its box, as a hurried annotator would draw it.

    "box": upright; "rotated_box": the smallest at any angle, and never less than the defect; "mask": as it is. The box
    of a soft mask takes the largest value in it; where boxes overlap the larger value stays.

    References:
      Tabernik et al. 2019, "Required precision of the annotation": "big" and "coarse".
    """
    if kind == "mask":
        return mask
    count, components = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)
    result = mask.copy()
    for label in range(1, count):
        component = (components == label).astype(np.uint8)
        filled = np.zeros(mask.shape, np.uint8)
        if kind == "box":
            left, top, width, height = cv2.boundingRect(component)
            filled[top : top + height, left : left + width] = 1
        else:
            corners = cv2.boxPoints(cv2.minAreaRect(cv2.findNonZero(component)))
            cv2.fillConvexPoly(filled, np.round(corners).astype(np.int32), 1)
        result = np.maximum(result, filled * mask[component > 0].max())
    return result


def dilate(mask: np.ndarray, *, side_px: int, shape: Literal["square", "ellipse"]) -> np.ndarray:
    """Dilates a mask [H, W] by a structuring element of side `side_px`; 0 and 1 leave it as it is.

    A pixel of a soft mask takes the largest value under the element.
    """
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
      mask: [H, W], inside a defect where above 0.
      power: p, how fast the weight falls towards the edge.
      maximum: w_max, the weight in the middle; 0 switches the weights off (all 1).
      scope: take max D over the image, or over each connected component (8 neighbours) by itself.

    Returns:
      [H, W] float32.

    References:
      Božič, Tabernik, Skočaj: Mixed supervision for surface-defect detection (2021); "image" is theirs.
    """
    weights = np.ones(mask.shape, np.float32)
    left, top, width, height = cv2.boundingRect((mask > 0).view(np.uint8))
    if maximum == 0 or width == 0:
        return weights
    # The nearest pixel outside is never farther out than the ring around the defects' box.
    box = np.s_[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1]
    is_defect = mask[box] > 0
    if is_defect.all():  # no edge to measure from: the whole image is middle
        return np.full(mask.shape, maximum, np.float32)
    distance = cv2.distanceTransform(is_defect.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[is_defect]
    # OpenCV's last bit changes from call to call; the square of a distance between pixels is a whole number.
    distance = np.sqrt(np.rint(np.square(distance, dtype=np.float64))).astype(np.float32)
    largest = distance.max()
    if scope == "component":
        count, components = cv2.connectedComponents(is_defect.view(np.uint8), connectivity=8)
        labels = components[is_defect].astype(np.int32, copy=False)
        of_label = np.zeros(count, np.float32)
        np.maximum.at(of_label, labels, distance)
        largest = of_label[labels]
    weights[box][is_defect] = maximum * (distance / largest) ** power
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
    averages = np.full((values.shape[0] // REDUCTION, values.shape[1] // REDUCTION), values[0, 0], np.float32)
    left, top, width, height = cv2.boundingRect((values != values[0, 0]).view(np.uint8))
    if width == 0:
        return averages
    # Most maps are constant but for a box. Two more steps around it, and a mirror at its border shows the constant.
    bounds = tuple(
        slice(max(start // REDUCTION - 2, 0), -(-(start + size) // REDUCTION) + 2)
        for start, size in ((top, height), (left, width))
    )
    box = tuple(slice(REDUCTION * bound.start, REDUCTION * bound.stop) for bound in bounds)
    # OpenCV sums float32 in float64, so a long running sum loses nothing.
    filtered = cv2.boxFilter(
        values[box].astype(np.float32), cv2.CV_32F, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT_101
    )
    averages[bounds] = filtered[::REDUCTION, ::REDUCTION]
    return averages


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [H, W] at another size, of the same type.

    A hard mask is 1 where at least half of the pixel's area is defect, and a defect so thin that nothing of it would be
    left is kept wherever it touches a pixel. A soft mask is averaged over the pixel's area.
    """
    if mask.shape == (height, width):
        return mask
    result = np.zeros((height, width), mask.dtype)
    if not mask.any():
        return result
    rows = slice(0, height)
    if height <= mask.shape[0] and width <= mask.shape[1]:  # computed only where there are defects
        _, top, _, count = cv2.boundingRect((mask != 0).view(np.uint8))
        rows = slice(top * height // mask.shape[0], -(-(top + count) * height // mask.shape[0]))
        covered = area.shrink(mask, height, width, rows=rows)
    else:
        is_smaller = height < mask.shape[0] or width < mask.shape[1]
        way = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=way)
    if mask.dtype != np.uint8:
        result[rows] = np.clip(covered, 0.0, 1.0)
    else:
        is_defect = covered >= _HALF
        result[rows] = is_defect if is_defect.any() else covered > 0
    return result
