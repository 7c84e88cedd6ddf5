"""Predicted defects in COCO's format, as its tools and the reader `coco` take them."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TextIO

import numpy as np

from jaxdefect.data.readers.coco import encode_counts
from jaxdefect.inference.defects import UNKNOWN_CLASS
from jaxdefect.types import Defect


class ImageRecord(Protocol):
    """What is asked of a record of an image; `defects` as `records.describe` gives them."""

    @property
    def id(self) -> str: ...

    @property
    def height(self) -> int | None: ...

    @property
    def width(self) -> int | None: ...

    @property
    def defects(self) -> Any: ...


def segmentation(defect: Defect, *, height: int, width: int) -> dict[str, Any]:
    """A defect's pixels in an image of height x width as compressed run lengths, column by column."""
    top, left = defect.box.top, defect.box.left
    # One row more, so that no run goes on from the bottom of a column to the top of the next.
    columns = np.zeros((defect.box.width, defect.box.height + 1), np.int8)
    for row, start, stop in (defect.runs - [top, left, left]).tolist():
        columns[start:stop, row] = 1
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=np.int8(0)))
    column, row = np.divmod(edges.astype(np.int64), columns.shape[1])
    positions = (column + left) * height + row + top
    counts = np.diff(positions, prepend=0, append=height * width)
    return {"size": [height, width], "counts": encode_counts(counts.tolist())}


def write(records: Callable[[], Iterable[ImageRecord]], file: TextIO) -> None:
    """Writes images, annotations and categories, one record in memory at a time.

    `file_name` is the record's id. A category per class, "defect" for what no classifier has named. `score`: the
    classifier's confidence where there is one, else the map's maximum. Besides COCO's own keys, an annotation has
    those of the record's defect. Images that could not be judged are left out.

    Args:
      records: gives all records anew at every call.
      file: to write to.
    """
    names = sorted({_category(defect) for record in records() for defect in record.defects or ()})
    categories = {name: number for number, name in enumerate(names, start=1)}
    file.write('{"images": [')
    judged = ((number, record) for number, record in enumerate(records(), start=1) if record.height is not None)
    _write_items(
        (
            {"id": number, "file_name": record.id, "height": record.height, "width": record.width}
            for number, record in judged
        ),
        file,
    )
    file.write('],\n"annotations": [')
    annotated = (
        (number, defect) for number, record in enumerate(records(), start=1) for defect in record.defects or ()
    )
    _write_items(
        (
            _annotation(defect, id=id, image_id=number, category_id=categories[_category(defect)])
            for id, (number, defect) in enumerate(annotated, start=1)
        ),
        file,
    )
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    file.write(f'],\n"categories": {json.dumps(listed)}}}\n')


def _annotation(defect: Mapping[str, Any], **numbers: int) -> dict[str, Any]:
    top, left, height, width = defect["box"]
    own = {"box", "area_px", "segmentation", "class_name"}
    return {
        **numbers,
        "bbox": [left, top, width, height],
        "area": defect["area_px"],
        "segmentation": defect["segmentation"],
        "iscrowd": 0,
        "score": defect["maximum"] if defect["confidence"] is None else defect["confidence"],
        **{key: value for key, value in defect.items() if key not in own},
    }


def _category(defect: Mapping[str, Any]) -> str:
    return defect["class_name"] or UNKNOWN_CLASS


def _write_items(items: Iterable[Mapping[str, Any]], file: TextIO) -> None:
    separator = "\n"
    for item in items:
        file.write(separator + json.dumps(item))
        separator = ",\n"
