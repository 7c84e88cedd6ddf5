"""The pictures of a report's gallery: small JPEGs of an image with and without its probability map, and outlines."""

import base64
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from jaxdefect.data.annotation import load_mask
from jaxdefect.data.images import read_image, resize_image
from jaxdefect.inference.evaluation import GalleryEntry
from jaxdefect.overlay import map_to_image_size
from jaxdefect.types import Sample

_MAX_AREA_PX = 220_000
_MAX_SIDE_PX = 1200
_MAP_COLOR = np.array([255, 45, 20], np.float32)  # red is the colour that neither steel nor ceramics have
_MAP_OPACITY = 0.7
_MAX_OUTLINES = 100
_WIDE_RATIO = 3


class Map(NamedTuple):
    """A map [h, w] to show, in [0, 1], with its `stride` as `overlay.map_to_image_size` takes it, and the probability
    from which a pixel counts as defective.
    """

    probability: np.ndarray
    stride: int
    pixel_threshold: float


class Overlay(NamedTuple):
    """An image with a map over it as a data URI, and the SVG path around the pixels from the threshold on."""

    picture: str
    found: str


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is to see of one image: data URIs of JPEGs of one shape, `width` x `height`, and SVG paths in a box of it.

    `outline` is that of the annotation, empty where there is none. `is_masked`: the annotation of pixels is known.
    """

    image: str
    overlays: tuple[Overlay, ...]
    outline: str
    is_masked: bool
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Card:
    """One image of the gallery, ready for the template.

    `verdict`: "missed", "false_alarm" or "correct". `iou`: of the annotation and the pixels found, None without either.
    `mask_rank`: from 0, of the images with the worst masks; None for the others.
    """

    id: str
    label: int
    score: float
    is_predicted: bool
    verdict: str
    iou: float | None
    mask_rank: int | None
    pictures: Pictures


def card(
    entry: GalleryEntry,
    *,
    num_channels: int,
    pixel_threshold: float,
    picture_bytes: int,
    mask_rank: int | None = None,
) -> Card:
    """Reads the entry's image and annotation again, and draws both pictures.

    Args:
      entry: from an evaluation.
      num_channels: 1 to show the image in gray, 3 in colour.
      pixel_threshold: a pixel is defective from this probability on.
      picture_bytes: the most that one JPEG may have.
      mask_rank: goes into the card.

    Raises:
      InputError: the image or mask cannot be read.
    """
    sample = entry.sample
    shown = Map(entry.probability.astype(np.float32) / 255, entry.stride, pixel_threshold)
    return Card(
        id=sample.id,
        label=sample.label,
        score=entry.score,
        is_predicted=entry.is_predicted,
        verdict=entry.verdict,
        iou=entry.iou if sample.label else None,
        mask_rank=mask_rank,
        pictures=draw(sample, [shown], num_channels=num_channels, picture_bytes=picture_bytes),
    )


def draw(sample: Sample, maps: Sequence[Map], *, num_channels: int, picture_bytes: int) -> Pictures:
    """Reads a sample's image and annotation, and draws the image alone and under each map.

    Args:
      sample: what to show.
      maps: of any sizes.
      num_channels: 1 to show the image in gray, 3 in colour.
      picture_bytes: the most that one JPEG may have.

    Raises:
      InputError: the image or mask cannot be read.
    """
    full = read_image(sample.image, num_channels=num_channels)
    height, width = _thumbnail_size(*full.shape[:2])
    image = np.broadcast_to(resize_image(full, height, width) * 255, (height, width, 3))
    mask = load_mask(sample, height=full.shape[0], width=full.shape[1])
    overlays = []
    for shown in maps:
        probability = map_to_image_size(shown.probability, height, width, stride=shown.stride)
        picture = jpeg_uri(blend(image, probability), max_bytes=picture_bytes)
        found = outline(probability >= shown.pixel_threshold, height=height, width=width)
        overlays.append(Overlay(picture, found))
    return Pictures(
        image=jpeg_uri(image, max_bytes=picture_bytes),
        overlays=tuple(overlays),
        outline=outline(mask, height=height, width=width),
        is_masked=sample.mask is not None or not sample.label,
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


def layout(pictures: Sequence[Pictures]) -> Literal["wide", "compact"]:
    """How a gallery is laid out: "wide", a card a row, for long strips."""
    ratios = [each.width / each.height for each in pictures]
    return "wide" if ratios and float(np.median(ratios)) > _WIDE_RATIO else "compact"


def data_uri(data: bytes, *, mime: str) -> str:
    """Bytes as a `data:` URI, so that a page needs no other file."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _thumbnail_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, math.sqrt(_MAX_AREA_PX / (height * width)), _MAX_SIDE_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def jpeg_uri(image: np.ndarray, *, max_bytes: int) -> str:
    """An RGB image [H, W, 3] in [0, 255] as a JPEG of at most `max_bytes`: first the quality goes down, then the size.

    A JPEG of one pixel has some 600 bytes; `max_bytes` below that is not kept to.
    """
    pixels = np.ascontiguousarray(np.clip(np.round(image), 0, 255).astype(np.uint8)[..., ::-1])
    while True:
        for quality in (85, 70, 50):
            is_encoded, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if not is_encoded:
                raise ValueError(f"OpenCV cannot encode a picture of shape {pixels.shape}")
            if data.size <= max_bytes or pixels.shape[:2] == (1, 1):
                return data_uri(data.tobytes(), mime="image/jpeg")
        pixels = resize_image(pixels, max(1, pixels.shape[0] * 3 // 4), max(1, pixels.shape[1] * 3 // 4))
