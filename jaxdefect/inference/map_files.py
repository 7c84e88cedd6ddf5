"""Map and overlay files of images of any size, written band by band."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from jaxdefect import overlay
from jaxdefect.data.images import to_unit_range, write_image
from jaxdefect.data.sources import ImageSource
from jaxdefect.inference.pixel_map import PixelMap
from jaxdefect.inference.records import whole_file
from jaxdefect.types import Window

MapFormat = Literal["png16", "npy", "tiff"]
MAP_SUFFIXES: dict[MapFormat, str] = {"png16": ".png", "npy": ".npy", "tiff": ".tiff"}
LARGEST_OVERLAY_PX = 4096  # its longer side; a larger image is shown reduced

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COMPRESSION = 1  # maps are smooth: more effort gains little


def write_map(path: Path, pixel_map: PixelMap, *, map_format: MapFormat) -> None:
    """Writes a map at the image's size, whole or not at all: a 16-bit PNG (65535 for 1), or float32 NPY or TIFF.

    Raises:
      InputError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        _WRITERS[map_format](temporary, pixel_map)


def write_overlay(path: Path, source: ImageSource, pixel_map: PixelMap, *, threshold: float) -> None:
    """Writes the image with its map over it; reduced if it is larger than `LARGEST_OVERLAY_PX`.

    In a reduced overlay gray is averaged, and of the map the largest value is shown, so that no defect disappears.

    Raises:
      InputError: the file cannot be written, or the image cannot be read.
    """
    height, width = pixel_map.height, pixel_map.width
    factor = -(-max(height, width) // LARGEST_OVERLAY_PX)
    grays, maps = [], []
    step = factor * max(1, 2**20 // (width * factor))
    for start in range(0, height, step):
        stop = min(start + step, height)
        gray = overlay.to_gray_uint8(to_unit_range(source.read(Window(start, 0, stop - start, width))))
        grays.append(_blocks(gray, factor).mean(axis=(1, 3)).round().astype(np.uint8) if factor > 1 else gray)
        band = pixel_map.rows(start, stop)
        maps.append(_blocks(band, factor).max(axis=(1, 3)) if factor > 1 else band)
    backdrop = np.concatenate(grays)[..., None]
    write_image(path, overlay.overlay(backdrop, np.concatenate(maps), threshold=threshold))


def _blocks(pixels: np.ndarray, factor: int) -> np.ndarray:
    """[h, w] as blocks [h / factor, factor, w / factor, factor], the last ones filled up with their edge."""
    height, width = pixels.shape
    filled = np.pad(pixels, ((0, -height % factor), (0, -width % factor)), mode="edge")
    return filled.reshape(-(-height // factor), factor, -(-width // factor), factor)


def _write_png(path: Path, pixel_map: PixelMap) -> None:
    """A gray 16-bit PNG, of which OpenCV could only write a whole one."""
    compressor = zlib.compressobj(_COMPRESSION)
    with open(path, "wb") as file:
        file.write(_PNG_SIGNATURE)
        file.write(_png_chunk(b"IHDR", struct.pack(">IIBBBBB", pixel_map.width, pixel_map.height, 16, 0, 0, 0, 0)))
        for _, band in pixel_map.bands():
            levels = np.rint(np.clip(band, 0, 1) * np.float32(65535)).astype(">u2").view(np.uint8)
            # Filter 1: of each byte the difference to that of the pixel before; its number stands before the row.
            rows = np.ones((len(levels), 1 + levels.shape[1]), np.uint8)
            rows[:, 1:3] = levels[:, :2]
            np.subtract(levels[:, 2:], levels[:, :-2], out=rows[:, 3:])
            file.write(_png_chunk(b"IDAT", compressor.compress(rows.tobytes())))
        file.write(_png_chunk(b"IDAT", compressor.flush()))
        file.write(_png_chunk(b"IEND", b""))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _write_npy(path: Path, pixel_map: PixelMap) -> None:
    with open(path, "wb") as file:
        shape = (pixel_map.height, pixel_map.width)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _, band in pixel_map.bands():
            file.write(np.ascontiguousarray(band, "<f4").tobytes())


def _write_tiff(path: Path, pixel_map: PixelMap) -> None:
    rows = max(1, 2**18 // pixel_map.width)

    def strips() -> Iterator[bytes]:
        for start in range(0, pixel_map.height, rows):
            band = pixel_map.rows(start, min(start + rows, pixel_map.height))
            yield zlib.compress(np.ascontiguousarray(band, "<f4").tobytes(), _COMPRESSION)

    tifffile.imwrite(
        path,
        strips(),
        shape=(pixel_map.height, pixel_map.width),
        dtype=np.float32,
        byteorder="<",
        photometric="minisblack",
        compression="zlib",
        rowsperstrip=rows,
        metadata=None,
        bigtiff=4 * pixel_map.height * pixel_map.width > 2**31,
    )


_WRITERS = {"png16": _write_png, "npy": _write_npy, "tiff": _write_tiff}
