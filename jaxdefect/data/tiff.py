"""TIFF files read in parts, as stored: OpenCV turns them as a tag says, and multiplies colours by their alpha."""

import contextlib
import importlib.util
import io
import struct
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from jaxdefect.types import InputError, UnreadableImageError, Window

SUFFIXES = (".tif", ".tiff")
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
# What is decoded at speed without the optional package imagecodecs: stored as it is, or deflated.
_OWN_CODECS = (1, 8, 32946)
_PHOTOMETRIC = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
_UNASSOCIATED = tifffile.EXTRASAMPLE.UNASSALPHA  # colours stored as they are, which OpenCV multiplies
# What tifffile and its codecs raise on a file whose bytes are not what its header says.
_BROKEN = (
    tifffile.TiffFileError,
    zlib.error,
    struct.error,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,  # sides that no file of this length can have
    OSError,
)
# How to turn back what OpenCV turned by the tag "Orientation".
_TURNS_BACK: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: np.rot90,
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}


class TiffPixels:
    """The pixels of the first page of an open TIFF or BigTIFF whose strips or tiles can be decoded one by one.

    Decoded strips and tiles are kept until a read that does not touch them: a sweep from top to bottom in overlapping
    bands decodes each of them once, and holds little more than a band.
    """

    def __init__(self, file: tifffile.TiffFile, path: Path):
        self._file, self._path = file, path
        self._page: Any = file.pages[0]
        self.height, self.width = _size(self._page)
        self._decoded: dict[int, np.ndarray] = {}
        weakref.finalize(self, file.close)

    def read(self, window: Window) -> np.ndarray:
        """[height, width] of gray, else [height, width, 3], colours as OpenCV orders them, without alpha.

        Raises:
          InputError: they cannot be decoded.
        """
        try:
            return self._stored(window)
        except _BROKEN as error:
            raise UnreadableImageError(f"{self._path}: broken TIFF ({error}); copy the file again") from error

    def _stored(self, window: Window) -> np.ndarray:
        page = self._page
        dtype = np.dtype(page.dtype)
        shape = (window.height, window.width, page.samplesperpixel)
        if page.is_contiguous and not page.is_tiled:
            pixels = self._rows(window.top, window.height)[:, window.left : window.left + window.width]
        else:
            pixels = np.zeros(shape, dtype)
            self._copy_segments(window, pixels)
        pixels = pixels.astype(dtype, copy=False)  # the machine's own byte order
        return pixels[..., 0] if shape[2] == 1 else pixels[..., 2::-1]

    def _rows(self, first: int, count: int) -> np.ndarray:
        """Rows that stand in the file one after the other, as they are."""
        page, handle = self._page, self._file.filehandle
        row_items = self.width * page.samplesperpixel
        dtype = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        handle.seek(page.dataoffsets[0] + first * row_items * dtype.itemsize)
        data = handle.read(count * row_items * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(count, self.width, page.samplesperpixel)

    def _copy_segments(self, window: Window, pixels: np.ndarray) -> None:
        """Fills `pixels` from the strips or tiles that the window touches."""
        page = self._page
        height, width = page.chunks[:2]
        per_row = -(-self.width // width)
        bottom, right = window.top + window.height, window.left + window.width
        used = {}
        for row in range(window.top // height, -(-bottom // height)):
            for column in range(window.left // width, -(-right // width)):
                index = row * per_row + column
                segment = used[index] = self._decoded[index] if index in self._decoded else self._decode(index)
                top, left = row * height, column * width
                rows = slice(max(window.top, top), min(bottom, top + len(segment)))
                columns = slice(max(window.left, left), min(right, left + segment.shape[1]))
                pixels[_shifted(rows, window.top), _shifted(columns, window.left)] = segment[
                    _shifted(rows, top), _shifted(columns, left)
                ]
        self._decoded = used

    def _decode(self, index: int) -> np.ndarray:
        """One strip or tile, [h, w, samples]."""
        page, handle = self._page, self._file.filehandle
        handle.seek(page.dataoffsets[index])
        segment, _, shape = page.decode(handle.read(page.databytecounts[index]), index)
        return np.zeros(shape[1:], page.dtype) if segment is None else segment[0]


def is_tiff(data: bytes) -> bool:
    """Whether a file that begins so is a TIFF or BigTIFF."""
    return data.startswith(_STARTS)


def open_tiff(file: Path | io.BytesIO, path: Path) -> TiffPixels | None:
    """The pixels of a file, or of its content in memory, if they can be read in parts.

    Else None: OpenCV says then what is wrong, if anything is.

    Args:
      file: what to open.
      path: its name.

    Raises:
      InputError: the file ends before its last pixels.
    """
    with contextlib.ExitStack() as on_failure:
        try:
            opened = on_failure.enter_context(tifffile.TiffFile(file))
            page: Any = opened.pages[0]
            end = max((sum(part) for part in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
            is_readable = _is_readable_in_parts(page) and min(*_size(page), *page.chunks) >= 1
        except _BROKEN:
            return None
        if end > opened.filehandle.size:
            raise InputError(f"{path}: truncated image (TIFF that ends before its last pixels); copy the file again")
        if not is_readable or end == 0:
            return None
        on_failure.pop_all()
        return TiffPixels(opened, path)


def _size(page: Any) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _is_readable_in_parts(page: Any) -> bool:
    has_codec = page.compression in _OWN_CODECS or importlib.util.find_spec("imagecodecs") is not None
    dtype = None if page.dtype is None else np.dtype(page.dtype)
    return (
        has_codec
        and page.predictor in (1, 2)
        and page.fillorder == 1
        and page.planarconfig == 1
        and page.photometric in _PHOTOMETRIC
        and page.samplesperpixel in (1, 3, 4)
        and page.imagedepth == 1
        and dtype in (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
        and dtype is not None
        and page.bitspersample == 8 * dtype.itemsize
    )


def orientation(path: Path) -> int:
    """The tag "Orientation" of a TIFF, 1 to 8; 1 (as stored) where it has none or is broken."""
    try:
        with tifffile.TiffFile(path) as opened:
            page: Any = opened.pages[0]
            return int(page.tags.valueof("Orientation") or 1)
    except _BROKEN:  # whoever reads its pixels says so
        return 1


def as_stored(pixels: np.ndarray, data: bytes, path: Path) -> np.ndarray:
    """What OpenCV made of a TIFF that cannot be read in parts, turned back.

    Args:
      pixels: [H, W] or [H, W, channels].
      data: the file's content.
      path: its name.

    Raises:
      InputError: colours of 8 bit that are partly transparent, which come multiplied by their alpha.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as opened:
            page: Any = opened.pages[0]
            orientation, is_multiplied = page.tags.valueof("Orientation"), _UNASSOCIATED in page.extrasamples
    except _BROKEN:  # OpenCV could read it all the same
        return pixels
    if is_multiplied and pixels.dtype == np.uint8 and pixels.shape[2:] == (4,) and pixels[..., 3].min() < 255:
        raise InputError(
            f"{path}: a TIFF with transparency that cannot be read as stored; save it without, or install imagecodecs"
        )
    turn_back = _TURNS_BACK.get(orientation)
    return pixels if turn_back is None else np.ascontiguousarray(turn_back(pixels))


def _shifted(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
