"""Pickles of plain data, such as the published splits, read without running what they may ask to run."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from jaxdefect.types import InputError


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds containers, strings and numbers only: whatever would import or call something is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, and a split needs no code")


_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
)


def _check_memo(data: bytes) -> None:
    """Refuses places of the unpickler's memo beyond the file's length: it would allocate all places before them."""
    for opcode, place, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and place is not None and place >= len(data):
            raise pickle.UnpicklingError(f"place {place} of its memo in a file of {len(data)} bytes")


def load(path: Path) -> Any:
    """What a file holds, of containers, strings and numbers.

    Raises:
      InputError: it cannot be read, is broken, or holds anything else.
    """
    try:
        data = path.read_bytes()
        _check_memo(data)
        return _RestrictedUnpickler(io.BytesIO(data)).load()
    except OSError as error:
        raise InputError(f"{path}: cannot read the split pickle: {error.strerror}") from error
    except _BROKEN_PICKLE as error:
        raise InputError(f"{path}: not a pickle of plain lists, refused: {error}") from error
