"""Files of reports and studies: written whole or not at all, and read back."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxdefect.types import InputError


def write(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name and renames it; the directory is made.

    Raises:
      InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as comma-separated values; numbers with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def read_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a file of comma-separated values with a header."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}
