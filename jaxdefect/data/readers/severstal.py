"""Reader of Severstal's steel defects: `train.csv` with run-length masks per class, and `train_images/`."""

import csv
import itertools
import re
from pathlib import Path

from jaxdefect.data import images
from jaxdefect.data.readers import files
from jaxdefect.types import InputError, RunLengthMask, Sample

_HEADER = ["ImageId", "ClassId", "EncodedPixels"]  # one row per image and class, defective ones only
_COMBINED_HEADER = ["ImageId_ClassId", "EncodedPixels"]  # "name.jpg_3": every image and class, most rows empty
_CLASS = re.compile("[1-9][0-9]*")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def read(root: Path) -> list[Sample]:
    """Reads the data set's samples; an image that no row of `train.csv` marks is a negative.

    The mask is the union of an image's rows, `classes` are the classes of these rows, id and group are the file name
    without its suffix. Both published headers are understood: ImageId,ClassId,EncodedPixels and
    ImageId_ClassId,EncodedPixels.

    Raises:
      InputError: `train.csv` or `train_images/` is missing, two images share an id, or a row is wrong (another header,
        a class that is no number, broken or overlapping runs, runs that leave the image, an image and class twice, an
        image that does not exist).
    """
    table, folder = root / "train.csv", root / "train_images"
    if not table.is_file():
        raise InputError(f"{table}: missing; config.data.root must name the folder with train.csv and train_images/")
    paths = _image_paths(folder)
    marked: dict[str, dict[str, RunLengthMask]] = {}
    for line, name, class_name, text in _rows(table):
        source = f"{table}, line {line}"
        if name not in paths:
            raise InputError(f"{source}: image {name!r} is not in {folder}; unpack the images again or drop the row")
        if text and not _CLASS.fullmatch(class_name):
            raise InputError(f"{source}: class {class_name!r} must be a whole number from 1 on, such as 3")
        classes = marked.setdefault(name, {})
        if class_name in classes:
            raise InputError(f"{source}: image {name!r} and class {class_name} appear twice; merge the rows")
        classes[class_name] = RunLengthMask(_parse_runs(text, source), source)
    return [_sample(path, marked.get(name, {})) for name, path in paths.items()]


def _image_paths(folder: Path) -> dict[str, Path]:
    paths = files.by_name(folder)
    if not paths:
        raise InputError(f"{folder}: missing or without images; unpack the data set's train_images there")
    return {path.name: path for path in paths.values()}


def _rows(table: Path) -> list[tuple[int, str, str, str]]:
    """(line number, image file name, class, run lengths as text) of every row."""
    rows = []
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            if header not in (_HEADER, _COMBINED_HEADER):
                raise InputError(
                    f"{table}, line 1: the header is {','.join(header)!r}, wanted is {','.join(_HEADER)} "
                    f"or {','.join(_COMBINED_HEADER)}"
                )
            for row in reader:
                if not row:  # a blank line, as at the end of a file edited by hand
                    continue
                if len(row) != len(header):
                    raise InputError(f"{table}, line {reader.line_num}: {len(row)} columns instead of {len(header)}")
                name, class_name = row[:2] if header == _HEADER else _divide(row[0], f"{table}, line {reader.line_num}")
                rows.append((reader.line_num, name, class_name.strip(), row[-1].strip()))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{table}, after line {reader.line_num}: not a CSV text file: {error}") from error
    return rows


def _divide(text: str, source: str) -> tuple[str, str]:
    name, separator, class_name = text.rpartition("_")
    if not separator:
        raise InputError(f"{source}: {text!r} must be an image and a class, as in name.jpg_3")
    return name, class_name


def _parse_runs(text: str, source: str) -> tuple[tuple[int, int], ...]:
    """Run lengths "start length start length ..." as pairs in the order of their start."""
    words = text.split()
    if wrong := [word for word in words if not _INTEGER.fullmatch(word)]:
        raise InputError(f"{source}: {wrong[0]!r} in the run lengths is not an integer")
    values = [int(word) for word in words]
    if len(values) % 2:
        raise InputError(f"{source}: {len(values)} run-length values, an odd number; wanted are (start, length) pairs")
    runs = sorted(zip(values[::2], values[1::2], strict=True))
    for start, length in runs:
        if start < 1 or length < 1:
            raise InputError(f"{source}: the run {start} {length} is impossible: start and length count from 1")
    for (start, length), (following, _) in itertools.pairwise(runs):
        if start + length > following:
            raise InputError(f"{source}: the run {start} {length} overlaps the run that starts at {following}")
    return tuple(runs)


def _sample(path: Path, classes: dict[str, RunLengthMask]) -> Sample:
    rows = {name: mask for name, mask in sorted(classes.items()) if mask.runs}
    if not rows:
        return Sample(id=path.stem, image=path, mask=None, label=0, group=path.stem)
    height, width = images.image_size(path)
    for mask in rows.values():
        start, length = mask.runs[-1]
        if start + length - 1 > height * width:
            raise InputError(
                f"{mask.source}: the run {start} {length} leaves the image {path.name} of {height} x {width} = "
                f"{height * width} pixels"
            )
    # Runs of different classes may overlap: a union is meant, and the decoder marks a pixel twice without harm.
    union = RunLengthMask(
        runs=tuple(run for mask in rows.values() for run in mask.runs),
        source="; ".join(mask.source for mask in rows.values()),
    )
    return Sample(
        id=path.stem,
        image=path,
        mask=union,
        label=1,
        group=path.stem,
        classes=tuple(rows),
        class_masks=tuple(rows.items()),
    )
