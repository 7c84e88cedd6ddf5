"""Configs and studies are programs of the user's: what they raise is a mistake, said with its line."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from jaxdefect.types import InputError


@contextlib.contextmanager
def errors_of(path: Path, *, flag: str) -> Iterator[None]:
    """Turns whatever a Python file raises, when it is run or a function of it called, into an InputError.

    Args:
      path: the file, as it is run.
      flag: what named it, as "--config=FILE", for the error.

    Raises:
      InputError: the file's error with its type and the last line of the file that it passed.
    """
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"{flag}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else f"{path}"
        raise InputError(f"{flag}: {where}: {type(error).__name__}: {error}") from error
