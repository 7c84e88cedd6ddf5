"""Reader of COCO's segmentation format: polygons and run lengths, plain or compressed, in one JSON file."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdefect.data import annotation, shapes
from jaxdefect.data.readers import drawings, files
from jaxdefect.types import InputError, Mask, RunLengthMask, Sample, Shape, ShapeMask

# Of one annotation: polygons, or runs (start 1-based, length) column by column.
_Segments = list[Shape] | list[tuple[int, int]]


def read(root: Path) -> list[Sample]:
    """Reads the one JSON file in `root` or `root/annotations`, and the images beside it or in `root/images`.

    The class of an annotation is its category's name. An image without annotations is good; crowds (iscrowd) are
    defects like any other; images that the file does not list are left out. Id and group are the file name without
    suffix.

    Raises:
      InputError: no annotation file or several, one that is not COCO's, two images or categories with one id, an image
        that is missing, of another size or turned by EXIF, or a broken annotation, such as one that has only a box: the
        text has the file and the annotation's id.
    """
    path = drawings.the_file(root, "*.json", "annotations/*.json")
    document = drawings.load_json(path)
    records, annotations, categories = (
        drawings.field(document, key, list, str(path)) for key in ("images", "annotations", "categories")
    )
    if not records:
        raise InputError(f"{path}: lists no image; export the annotations again")
    names: dict[int, str] = {}
    for record in categories:
        number, name = (
            drawings.field(record, key, kind, f"{path}, categories") for key, kind in (("id", int), ("name", str))
        )
        if (other := names.setdefault(number, name)) != name:
            raise InputError(
                f"{path}, categories: {other!r} and {name!r} have one id, {number}; export the annotations again"
            )
    by_image: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        number = drawings.field(record, "id", int, f"{path}, images")
        if number in by_image:
            raise InputError(f"{path}, images: two images have the id {number}; export the annotations again")
        by_image[number] = []
    for record in annotations:
        source = _source(path, record)
        if drawings.field(record, "category_id", int, source) not in names:
            raise InputError(f"{source}: there is no category {record['category_id']}; export the annotations again")
        if drawings.field(record, "image_id", int, source) not in by_image:
            raise InputError(f"{source}: there is no image {record['image_id']}; export the annotations again")
        by_image[record["image_id"]].append(record)
    samples = [_sample(root, path, record, by_image[record["id"]], names) for record in records]
    files.check_ids(samples)
    return samples


def decode_counts(text: str) -> list[int]:
    """COCO's compressed run lengths as counts: of pixels outside, inside, outside..., column by column.

    Each count is written five bits to a character, the lowest first, from "0" on; bit 32 says that more follow, and the
    last character's bit 16 is the sign. From the fourth count on it is the difference to the count two before.

    Raises:
      ValueError: a character that none of these are, or an end in the middle of a count.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no part of compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths end in the middle of a number")
    return counts


def encode_counts(counts: Sequence[int]) -> str:
    """The inverse of `decode_counts`."""
    characters: list[str] = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        is_last = False
        while not is_last:
            bits, value = value & 31, value >> 5
            is_last = value == (-1 if bits & 16 else 0)
            characters.append(chr(48 + bits + (0 if is_last else 32)))
    return "".join(characters)


def _source(path: Path, record: Any) -> str:
    return f"{path}, annotation {record.get('id') if isinstance(record, dict) else record!r}"


def _sample(
    root: Path, path: Path, record: dict[str, Any], annotations: Sequence[dict[str, Any]], names: dict[int, str]
) -> Sample:
    source = f"{path}, image {record['id']}"
    name = drawings.field(record, "file_name", str, source)
    image = drawings.image_path(root, name, source)
    id = Path(name).with_suffix("").as_posix()
    if not annotations:
        return Sample(id=id, image=image, mask=None, label=0, group=id)
    height, width = (drawings.field(record, key, int, source) for key in ("height", "width"))
    drawings.check_size(image, (height, width), source)
    drawings.check_orientation(image, source)
    segments = [
        (names[each["category_id"]], _segments(each, height, width, _source(path, each))) for each in annotations
    ]
    classes = sorted({name for name, _ in segments})

    def union(parts: Sequence[_Segments]) -> Mask:
        return _union(parts, height=height, width=width, source=source)

    return Sample(
        id=id,
        image=image,
        mask=union([part for _, part in segments]),
        label=1,
        group=id,
        classes=tuple(classes),
        class_masks=tuple((name, union([part for other, part in segments if other == name])) for name in classes),
    )


def _segments(record: dict[str, Any], height: int, width: int, source: str) -> _Segments:
    segmentation = record.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        if not all(isinstance(corners, list) for corners in segmentation):
            raise InputError(f"{source}: 'segmentation' must be a list of polygons, each a list of coordinates")
        return [drawings.shape("polygon", corners, source) for corners in segmentation]
    if not isinstance(segmentation, dict):
        raise InputError(f"{source}: has no segmentation (a box alone does not do); draw the defect's outline")
    if segmentation.get("size") != [height, width]:
        raise InputError(f"{source}: run lengths of size {segmentation.get('size')}, its image is {[height, width]}")
    counts = drawings.field(segmentation, "counts", (list, str), source)
    if isinstance(counts, str):
        try:
            counts = decode_counts(counts)
        except ValueError as error:
            raise InputError(f"{source}: {error}; export the annotations again") from error
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
        raise InputError(f"{source}: a run length is not a number of pixels; export the annotations again")
    if sum(counts) != height * width:
        raise InputError(f"{source}: the run lengths add up to {sum(counts)} pixels instead of {height * width}")
    starts = itertools.accumulate(counts, initial=1)
    runs = list(zip(starts, counts, strict=False))[1::2]
    return [(start, length) for start, length in runs if length]


def _union(parts: Sequence[_Segments], *, height: int, width: int, source: str) -> Mask:
    """Polygons stay polygons where there is nothing else; beside run lengths they become run lengths."""
    outlines = tuple(segment for part in parts for segment in part if isinstance(segment, Shape))
    runs = tuple(segment for part in parts for segment in part if not isinstance(segment, Shape))
    if not runs:
        return ShapeMask(outlines, source)
    drawn = shapes.draw(ShapeMask(outlines, source), height=height, width=width)
    return RunLengthMask((*runs, *annotation.encode_runs(drawn)), source)
