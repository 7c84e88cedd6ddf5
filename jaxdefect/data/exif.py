"""The orientation in a JPEG's EXIF or a TIFF's tags: drawing tools show the image turned by it, `images` as stored."""

import re
import struct
from pathlib import Path

from jaxdefect.data import tiff
from jaxdefect.types import InputError

_UPRIGHT = 1
_ORIENTATION = 0x0112
_SEGMENT = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)
_HEADER_BYTES = 2**17  # EXIF is one of a file's first segments, and each has 64 KiB at most


def orientation(path: Path) -> int:
    """EXIF's number from 1 (as stored) to 8; 1 where the file notes none or is neither JPEG nor TIFF.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from error
    if tiff.is_tiff(data):
        return tiff.orientation(path)
    segment = _SEGMENT.search(data) if data.startswith(b"\xff\xd8") else None
    return _of_tiff(data[segment.end() :]) if segment else _UPRIGHT


def _of_tiff(data: bytes) -> int:
    """The same of EXIF's content: a TIFF header, then entries of 12 bytes (tag, type, count, value)."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return _UPRIGHT
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return _UPRIGHT
    (num_entries,) = struct.unpack_from(f"{order}H", data, start)
    for offset in range(start + 2, min(start + 2 + 12 * num_entries, len(data) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, offset)
        if tag == _ORIENTATION:
            return value if 1 <= value <= 8 else _UPRIGHT
    return _UPRIGHT
