"""Reader of the MVTec-AD layout: `train/good`, `test/TYPE` and `ground_truth/TYPE` of one category or several."""

from pathlib import Path

from jaxdefect.data.readers import files
from jaxdefect.types import InputError, Sample

_GOOD = "good"


def read(root: Path) -> list[Sample]:
    """Reads the category that `root` is, or all categories below it.

    Every image outside `good` is defective, of the class of its folder, with the mask
    `ground_truth/TYPE/NNN_mask.png`. Ids are "test/scratch/000"; with several categories ids and classes begin with
    the category ("bottle/test/contamination/000", "bottle/contamination"). Group is the id.

    Raises:
      InputError: no images, a defective image without its mask or the reverse.
    """
    categories = [root] if (root / "test").is_dir() or (root / "train").is_dir() else sorted(root.iterdir())
    samples = [
        sample
        for category in categories
        for part in ("train", "test")
        for folder in files.visible((category / part).glob("*"))
        for sample in _type(folder, prefix="" if category == root else f"{category.name}/")
    ]
    if not samples:
        raise InputError(
            f"{root}: no images train/good/* or test/TYPE/*; config.data.root must name the folder of a category, or "
            "the one that holds the categories"
        )
    return samples


def _type(folder: Path, *, prefix: str) -> list[Sample]:
    part, name = folder.parent.name, folder.name
    paths = files.by_name(folder)
    masks = files.by_name(folder.parents[1] / "ground_truth" / name, ending="_mask") if name != _GOOD else {}
    if name != _GOOD:
        files.check_missing(paths, masks)
        files.check_orphans(masks, paths)
    return [
        Sample(
            id=(id := f"{prefix}{part}/{name}/{stem}"),
            image=path,
            mask=masks.get(stem),
            label=int(name != _GOOD),
            group=id,
            classes=() if name == _GOOD else (f"{prefix}{name}",),
        )
        for stem, path in paths.items()
    ]
