"""The pictures of a report's gallery: small JPEGs of an image with and without its probability map, and outlines."""

import base64
import dataclasses
import math

import cv2
import numpy as np

from jaxdefect.data.annotation import load_mask
from jaxdefect.data.images import read_image, resize_image
from jaxdefect.inference.evaluation import GalleryEntry
from jaxdefect.overlay import map_to_image_size

# Two pictures of every image must fit in a report of 20 MB: 72 images x 2 x 60 kB x 4/3 (base64) = 11.5 MB.
_MAX_PICTURE_BYTES = 60_000
_MAX_AREA_PX = 220_000
_MAX_SIDE_PX = 1200
_MAP_COLOR = np.array([255, 45, 20], np.float32)  # red is the colour that neither steel nor ceramics have
_MAP_OPACITY = 0.7
_MAX_OUTLINES = 100


@dataclasses.dataclass(frozen=True)
class Card:
    """One image of the gallery, ready for the template.

    `verdict`: "missed", "false_alarm" or "correct". `image` and `overlay` are data URIs of JPEGs of the same shape;
    `outline` is the SVG path of the annotation in a `width` x `height` box, empty where there is none.
    """

    id: str
    label: int
    score: float
    is_predicted: bool
    verdict: str
    is_masked: bool
    image: str
    overlay: str
    outline: str
    width: int
    height: int


def card(entry: GalleryEntry, *, num_channels: int) -> Card:
    """Reads the entry's image and annotation again, and draws both pictures.

    Args:
      entry: from an evaluation.
      num_channels: 1 to show the image in gray, 3 in colour.

    Raises:
      InputError: the image or mask cannot be read.
    """
    sample = entry.sample
    full = read_image(sample.image, num_channels=num_channels)
    height, width = _thumbnail_size(*full.shape[:2])
    image = np.broadcast_to(resize_image(full, height, width) * 255, (height, width, 3))
    mask = load_mask(sample, height=full.shape[0], width=full.shape[1])
    probability = map_to_image_size(entry.probability.astype(np.float32) / 255, height, width, stride=entry.stride)
    return Card(
        id=sample.id,
        label=sample.label,
        score=entry.score,
        is_predicted=entry.is_predicted,
        verdict=entry.verdict,
        is_masked=sample.mask is not None or not sample.label,
        image=_jpeg_uri(image),
        overlay=_jpeg_uri(blend(image, probability)),
        outline=outline(mask, height=height, width=width),
        width=width,
        height=height,
    )


def blend(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """An image [H, W, 3] in [0, 255] with a map [H, W] in [0, 1] laid over it in red, the denser the more probable."""
    opacity = _MAP_OPACITY * probability[..., np.newaxis]
    return image * (1 - opacity) + _MAP_COLOR * opacity


def outline(mask: np.ndarray, *, height: int, width: int) -> str:
    """The outline of a mask [H, W], scaled to height x width, as an SVG path; empty for an empty mask.

    It runs four pixels outside the defect so as not to cover a thin one. Of very many parts the largest 100 are drawn.
    """
    # Area average and "above 0": a defect of one pixel survives being scaled down.
    scaled = resize_image(mask.astype(np.float32), height, width) > 0
    grown = cv2.dilate(scaled.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    contours, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True)[:_MAX_OUTLINES]:
        points = cv2.approxPolyDP(contour, 0.6, True).reshape(-1, 2)
        parts.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(parts)


def data_uri(data: bytes, *, mime: str) -> str:
    """Bytes as a `data:` URI, so that a page needs no other file."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _thumbnail_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, math.sqrt(_MAX_AREA_PX / (height * width)), _MAX_SIDE_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _jpeg_uri(image: np.ndarray) -> str:
    """An RGB image in [0, 255] as a JPEG of at most 60 kB: first the quality goes down, then the size."""
    pixels = np.ascontiguousarray(np.clip(np.round(image), 0, 255).astype(np.uint8)[..., ::-1])
    while True:
        for quality in (85, 70, 50):
            is_encoded, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if not is_encoded:
                raise ValueError(f"OpenCV cannot encode a picture of shape {pixels.shape}")
            if data.size <= _MAX_PICTURE_BYTES:
                return data_uri(data.tobytes(), mime="image/jpeg")
        pixels = resize_image(pixels, max(1, pixels.shape[0] * 3 // 4), max(1, pixels.shape[1] * 3 // 4))
