"""Reader of DAGM 2007 in both published layouts: masks as images, or ellipses in a text file."""

import math
import re
from pathlib import Path

from jaxdefect.data.readers import drawings, files
from jaxdefect.types import InputError, Sample, ShapeMask

_ELLIPSE_COLUMNS = ("number", "semi-major axis", "semi-minor axis", "rotation", "centre x", "centre y")


def read(root: Path) -> list[Sample]:
    """Reads the classes below `root`, or the one class that `root` is; a defect's class is "Class1", "Class2", ...

    The layout of the Heidelberg collaboratory: `Class1/Train/0001.PNG`, with `Class1/Train/Label/0001_label.PNG` for
    the defective ones, and the same for `Test`; `Label/Labels.txt`, if there, must agree about which these are.
    Ids are "Class1/Train/0001".

    The layout of the 2007 competition: `Class1/1.png`, all good, and `Class1_def/1.png`, all defective, with
    `Class1_def/labels.txt`: a line per defect holds the image's number, the semi-axes of an ellipse, its rotation in
    radians (from x to y, so clockwise on the screen) and its centre, x and y from the top left. Ids are "Class1/1".

    Each of the ten classes is a problem of its own, so a model usually wants one of them: set config.data.root to the
    folder of that class, or, in the older layout, to a folder with that class's two.

    Raises:
      InputError: no images; a mask without image; a `Labels.txt` that disagrees; a defective image without its ellipse
        or the reverse; a line that is no ellipse.
    """
    folders = sorted(root.glob("Class*"), key=_natural) or [root]
    samples: list[Sample] = []
    for folder in folders:
        parts = [folder / part for part in ("Train", "Test") if (folder / part).is_dir()]
        if parts:
            samples += [sample for part in parts for sample in _masked_part(part)]
        elif folder.is_dir() and re.fullmatch(r"Class\d+(_def)?", folder.name):
            samples += _drawn_part(folder) if folder.name.endswith("_def") else _good_part(folder)
    if not samples:
        raise InputError(
            f"{root}: neither ClassN/Train nor ClassN and ClassN_def with images; config.data.root must name the "
            "folder that holds them"
        )
    return samples


def _natural(path: Path) -> list[int | str]:
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", path.name)]


def _masked_part(folder: Path) -> list[Sample]:
    paths = files.by_name(folder)
    masks = files.by_name(folder / "Label", ending="_label")
    files.check_orphans(masks, paths)
    _check_labels(folder / "Label" / "Labels.txt", masks)
    class_name = folder.parent.name
    return [
        Sample(
            id=(id := f"{class_name}/{folder.name}/{name}"),
            image=path,
            mask=masks.get(name),
            label=int(name in masks),
            group=id,
            classes=(class_name,) if name in masks else (),
        )
        for name, path in paths.items()
    ]


def _check_labels(table: Path, masks: dict[str, Path]) -> None:
    """Rows hold a number, 0 or 1 for defective, the image's name, and the mask's; the first line may be a count."""
    if not table.is_file():
        return
    for line, text in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = text.split()
        if len(words) < 3 or words[1] not in ("0", "1"):
            continue
        is_listed, has_mask = words[1] == "1", Path(words[2]).stem in masks
        if is_listed != has_mask:
            raise InputError(
                f"{table}, line {line}: {words[2]} is {'' if is_listed else 'not '}defective, but there is "
                f"{'a' if has_mask else 'no'} mask for it; unpack the data set again"
            )


def _good_part(folder: Path) -> list[Sample]:
    paths = sorted(files.by_name(folder).items(), key=lambda item: _natural(item[1]))
    return [
        Sample(id=(id := f"{folder.name}/{name}"), image=path, mask=None, label=0, group=id) for name, path in paths
    ]


def _drawn_part(folder: Path) -> list[Sample]:
    table = folder / "labels.txt"
    if not table.is_file():
        raise InputError(f"{table}: missing; the ellipses of the defects stand there; unpack the data set again")
    paths = files.by_name(folder)
    by_image: dict[str, list[drawings.Region]] = {}
    class_name = folder.name.removesuffix("_def")
    for line, text in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        source = f"{table}, line {line}"
        number, *values = _numbers(text, source)
        name = f"{number:.0f}"
        if name not in paths:
            raise InputError(f"{source}: there is no image {name} in {folder}; unpack the data set again")
        major, minor, radians, x, y = values
        ellipse = drawings.shape("ellipse", (x, y, major, minor, math.degrees(radians)), source)
        by_image.setdefault(name, []).append(drawings.Region(class_name, ellipse))
    if bare := [path for name, path in paths.items() if name not in by_image]:
        raise InputError(f"{table}: no line for {files.listed(path.name for path in bare)}; unpack the data set again")
    return [
        Sample(
            id=(id := f"{folder.name}/{name}"),
            image=path,
            mask=ShapeMask(tuple(region.shape for region in by_image[name]), f"{table}, image {name}"),
            label=1,
            group=id,
            classes=(class_name,),
        )
        for name, path in sorted(paths.items(), key=lambda item: _natural(item[1]))
    ]


def _numbers(text: str, source: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise InputError(f"{source}: {error}; wanted are {', '.join(_ELLIPSE_COLUMNS)}") from error
    if len(numbers) != len(_ELLIPSE_COLUMNS):
        raise InputError(f"{source}: {len(numbers)} numbers; wanted are {', '.join(_ELLIPSE_COLUMNS)}")
    return numbers
