"""What the readers of annotation files share: finding the file and its images, checking numbers, regions to samples."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxdefect.data import exif, images
from jaxdefect.data.readers import files
from jaxdefect.types import InputError, Sample, Shape, ShapeMask

_FARTHEST_PX = 1_000_000
_MIN_POINTS = {"polygon": 3, "polyline": 1}


class Region(NamedTuple):
    """One annotated region: its class ("" where none is given) and its shape."""

    class_name: str
    shape: Shape


def the_file(root: Path, *patterns: str) -> Path:
    """The one annotation file below `root` that fits one of the patterns.

    Raises:
      InputError: there is none, or several.
    """
    paths = files.visible(path for pattern in patterns for path in root.glob(pattern))
    if len(paths) == 1:
        return paths[0]
    if not paths:
        raise InputError(f"{root}: no annotation file ({' or '.join(patterns)}); put it beside the images")
    names = files.listed(str(path.relative_to(root)) for path in paths)
    raise InputError(f"{root}: {len(paths)} annotation files ({names}) where one is wanted; move the others elsewhere")


def load_json(path: Path) -> Any:
    """Raises `InputError` where the file is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); export the annotations again") from error


def field(record: Any, key: str, kind: type | tuple[type, ...], source: str) -> Any:
    """`record[key]`, which must be of this type.

    Raises:
      InputError: it is missing or of another type.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{source}: {key!r} must be {names}, not {value!r:.80}")
    return value


def image_path(root: Path, name: str, source: str) -> Path:
    """The image of this name in `root` or `root/images`.

    Raises:
      InputError: it is in neither.
    """
    for path in (root / name, root / "images" / name):
        if name and os.path.isfile(path):  # unlike `Path.is_file`, false of a name that is too long
            return path
    raise InputError(f"{source}: the image {name!r} is neither in {root} nor in {root / 'images'}")


def shape(kind: Literal["polygon", "polyline", "ellipse"], numbers: Sequence[Any], source: str) -> Shape:
    """A checked shape.

    Raises:
      InputError: a number is none, not finite or far outside any image, a point is half, there are too few points, or
        a radius is not above 0.
    """
    for number in numbers:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not abs(number) <= _FARTHEST_PX:  # false for NaN too
            raise InputError(f"{source}: {number!r:.80} is not a coordinate; draw the region again")
    if kind == "ellipse":
        if min(numbers[2:4]) <= 0:
            raise InputError(f"{source}: radii of {numbers[2]:g} and {numbers[3]:g} pixels; both must be above 0")
    elif len(numbers) % 2 or len(numbers) < 2 * _MIN_POINTS[kind]:
        raise InputError(
            f"{source}: a {kind} of {len(numbers)} coordinates; pairs of x and y are wanted, for at least "
            f"{_MIN_POINTS[kind]} points"
        )
    return Shape(kind, tuple(float(number) for number in numbers))


def rectangle(left: Any, top: Any, right: Any, bottom: Any, source: str) -> Shape:
    """The polygon of an upright rectangle, checked."""
    return shape("polygon", (left, top, right, top, right, bottom, left, bottom), source)


def drawn_sample(image: Path, regions: Sequence[Region], *, name: str, source: str) -> Sample:
    """The sample of an image and its regions: defective where it has any; id and group are `name` without suffix.

    Raises:
      InputError: there are regions, and EXIF turns the image.
    """
    id = Path(name).with_suffix("").as_posix()
    if not regions:
        return Sample(id=id, image=image, mask=None, label=0, group=id)
    check_orientation(image, source)
    by_class: dict[str, list[Shape]] = {}
    for region in regions:
        by_class.setdefault(region.class_name, []).append(region.shape)
    names = sorted(by_class.keys() - {""})
    return Sample(
        id=id,
        image=image,
        mask=ShapeMask(tuple(region.shape for region in regions), source),
        label=1,
        group=id,
        classes=tuple(names),
        class_masks=tuple((name, ShapeMask(tuple(by_class[name]), source)) for name in names),
    )


def check_size(image: Path, size: tuple[int, int], source: str) -> None:
    """Raises `InputError` where the image is not of the (height, width) that its annotations were drawn on."""
    if images.image_size(image) != size:
        found = images.image_size(image)
        raise InputError(
            f"{source}: drawn on an image of {size[0]} x {size[1]} (height x width), but {image} is {found[0]} x "
            f"{found[1]}; use the image that was annotated (turned and stored again if EXIF turns it)"
        )


def check_orientation(image: Path, source: str) -> None:
    """Raises `InputError` where EXIF turns the image: regions drawn on it as shown lie elsewhere in it as stored."""
    if (found := exif.orientation(image)) != 1:
        raise InputError(
            f"{source}: EXIF turns {image} (orientation {found}), so regions drawn on it as shown lie elsewhere in its "
            "pixels as stored; store it turned, without EXIF's orientation (or, if they were drawn on the pixels as "
            "stored, only take the orientation out of the file)"
        )
