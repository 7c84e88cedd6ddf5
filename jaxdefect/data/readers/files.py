"""What the readers share: image files by name, masks held against their images, and checks on the result."""

import concurrent.futures
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from jaxdefect.data import annotation, images
from jaxdefect.types import InputError, Sample

_NUM_THREADS = 8
_NUM_LISTED = 5
_NUM_PROBLEMS = 10


class MasksError(InputError):
    """Masks that cannot be used or contradict: all that are wrong, and the `samples` as they stand, for an audit."""

    def __init__(self, problems: Sequence[str], samples: Sequence[Sample]) -> None:
        text = "\n  ".join(problems[:_NUM_PROBLEMS])
        if len(problems) > 1:
            rest = f"\n  and {len(problems) - _NUM_PROBLEMS} more" if len(problems) > _NUM_PROBLEMS else ""
            text = f"{len(problems)} of {len(samples)} images or their masks have a problem:\n  {text}{rest}"
        super().__init__(text)
        self.samples = list(samples)


def by_name(folder: Path, *, ending: str = "", suffixes: Collection[str] = images.IMAGE_SUFFIXES) -> dict[str, Path]:
    """The files of a folder by name without suffix and without `ending`, which their names must have; sorted.

    Suffixes count in any case. Hidden files are left out.

    Raises:
      InputError: two files of one name.
    """
    paths: dict[str, Path] = {}
    for path in visible(folder.glob("*")):
        if path.suffix.lower() not in suffixes or not path.stem.endswith(ending):
            continue
        name = path.stem.removesuffix(ending)
        if (other := paths.setdefault(name, path)) != path:
            raise InputError(f"{path}: duplicate id {name!r}, {other.name} has it too; rename or remove one")
    return paths


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths that are not hidden (`images.is_hidden`), sorted."""
    return sorted(path for path in paths if not images.is_hidden(path.name))


def check_orphans(masks: Mapping[str, Path], image_names: Collection[str]) -> None:
    """Raises `InputError` where a mask has no image."""
    if orphans := [path for name, path in masks.items() if name not in image_names]:
        raise InputError(f"{orphans[0]}: a mask without its image ({len(orphans)} such); unpack the data set again")


def check_missing(image_paths: Mapping[str, Path], mask_names: Collection[str]) -> None:
    """Raises `InputError` where an image has no mask."""
    if missing := [path for name, path in image_paths.items() if name not in mask_names]:
        raise InputError(f"{missing[0]}: has no mask ({len(missing)} such); unpack the data set again")


def have_defects(samples: Iterable[Sample]) -> list[bool | InputError]:
    """Whether each sample's mask marks a pixel; an error where it cannot be read, or is not of its image's size."""

    def has_defect(sample: Sample) -> bool | InputError:
        try:
            height, width = images.image_size(sample.image)
            return bool(annotation.load_mask(sample, height=height, width=width).any())
        except InputError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(has_defect, samples))


def labelled_by_masks(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with label 1 where the mask marks a pixel and, there alone, with their classes.

    Raises:
      MasksError: a mask cannot be read or is of another size than its image; see `labelled`.
    """
    return labelled(samples, have_defects(samples))


def labelled(samples: Sequence[Sample], found: Sequence[bool | InputError]) -> list[Sample]:
    """The samples with label 1 where a defect was found and, there alone, with their classes.

    Raises:
      MasksError: of the errors in `found`; in its samples such an image is defective.
    """
    known = [
        dataclasses.replace(sample, label=int(bool(each)), classes=sample.classes if each else ())
        for sample, each in zip(samples, found, strict=True)
    ]
    if problems := [str(each) for each in found if isinstance(each, InputError)]:
        raise MasksError(problems, known)
    return known


def check_ids(samples: Sequence[Sample]) -> None:
    """Raises `InputError` where two samples have one id."""
    paths: dict[str, Path] = {}
    for sample in samples:
        if (other := paths.setdefault(sample.id, sample.image)) != sample.image:
            raise InputError(f"{sample.image}: duplicate id {sample.id!r}, {other} has it too; rename or remove one")


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more."""
    names = list(names)
    text = ", ".join(names[:_NUM_LISTED])
    return text if len(names) <= _NUM_LISTED else f"{text} and {len(names) - _NUM_LISTED} more"
