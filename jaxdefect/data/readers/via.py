"""Reader of annotations made with the VGG Image Annotator (VIA 1 and 2): its JSON, its project file, or its CSV."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxdefect.data.readers import drawings, files
from jaxdefect.types import InputError, Sample, Shape

_CLASS_NAMES = ("class", "type", "defect", "label")  # of the region attribute that holds the class, in this order
_COLUMNS = ("filename", "region_id", "region_shape_attributes", "region_attributes")


class _Entry(NamedTuple):
    """One region as it stands in the file: `shape` and `attributes` as VIA has them."""

    source: str
    shape: dict[str, Any]
    attributes: dict[str, Any]


def read(root: Path) -> list[Sample]:
    """Reads the one JSON or CSV file in `root`, and the images beside it or in `root/images`.

    Rectangles, circles, ellipses and polygons are filled; a polyline is a line one pixel wide; a point marks its pixel.
    An image without regions is good; images that the file does not list are left out. Id and group are the file's
    name without suffix.

    The class of a region is its attribute "class", "type", "defect" or "label" (in any case), or the only attribute
    that there is; of a group of checkboxes, the one that is ticked. A region without it belongs to the defect but to no
    class.

    Raises:
      InputError: no annotation file or several, one that is not VIA's, an image that is missing, one with regions
        that EXIF turns, or a broken region: the text has the file, the image and the region's number.
    """
    path = drawings.the_file(root, "*.json", "*.csv")
    entries = _from_csv(path) if path.suffix == ".csv" else _from_json(path)
    if not entries:
        raise InputError(f"{path}: lists no image; add the images in VIA and export the annotations again")
    attribute = _class_attribute(path, entries)
    samples = []
    for name, regions in entries.items():
        source = f"{path}, image {name}"
        image = drawings.image_path(root, name, source)
        drawn = [drawings.Region(_class_name(region, attribute), _shape(region)) for region in regions]
        samples.append(drawings.drawn_sample(image, drawn, name=name, source=source))
    files.check_ids(samples)
    return samples


def _from_json(path: Path) -> dict[str, list[_Entry]]:
    """The regions by image, of an export (VIA 1 and 2) or a project file (VIA 2)."""
    document = drawings.load_json(path)
    if isinstance(document, dict):
        document = document.get("_via_img_metadata", document)
    if not isinstance(document, dict) or not all(isinstance(e, dict) and "filename" in e for e in document.values()):
        raise InputError(
            f"{path}: not the annotations of VIA 1 or 2 (an object with a filename and regions per image); export them "
            'with "Export Annotations (as json)"'
        )
    entries: dict[str, list[_Entry]] = {}
    for key, record in document.items():
        name = drawings.field(record, "filename", str, f"{path}, entry {key!r}")
        regions = drawings.field(record, "regions", (dict, list), f"{path}, image {name}")
        numbered = regions.items() if isinstance(regions, dict) else enumerate(regions)
        if name in entries:  # VIA tells files of one name apart by their size
            raise InputError(f"{path}, entry {key!r}: {name} has another entry; remove one, or rename the file")
        listed = entries[name] = []
        for number, region in numbered:
            source = f"{path}, image {name}, region {number}"
            shape = drawings.field(region, "shape_attributes", dict, source)
            listed.append(_Entry(source, shape, drawings.field(region, "region_attributes", dict, source)))
    return entries


def _from_csv(path: Path) -> dict[str, list[_Entry]]:
    entries: dict[str, list[_Entry]] = {}
    sizes: dict[str, str] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            # VIA 1 writes "#filename".
            reader.fieldnames = [name.lstrip("#") for name in reader.fieldnames or []]
            if lacking := [name for name in _COLUMNS if name not in reader.fieldnames]:
                raise InputError(
                    f"{path}, line 1: no column {lacking[0]!r}, so not VIA's; export the annotations again"
                )
            for row in reader:
                source = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{source}: as many columns as the header's wanted")
                listed = entries.setdefault(row["filename"], [])
                size = row.get("file_size", "")
                if sizes.setdefault(row["filename"], size) != size:  # VIA tells files of one name apart by their size
                    raise InputError(f"{source}: {row['filename']} has another file size before; rename one file")
                source = f"{source}, image {row['filename']}, region {row['region_id']}"
                shape = _object(row["region_shape_attributes"], source)
                if shape:  # an image without regions has a row with an empty one
                    listed.append(_Entry(source, shape, _object(row["region_attributes"], source)))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}, after line {reader.line_num}: not a CSV text file: {error}") from error
    return entries


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: {text!r:.80} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{source}: {text!r:.80} is not a JSON object")
    return value


def _class_attribute(path: Path, entries: dict[str, list[_Entry]]) -> str:
    """The name of the region attribute that holds the class; "" where regions have none."""
    names = sorted({name for regions in entries.values() for region in regions for name in region.attributes})
    for wanted in _CLASS_NAMES:
        for name in names:
            if name.lower() == wanted:
                return name
    if len(names) > 1:
        raise InputError(
            f"{path}: which of the region attributes {files.listed(names)} is the class? name it "
            f"{' or '.join(map(repr, _CLASS_NAMES))}"
        )
    return names[0] if names else ""


def _class_name(region: _Entry, attribute: str) -> str:
    value = region.attributes.get(attribute, "")
    if isinstance(value, dict):  # checkboxes
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        if len(ticked) > 1:
            raise InputError(f"{region.source}: {' and '.join(ticked)} are ticked; draw a region for each class")
        value = ticked[0] if ticked else ""
    return str(value).strip()


def _shape(region: _Entry) -> Shape:
    source, record = region.source, region.shape

    def numbers(*keys: str) -> Iterator[float]:
        return (drawings.field(record, key, (int, float), source) for key in keys)

    match drawings.field(record, "name", str, source):
        case "rect":
            left, top, width, height = numbers("x", "y", "width", "height")
            return drawings.rectangle(left, top, left + width, top + height, source)
        case "circle":
            x, y, radius = numbers("cx", "cy", "r")
            return drawings.shape("ellipse", (x, y, radius, radius, 0), source)
        case "ellipse":
            x, y, radius_x, radius_y = numbers("cx", "cy", "rx", "ry")
            radians = record.get("theta", 0)  # VIA 1 cannot turn an ellipse
            drawings.shape("polyline", (radians, radians), source)
            return drawings.shape("ellipse", (x, y, radius_x, radius_y, math.degrees(radians)), source)
        case "polygon" | "polyline" as kind:
            all_x, all_y = (drawings.field(record, key, list, source) for key in ("all_points_x", "all_points_y"))
            if len(all_x) != len(all_y):
                raise InputError(f"{source}: {len(all_x)} x but {len(all_y)} y coordinates; draw the region again")
            return drawings.shape(kind, [value for point in zip(all_x, all_y, strict=True) for value in point], source)
        case "point":
            return drawings.shape("polyline", tuple(numbers("cx", "cy")), source)
        case other:
            raise InputError(
                f"{source}: unknown shape {other!r}; known are rect, circle, ellipse, polygon, polyline, point"
            )
