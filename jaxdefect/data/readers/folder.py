"""Reader of a plain folder: `images/` and `masks/` paired by name, or one `labels.csv`."""

import csv
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from jaxdefect.data import images
from jaxdefect.data.readers import files
from jaxdefect.types import InputError, Sample

_LABELS = {"0": 0, "good": 0, "ok": 0, "1": 1, "defective": 1, "defect": 1, "bad": 1}
_COLUMNS = ("image", "label", "mask", "group", "classes")


def read(root: Path) -> list[Sample]:
    """Reads `root/labels.csv` if there is one, else `root/images/` with `root/masks/`.

    `labels.csv` has the columns image, label (0 or 1, also good or defective) and, if wanted, mask, group, classes
    (separated by spaces; of a good image none, or good); paths are relative to `root`. A defective image without a mask
    is known at image level only. The id is the image's path without its suffix (in `images/`: its name), the group by
    default the id.

    In `masks/` every image has a mask of the same name; an image is defective where its mask has a pixel above 0.

    Raises:
      InputError: no images; an image without a mask or the reverse; images in subfolders of `images/`; two images of
        one id; a wrong row of `labels.csv`; a mask that cannot be read, is of another size than its image, or
        contradicts the label.
    """
    if (root / "labels.csv").is_file():
        return _read_table(root)
    return _read_pairs(root)


def _read_pairs(root: Path) -> list[Sample]:
    _check_flat(root / "images")
    image_paths, mask_paths = files.by_name(root / "images"), files.by_name(root / "masks")
    if not image_paths:
        raise InputError(
            f"{root}: no labels.csv and no images in {root / 'images'}; config.data.root must name a folder with "
            "images/ and masks/, or with labels.csv"
        )
    if missing := [path.name for stem, path in image_paths.items() if stem not in mask_paths]:
        raise InputError(
            f"{root / 'masks'}: no mask for {files.listed(missing)}; give an image without a defect a mask that is all "
            "zero, or write labels.csv (columns image, label, mask), where a mask may be left out"
        )
    if orphans := [path.name for stem, path in mask_paths.items() if stem not in image_paths]:
        raise InputError(
            f"{root / 'images'}: no image for the mask of {files.listed(orphans)}; add it or remove the mask"
        )
    return files.labelled_by_masks(
        [Sample(id=stem, image=path, mask=mask_paths[stem], label=0, group=stem) for stem, path in image_paths.items()]
    )


def _check_flat(folder: Path) -> None:
    for each in files.visible(folder.glob("*/")):
        if any(path.suffix.lower() in images.IMAGE_SUFFIXES for path in files.visible(each.rglob("*"))):
            raise InputError(
                f"{each}: holds images, but only those directly in {folder} are read; move them there, or list all in "
                "labels.csv (columns image, label, mask)"
            )


def _read_table(root: Path) -> list[Sample]:
    table = root / "labels.csv"
    samples: list[tuple[int, Sample]] = []
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            header = reader.fieldnames or []
            if unknown := [name for name in header if name not in _COLUMNS]:
                raise InputError(f"{table}, line 1: unknown column {unknown[0]!r}; known are {', '.join(_COLUMNS)}")
            if repeated := [name for name in _COLUMNS if header.count(name) > 1]:
                raise InputError(f"{table}, line 1: the column {repeated[0]!r} stands there twice; remove one")
            if lacking := [name for name in _COLUMNS[:2] if name not in header]:
                raise InputError(f"{table}, line 1: the column {lacking[0]!r} is missing; wanted are image, label")
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{table}, line {reader.line_num}: as many columns as the header's wanted")
                samples.append((reader.line_num, _row_sample(root, row, f"{table}, line {reader.line_num}")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{table}, after line {reader.line_num}: not a CSV text file: {error}") from error
    if not samples:
        raise InputError(f"{table}: no rows below the header; list one image per line")
    lines: dict[str | Path, int] = {}
    resolved = functools.cache(Path.resolve)  # folders are few
    for line, sample in samples:
        if (other := lines.setdefault(sample.id, line)) != line:
            raise InputError(f"{table}, line {line}: duplicate id {sample.id!r}, it stands in line {other} too")
        # Two links to one file are two names; they are left to the audit, like copies.
        if (other := lines.setdefault(resolved(sample.image.parent) / sample.image.name, line)) != line:
            raise InputError(f"{table}, line {line}: the image {sample.image} stands in line {other} too; remove one")
    _check_masks(samples, table)
    return [sample for _, sample in samples]


def _row_sample(root: Path, row: dict[str, str], source: str) -> Sample:
    word = row["label"].strip().lower()
    if word not in _LABELS:
        raise InputError(f"{source}: label {row['label']!r} must be 0 (good) or 1 (defective)")
    name = row["image"].strip()
    image, mask = root / name, row.get("mask", "").strip()
    if not name or not os.path.isfile(image):  # unlike `Path.is_file`, false of a name that is too long
        raise InputError(f"{source}: the image {name!r} does not exist under {root}")
    if mask and not os.path.isfile(root / mask):
        raise InputError(f"{source}: the mask {mask!r} does not exist under {root}; leave the field empty for no mask")
    classes = tuple(sorted(set(row.get("classes", "").split())))
    if not _LABELS[word]:
        classes = tuple(name for name in classes if _LABELS.get(name.lower()) != 0)  # "good" says what the label says
    if classes and not _LABELS[word]:
        raise InputError(
            f"{source}: the label is {row['label']!r} but the classes are {' '.join(classes)!r}; correct one"
        )
    id = Path(name).with_suffix("").as_posix()
    return Sample(
        id=id,
        image=image,
        mask=root / mask if mask else None,
        label=_LABELS[word],
        group=row.get("group", "").strip() or id,
        classes=classes,
    )


def _check_masks(samples: Sequence[tuple[int, Sample]], table: Path) -> None:
    """Holds every mask against its label: a contradiction is a slip in one of the two."""
    masked = [(line, sample) for line, sample in samples if sample.mask is not None]
    problems = []
    for (line, sample), found in zip(masked, files.have_defects(sample for _, sample in masked), strict=True):
        if isinstance(found, InputError):
            problems.append(f"{table}, line {line}: {found}")
        elif found != bool(sample.label):
            what = "marks a defect" if found else "is empty"
            problems.append(
                f"{table}, line {line}: the label is {sample.label} but the mask {sample.mask} {what}; correct one"
            )
    if problems:
        raise files.MasksError(problems, [sample for _, sample in samples])
