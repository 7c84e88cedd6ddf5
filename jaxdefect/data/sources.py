"""Images as sources of windows: of a TIFF only the strips or tiles that a window touches are decoded."""

from pathlib import Path
from typing import Protocol

import numpy as np

from jaxdefect.data import images, tiff
from jaxdefect.types import Window


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
    """A TIFF or BigTIFF whose strips or tiles are decoded as windows touch them."""

    def __init__(self, pixels: tiff.TiffPixels, path: Path, *, num_channels: int):
        self._pixels, self._path, self._num_channels = pixels, path, num_channels
        self.height, self.width = pixels.height, pixels.width

    def read(self, window: Window) -> np.ndarray:
        return images.to_channels(self._pixels.read(window), self._num_channels, self._path)


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
    if path.suffix.lower() in tiff.SUFFIXES:
        pixels = tiff.open_tiff(path, path)
        if pixels is not None:
            return TiffImage(pixels, path, num_channels=num_channels)
    return DecodedImage(path, num_channels=num_channels)


def _part(pixels: np.ndarray, window: Window) -> np.ndarray:
    return pixels[window.top : window.top + window.height, window.left : window.left + window.width]
