"""What a person looks at: probability maps at image size, laid over the image, and validation strips.

NumPy and OpenCV only, so that training and inference can both draw.
"""

import cv2
import numpy as np

# The strongest blend of the colour over the gray image: the surface stays visible under a certain defect.
_MAX_OPACITY = 0.7
# Green does not occur in the inferno map nor in a gray image: the contour stands out on both.
_CONTOUR_RGB = (0, 255, 96)
_SEPARATOR_PX = 4
_BAND_PX = 256


def map_to_image_size(probability: np.ndarray, height: int, width: int, *, stride: int = 8) -> np.ndarray:
    """Brings a map from the network's output resolution to an image's size, pixel over pixel.

    The training target of cell i is the mask averaged over 17 pixels around input pixel 8 i (a reflect padding of 8,
    then windows of 17 at stride 8), so cell i stands at pixel 8 i and not at 8 i + 3.5, where an ordinary resize would
    put it. This interpolates linearly with that alignment; a map at stride 1 is resized as usual.

    Args:
      probability: [h, w] float32.
      height: of the image, in pixels.
      width: of the image, in pixels.
      stride: network input pixels per map cell.

    Returns:
      [height, width] float32, within the range of `probability`.
    """
    (num_rows, num_columns) = probability.shape
    rows, row_fraction = taps(num_rows, cell_px=height / num_rows, stride=stride, pixels=range(height))
    columns, column_fraction = taps(num_columns, cell_px=width / num_columns, stride=stride, pixels=range(width))
    return interpolate(probability, rows, row_fraction, columns, column_fraction)


Taps = tuple[np.ndarray, np.ndarray]


def taps(num_cells: int, *, cell_px: float, stride: int, pixels: range) -> tuple[Taps, np.ndarray]:
    """Along one side, for every pixel of `pixels` the two cells it lies between, and the weight [n] of the second.

    Args:
      num_cells: of the whole side.
      cell_px: pixels per cell.
      stride: as `map_to_image_size` takes it.
      pixels: which ones.
    """
    position = (np.arange(pixels.start, pixels.stop) + 0.5) / cell_px - 0.5 / stride
    position = np.clip(position, 0, num_cells - 1)
    lower = position.astype(np.intp)
    upper = np.minimum(lower + 1, num_cells - 1)
    return (lower, upper), (position - lower).astype(np.float32)


def interpolate(
    cells: np.ndarray, rows: Taps, row_fraction: np.ndarray, columns: Taps, column_fraction: np.ndarray
) -> np.ndarray:
    """Pixels [n, m] between cells [h, w], as `taps` says for either side."""
    left, right = cells[:, columns[0]], cells[:, columns[1]]
    wide = left + column_fraction * (right - left)
    top, bottom = wide[rows[0]], wide[rows[1]]
    return top + row_fraction[:, None] * (bottom - top)


def overlay(image: np.ndarray, probability: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """The image in gray with the defect map in colour over it and a contour where the map reaches the threshold.

    The colour (inferno, perceptually uniform) and its opacity both grow with the probability: where the map is zero,
    the image is seen as it is.

    Args:
      image: [H, W, C] with C = 1 or 3 (RGB); float32 in [0, 1] or uint8.
      probability: [H, W] float32 in [0, 1], at image size.
      threshold: the probability at which the contour is drawn.

    Returns:
      [H, W, 3] uint8, RGB.
    """
    height, width = image.shape[:2]
    blended = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, _BAND_PX):  # what is computed in float32 takes many times the memory of the result
        band = slice(start, start + _BAND_PX)
        blended[band] = _blend(image[band], probability[band])
    contours, _ = cv2.findContours((probability >= threshold).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(blended, contours, -1, _CONTOUR_RGB, thickness=1 + min(height, width) // 512)
    return blended


def _blend(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    level = np.clip(np.rint(probability * 255), 0, 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = (_MAX_OPACITY * np.clip(probability, 0, 1)).astype(np.float32)[..., None]
    backdrop = cv2.cvtColor(to_gray_uint8(image), cv2.COLOR_GRAY2RGB)
    return np.rint(backdrop + opacity * (colour.astype(np.float32) - backdrop)).astype(np.uint8)


def validation_strip(
    image: np.ndarray, mask: np.ndarray, probability: np.ndarray, *, threshold: float = 0.5, stride: int = 8
) -> np.ndarray:
    """Image, annotation and predicted map in one picture: side by side for a tall image, stacked for a wide one.

    Args:
      image: [H, W, C] with C = 1 or 3; float32 in [0, 1] or uint8.
      mask: [h, w] or [h, w, 1] in [0, 1], at the network's output resolution or at image size.
      probability: [h, w] or [h, w, 1] in [0, 1], likewise.
      threshold: where the contours are drawn in the map.
      stride: of both, as `map_to_image_size` takes it.

    Returns:
      [3 H + 8, W, 3] or [H, 3 W + 8, 3] uint8, RGB.
    """
    height, width = image.shape[:2]
    gray = cv2.cvtColor(to_gray_uint8(image), cv2.COLOR_GRAY2RGB)
    annotation, prediction = (
        overlay(
            image,
            map_to_image_size(_two_dimensional(plane).astype(np.float32), height, width, stride=stride),
            threshold=threshold,
        )
        for plane in (mask, probability)
    )
    axis = 1 if height >= width else 0
    line_shape = (height, _SEPARATOR_PX, 3) if axis == 1 else (_SEPARATOR_PX, width, 3)
    line = np.full(line_shape, 255, np.uint8)
    return np.concatenate([gray, line, annotation, line, prediction], axis=axis)


def to_gray_uint8(image: np.ndarray) -> np.ndarray:
    """[H, W, C] image, C = 1 or 3 (RGB), float in [0, 1] or uint8, as [H, W] uint8 gray."""
    gray = image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return gray if gray.dtype == np.uint8 else np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)


def _two_dimensional(plane: np.ndarray) -> np.ndarray:
    return plane[..., 0] if plane.ndim == 3 else plane
