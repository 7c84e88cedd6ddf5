"""Reader of labelme's annotations: one JSON file per image, of the image's name."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdefect.data.readers import drawings, files
from jaxdefect.types import InputError, Sample, Shape

_KINDS = ("polygon", "rectangle", "circle", "line", "linestrip", "point")


def read(root: Path) -> list[Sample]:
    """Reads the images in `root/images`, or in `root` itself, with the JSON files beside them or in `root`.

    Polygons, rectangles and circles are filled; a line or linestrip is one pixel wide; a point marks its pixel. An
    image without a JSON file, or with one without shapes, is good. The class of a shape is its label; id and group are
    the image's name without suffix.

    Raises:
      InputError: no images, two JSON files of one name, one without its image, or one that is not labelme's, was drawn
        on an image of another size or one that EXIF turns, or holds a broken shape: the text has the file and the
        shape's number.
    """
    folder = root / "images" if (root / "images").is_dir() else root
    paths = files.by_name(folder)
    if not paths:
        raise InputError(f"{root}: no images there or in {root / 'images'}; config.data.root must name their folder")
    documents: dict[str, Path] = {}
    for each in dict.fromkeys((root, folder)):
        for name, path in files.by_name(each, suffixes=(".json",)).items():
            if (other := documents.setdefault(name, path)) != path:
                raise InputError(f"{path}: {other} has annotations of the same image; remove one")
    if orphans := [path for name, path in documents.items() if name not in paths]:
        raise InputError(f"{orphans[0]}: no image of this name in {folder} ({len(orphans)} such files)")
    return [
        drawings.drawn_sample(
            path, _regions(documents.get(name), path), name=path.name, source=str(documents.get(name))
        )
        for name, path in paths.items()
    ]


def _regions(document: Path | None, image: Path) -> list[drawings.Region]:
    if document is None:
        return []
    record = drawings.load_json(document)
    shapes = drawings.field(record, "shapes", list, str(document))
    if shapes and "imageHeight" in record:
        height, width = (drawings.field(record, key, int, str(document)) for key in ("imageHeight", "imageWidth"))
        drawings.check_size(image, (height, width), str(document))
    return [_region(shape, f"{document}, shape {number}") for number, shape in enumerate(shapes)]


def _region(record: Any, source: str) -> drawings.Region:
    name = drawings.field(record, "label", str, source)
    # labelme's first versions had polygons only, and no type.
    kind = drawings.field(record, "shape_type", str, source) if record.get("shape_type") else "polygon"
    points = drawings.field(record, "points", list, source)
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise InputError(f"{source}: a point is not a pair of x and y; draw the shape again")
    return drawings.Region(name.strip(), _shape(kind, [value for point in points for value in point], source))


def _shape(kind: str, values: Sequence[Any], source: str) -> Shape:
    wanted = {"rectangle": 4, "circle": 4, "line": 4, "point": 2}.get(kind, len(values))
    if len(values) != wanted:
        raise InputError(
            f"{source}: a {kind} of {len(values) // 2} points where {wanted // 2} are wanted; draw it again"
        )
    match kind:
        case "polygon":
            return drawings.shape("polygon", values, source)
        case "rectangle":
            left, top, right, bottom = values
            return drawings.rectangle(left, top, right, bottom, source)
        case "circle":  # the centre and a point of the circle
            drawings.shape("polyline", values, source)
            radius = math.dist(values[:2], values[2:])
            return drawings.shape("ellipse", (*values[:2], radius, radius, 0), source)
        case "line" | "linestrip" | "point":
            return drawings.shape("polyline", values, source)
    raise InputError(f"{source}: unknown shape type {kind!r}; known are {', '.join(_KINDS)}")
