"""Reader of the magnetic-tile defects: `MT_TYPE/Imgs/*.jpg`, each with a mask of the same name in PNG."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdefect.data.readers import files
from jaxdefect.types import InputError, MaskFile, Sample

_NAME = re.compile(r"exp(\d+)_num_(\d+)")
_GOOD = "Free"
_LARGEST_STEP = 1500  # between two exposures of one tile; 1257 is the largest seen
_LARGEST_CHANGE = 100  # the same where the type changes in between


class _Picture(NamedTuple):
    number: int
    exposure: int
    id: str


def read(root: Path) -> list[Sample]:
    """Reads the data set's samples: id "Blowhole/exp1_num_108719", class "Blowhole" (none for the folder MT_Free).

    A pixel is defect where the mask is above 127 (stray values of 1 to 9 lie beside the defects). Some masks of Uneven
    are empty, though the tile is uneven: such an image is known at image level only.

    Groups keep a tile together. A file name holds the exposure (0 to 6) and a running number, and a tile was
    photographed at all exposures one after the other: pictures of one type, ordered by number, show the same tile as
    long as the exposure rises (and the number does not leap). Series that run at the same time, of two tiles side by
    side or of one tile with two types of defect, become one group, as does a series that is continued under another
    type. The rule errs towards too large groups rather than a tile in two of them. A group is named after its first
    picture.

    Raises:
      InputError: no images, an image without its mask or the reverse, a name of another pattern, a mask that cannot be
        read, a mask of a good tile that marks a defect, or an empty mask of another type than Uneven.
    """
    samples = [sample for folder in sorted(root.glob("MT_*/Imgs")) for sample in _type(folder)]
    if not samples:
        raise InputError(
            f"{root}: no images MT_TYPE/Imgs/*.jpg; config.data.root must name the folder with MT_Free etc."
        )
    known: list[Sample] = []
    problems: list[str] = []
    for sample, found in zip(samples, files.have_defects(samples), strict=True):
        is_uneven_tile = found is False and sample.classes == ("Uneven",)
        known.append(dataclasses.replace(sample, mask=None) if is_uneven_tile else sample)
        if isinstance(found, InputError):
            problems.append(str(found))
        elif found != bool(sample.label) and not is_uneven_tile:
            what = "marks a defect" if found else "is empty"
            mask = sample.image.with_suffix(".png")
            problems.append(f"{mask}: the mask {what}, unlike its folder; unpack the data set again")
    grouped = _grouped(known)
    if problems:
        raise files.MasksError(problems, grouped)
    return grouped


def _type(folder: Path) -> list[Sample]:
    name = folder.parent.name.removeprefix("MT_")
    paths = files.by_name(folder, suffixes=(".jpg",))
    masks = files.by_name(folder, suffixes=(".png",))
    files.check_missing(paths, masks)
    files.check_orphans(masks, paths)
    return [
        Sample(
            id=f"{name}/{stem}",
            image=path,
            mask=MaskFile(masks[stem], above=127),
            label=int(name != _GOOD),
            group="",
            classes=() if name == _GOOD else (name,),
        )
        for stem, path in paths.items()
    ]


def _grouped(samples: Sequence[Sample]) -> list[Sample]:
    by_type: dict[tuple[str, ...], list[_Picture]] = {}
    for sample in samples:
        by_type.setdefault(sample.classes, []).append(_picture(sample))
    series = [one for pictures in by_type.values() for one in _series(sorted(pictures, key=lambda each: each.number))]
    series.sort(key=lambda one: one[0].number)
    tiles = [series[0]]
    for one in series[1:]:
        first, last = one[0], max(tiles[-1], key=lambda each: each.number)
        is_at_the_same_time = first.number <= last.number
        is_continued = first.exposure > last.exposure and first.number - last.number <= _LARGEST_CHANGE
        if is_at_the_same_time or is_continued:
            tiles[-1] = [*tiles[-1], *one]
        else:
            tiles.append(one)
    groups = {picture.id: tile[0].id for tile in tiles for picture in tile}
    return [dataclasses.replace(sample, group=groups[sample.id]) for sample in samples]


def _picture(sample: Sample) -> _Picture:
    match = _NAME.fullmatch(sample.image.stem)
    if not match:
        raise InputError(f"{sample.image}: the name is not expE_num_N, which tells the tiles apart; restore the name")
    return _Picture(int(match[2]), int(match[1]), sample.id)


def _series(pictures: Sequence[_Picture]) -> list[list[_Picture]]:
    """Pictures of one type in the order of their numbers, cut where another tile begins."""
    series: list[list[_Picture]] = []
    for picture in pictures:
        last = series[-1][-1] if series else None
        if last and picture.exposure > last.exposure and picture.number - last.number <= _LARGEST_STEP:
            series[-1].append(picture)
        else:
            series.append([picture])
    return series
