"""Reader of KolektorSDD2: `train/` and `test/` with `NNNNN.png` and a mask `NNNNN_GT.png` for every image."""

from pathlib import Path

from jaxdefect.data.readers import files
from jaxdefect.types import InputError, Sample


def read(root: Path) -> list[Sample]:
    """Reads the data set's samples: id and group "train/10000", label 1 where the mask has a pixel above 0.

    The published data are 2331 images for training, 246 of them defective, and 1004 for testing, 110 of them defective.
    Files of other names, such as copies, are left out.

    Raises:
      InputError: no images, an image without its mask or the reverse, or a mask that cannot be read.
    """
    samples = [sample for part in ("train", "test") for sample in _part(root / part)]
    if not samples:
        raise InputError(
            f"{root}: no images train/NNNNN.png or test/NNNNN.png; config.data.root must name the folder that holds "
            "train and test"
        )
    return files.labelled_by_masks(samples)


def _part(folder: Path) -> list[Sample]:
    paths = {name: path for name, path in files.by_name(folder, suffixes=(".png",)).items() if name.isdigit()}
    masks = files.by_name(folder, ending="_GT", suffixes=(".png",))
    files.check_missing(paths, masks)
    files.check_orphans(masks, paths)
    return [
        Sample(id=f"{folder.name}/{name}", image=path, mask=masks[name], label=0, group=f"{folder.name}/{name}")
        for name, path in paths.items()
    ]
