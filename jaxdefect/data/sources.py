"""Images as sources of windows: of a TIFF only the strips or tiles that a window touches are decoded."""

import contextlib
import importlib.util
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile

from jaxdefect.data import images
from jaxdefect.types import InputError, UnreadableImageError, Window

TIFF_SUFFIXES = (".tif", ".tiff")
# What is decoded at speed without the optional package imagecodecs: stored as it is, or deflated.
_OWN_CODECS = (1, 8, 32946)
_PHOTOMETRIC = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
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


class ImageSource(Protocol):
    """An image whose pixels are read window by window."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, window: Window) -> np.ndarray:
        """The pixels [height, width, C] of a window inside the image, uint8, uint16 or float32 in [0, 1], as stored.

        Raises:
          InputError: they cannot be decoded.
        """
        ...


class ArrayImage:
    """Pixels [H, W, C] that are in memory, uint8, uint16 or float32 in [0, 1]."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def read(self, window: Window) -> np.ndarray:
        return _part(self._pixels, window)


class DecodedImage:
    """An image file decoded as a whole, kept in the type that it is stored in.

    Raises:
      InputError: as `images.decode`.
    """

    def __init__(self, path: Path, *, num_channels: int):
        self._path, self._num_channels = path, num_channels
        self._pixels = images.decode_for(path, num_channels=num_channels)
        self.height, self.width = self._pixels.shape[:2]

    def read(self, window: Window) -> np.ndarray:
        return images.to_channels(_part(self._pixels, window), self._num_channels, self._path)


class TiffImage:
    """The first page of an open TIFF or BigTIFF whose strips or tiles can be decoded one by one.

    Decoded strips and tiles are kept until a read that does not touch them: a sweep from top to bottom in overlapping
    bands decodes each of them once, and holds little more than a band.
    """

    def __init__(self, file: tifffile.TiffFile, path: Path, *, num_channels: int):
        self._file, self._path, self._num_channels = file, path, num_channels
        self._page: Any = file.pages[0]
        self.height, self.width = _size(self._page)
        self._decoded: dict[int, np.ndarray] = {}
        weakref.finalize(self, file.close)

    def read(self, window: Window) -> np.ndarray:
        try:
            pixels = self._stored(window)
        except _BROKEN as error:
            raise UnreadableImageError(f"{self._path}: broken TIFF ({error}); copy the file again") from error
        return images.to_channels(pixels, self._num_channels, self._path)

    def _stored(self, window: Window) -> np.ndarray:
        """[height, width, samples], colours as OpenCV orders them."""
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


def open_image(path: Path, *, num_channels: int) -> ImageSource:
    """An image file to read windows from.

    A TIFF or BigTIFF stored as it is or deflated, in strips or tiles, 8 or 16 bit or float, gray or RGB, is not decoded
    before a window is asked for; with the package imagecodecs installed neither is one of another compression. Any
    other image is decoded here and kept in the type that it is stored in.

    Args:
      path: as `images.read_image` reads it.
      num_channels: 1 (gray) or 3 (colour).

    Raises:
      InputError: the file is missing, empty, truncated or not an image.
    """
    if path.suffix.lower() in TIFF_SUFFIXES:
        file = _open_tiff(path)
        if file is not None:
            return TiffImage(file, path, num_channels=num_channels)
    return DecodedImage(path, num_channels=num_channels)


def _open_tiff(path: Path) -> tifffile.TiffFile | None:
    """The file if its first page can be read in parts, else None: OpenCV says then what is wrong, if anything is."""
    with contextlib.ExitStack() as on_failure:
        try:
            file = on_failure.enter_context(tifffile.TiffFile(path))
            page: Any = file.pages[0]
            end = max((sum(part) for part in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
            is_readable = _is_readable_in_parts(page) and min(*_size(page), *page.chunks) >= 1
        except _BROKEN:
            return None
        if end > file.filehandle.size:
            raise InputError(f"{path}: truncated image (TIFF that ends before its last pixels); copy the file again")
        if not is_readable or end == 0:
            return None
        on_failure.pop_all()
        return file


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


def _part(pixels: np.ndarray, window: Window) -> np.ndarray:
    return pixels[window.top : window.top + window.height, window.left : window.left + window.width]


def _shifted(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
