"""Image files: decode any gray or colour, 8 or 16 bit file to float32 in [0, 1]; sizes, resizing."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np

from jaxdefect.data import area, tiff
from jaxdefect.types import InputError, Window

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# What network drives and macOS' archives add, thumbnails and deleted images among it.
SYSTEM_FOLDERS = frozenset(("@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"))

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Start-of-frame markers hold the size; 0xC4, 0xC8 and 0xCC lie in their range but mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_HEADER_BYTES = 65536
_MAX_PIXELS = 2**30  # OpenCV's own limit


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden (macOS leaves `._a.png`) or the system's."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def read_image(path: Path, *, num_channels: int) -> np.ndarray:
    """Reads an image as [H, W, num_channels] float32 in [0, 1].

    Gray and colour (RGB order) are converted into each other as asked; alpha is dropped; 8 bit is divided by 255 and
    16 bit by 65535; a floating-point TIFF is taken as it is. The pixels come as stored: a rotation noted in EXIF or a
    TIFF's tags is not applied, since a mask has none.

    Args:
      path: a PNG, JPEG, BMP or TIFF file.
      num_channels: 1 (gray) or 3 (colour).

    Raises:
      InputError: the file is missing, empty, truncated or not an image, or its values are not 8 or 16 bit or in [0, 1].
    """
    return to_unit_range(read_pixels(path, num_channels=num_channels))


def read_pixels(path: Path, *, num_channels: int) -> np.ndarray:
    """`read_image` before its division: [H, W, num_channels], uint8, uint16, or float32 in [0, 1]."""
    return to_channels(decode_for(path, num_channels=num_channels), num_channels, path)


def decode_for(path: Path, *, num_channels: int) -> np.ndarray:
    """`decode` with all that `num_channels` (1 or 3) need; fewer channels or more may come, type as stored."""
    # A JPEG stores luminance: taking it as it is saves a quarter of the decoding, and a rounding to RGB and back.
    is_luminance_enough = num_channels == 1 and path.suffix.lower() in (".jpg", ".jpeg")
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION if is_luminance_enough else cv2.IMREAD_UNCHANGED
    return decode(path, flags=flags)


def decode(path: Path, *, flags: int) -> np.ndarray:
    """Decodes an image file as OpenCV's `flags` say into [H, W] or [H, W, channels] (BGR), type as stored, not turned.

    OpenCV fills what a truncated file lacks with gray and says nothing, so the end of the data is checked first.

    Raises:
      InputError: the file is missing, empty, truncated or not an image.
    """
    data = _read_bytes(path)
    cause = _truncation(data)
    if cause:
        raise InputError(f"{path}: truncated image ({cause}); copy the file again")
    is_tiff = tiff.is_tiff(data)
    if is_tiff and flags == cv2.IMREAD_UNCHANGED:
        stored = tiff.open_tiff(io.BytesIO(data), path)
        if stored is not None and stored.height * stored.width <= _MAX_PIXELS:
            return stored.read(Window(0, 0, stored.height, stored.width))
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{path}: OpenCV cannot decode this image: {error.err}") from error
    if pixels is None:
        raise InputError(
            f"{path}: not an image that OpenCV can decode ({len(data)} bytes, broken or of another format); "
            f"wanted is one of {', '.join(IMAGE_SUFFIXES)}"
        )
    return tiff.as_stored(pixels, data, path) if is_tiff else pixels


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header where that is simple (PNG, JPEG, BMP), else by decoding.

    Raises:
      InputError: the file is missing, empty, or not an image.
    """
    data = _read_bytes(path, limit=_HEADER_BYTES)
    size = _size_from_header(data)
    if size is None and len(data) == _HEADER_BYTES:  # a JPEG may carry a colour profile or preview before the size
        size = _size_from_header(_read_bytes(path))
    if size is None:
        height, width = decode(path, flags=cv2.IMREAD_UNCHANGED).shape[:2]
        size = height, width
    return size


def as_stored(image: np.ndarray, *, num_channels: int) -> np.ndarray:
    """An image array with the channels that the network takes, in a type that `to_unit_range` takes.

    Args:
      image: [H, W], [H, W, 1] gray or [H, W, 3] RGB; uint8, uint16, or float in [0, 1].
      num_channels: 1 (colour becomes ITU-R BT.601 luma) or 3 (gray is repeated).

    Returns:
      [H, W, num_channels], uint8 or uint16 as they are if no colour becomes gray, else float32 in [0, 1].

    Raises:
      InputError: another shape, dtype or range.
    """
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.size == 0:
        raise InputError(f"an image of shape {shape}: must be [H, W], [H, W, 1] or [H, W, 3]")
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"a float image with values from {low:g} to {high:g}: must be within [0, 1]; scale it first"
            )
        image = image.astype(np.float32, copy=False)
    elif image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"an image of type {image.dtype}: must be uint8, uint16, or float in [0, 1]")
    if image.shape[-1] == num_channels:
        return image
    if num_channels == 1:
        return cv2.cvtColor(to_unit_range(image), cv2.COLOR_RGB2GRAY)[..., None]
    return np.repeat(image, num_channels, axis=-1)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes [H, W] or [H, W, C] to height x width: by area average when both sides shrink, else bilinearly."""
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.float32 and _is_fractional(image, height, width):
        return area.shrink(image, height, width)
    is_shrinking = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR)
    return resized.reshape(height, width, *image.shape[2:])  # OpenCV drops a channel axis of length 1


def to_input(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels as stored, [H, W, C] uint8, uint16, or float32 in [0, 1], resized to float32 in [0, 1]."""
    if pixels.shape[:2] == (height, width):
        return to_unit_range(pixels)
    if pixels.dtype != np.float32 and _is_fractional(pixels, height, width):
        resized = area.shrink(pixels, height, width)
        resized /= np.float32(np.iinfo(pixels.dtype).max)
    else:
        resized = resize_image(to_unit_range(pixels), height, width)
    return np.minimum(resized, 1.0, out=resized)  # rounding may exceed 1


def _is_fractional(image: np.ndarray, height: int, width: int) -> bool:
    """Whether both sides shrink, and not both by whole factors, for which OpenCV is fast."""
    rows, columns = image.shape[:2]
    is_whole = rows % height == 0 and columns % width == 0
    return height <= rows and width <= columns and not is_whole


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes gray [H, W] or RGB [H, W, 3] uint8 pixels in the format of the path's suffix, whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    is_encoded, data = cv2.imencode(path.suffix, pixels)
    if not is_encoded:
        raise InputError(f"{path}: cannot be encoded as {path.suffix}")
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _read_bytes(path: Path, *, limit: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(limit)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from error
    if not data:
        raise InputError(f"{path}: the image file is empty (0 bytes); copy the file again")
    return data


def to_channels(pixels: np.ndarray, num_channels: int, path: Path) -> np.ndarray:
    """A file's pixels, gray or BGR or BGR with alpha, as [H, W, num_channels] of a type that `to_unit_range` takes.

    Three channels are RGB.

    Raises:
      InputError: the pixels are of another type, or floats beyond [0, 1].
    """
    if pixels.ndim == 2:
        gray = _checked_range(pixels, path)[..., np.newaxis]
        return gray if num_channels == 1 else np.repeat(gray, num_channels, axis=2)
    colors = np.ascontiguousarray(_checked_range(pixels[..., :3], path))
    if num_channels == 3:
        return cv2.cvtColor(colors, cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(colors, cv2.COLOR_BGR2GRAY)[..., np.newaxis]


def to_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Pixels as contiguous float32 in [0, 1]: uint8 and uint16 divided by the largest, float32 as they are."""
    if pixels.dtype == np.float32:
        return np.ascontiguousarray(pixels)
    # Without an array in between.
    return np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32, order="C")


def _checked_range(pixels: np.ndarray, path: Path) -> np.ndarray:
    """A file's pixels if `to_unit_range` takes them; float64 becomes float32."""
    if pixels.dtype == np.uint8 or pixels.dtype == np.uint16:
        return pixels
    if pixels.dtype == np.float32 or pixels.dtype == np.float64:
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= 1):
            raise InputError(f"{path}: floating-point values must lie in [0, 1], not [{low:g}, {high:g}]; rescale them")
        return pixels.astype(np.float32, copy=False)
    raise InputError(f"{path}: pixels of type {pixels.dtype}; wanted are 8 or 16 bit unsigned, or float in [0, 1]")


def _truncation(data: bytes) -> str:
    """What the file's end lacks, or an empty string if nothing that can be told from outside."""
    if data.startswith(_JPEG_START):
        scan = next((offset for marker, offset in _jpeg_segments(data) if marker == _JPEG_SCAN), None)
        # The search starts behind the headers, where an embedded preview may have an end marker of its own.
        if scan is None or data.rfind(_JPEG_END, scan) < 0:
            return f"JPEG without its end marker after {len(data)} bytes"
    elif data.startswith(_PNG_START):
        if data.rfind(_PNG_END) < 0:
            return f"PNG without its IEND chunk after {len(data)} bytes"
    elif _is_windows_bmp(data):
        start, (width, height), (bits, compression) = _bmp_header(data)
        wanted = start + (width * bits + 31) // 32 * 4 * abs(height)
        if compression == 0 and len(data) < wanted:
            return f"BMP of {len(data)} bytes where its header asks for {wanted}"
    return ""


def _size_from_header(data: bytes) -> tuple[int, int] | None:
    if data.startswith(_PNG_START) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    if _is_windows_bmp(data):
        _, (width, height), _ = _bmp_header(data)
        return abs(height), width
    if data.startswith(_JPEG_START):
        for marker, offset in _jpeg_segments(data):
            if marker in _JPEG_FRAMES and offset + 9 <= len(data):
                height, width = struct.unpack_from(">HH", data, offset + 5)
                return height, width
    return None


def _is_windows_bmp(data: bytes) -> bool:
    """Whether this is a BMP with the usual header of 40 bytes or more (the older OS/2 one is laid out otherwise)."""
    return data.startswith(b"BM") and len(data) >= 34 and struct.unpack_from("<I", data, 14)[0] >= 40


def _bmp_header(data: bytes) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Where the pixels start, (width, height; negative if stored top-down), (bits per pixel, compression)."""
    (start,) = struct.unpack_from("<I", data, 10)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    return start, (width, height), (bits, compression)


def _jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """(marker, offset of the marker) of every header segment, up to the first scan or the end of the data."""
    segments, offset = [], 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        segments.append((marker, offset))
        if marker == _JPEG_SCAN:
            break
        (length,) = struct.unpack_from(">H", data, offset + 2)
        offset += 2 + length
    return segments
