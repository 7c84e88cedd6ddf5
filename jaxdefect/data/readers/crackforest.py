"""Reader of CrackForest: `image/NNN.jpg` with the cracks in `groundTruth/NNN.mat`."""

from pathlib import Path

from jaxdefect.data.readers import files
from jaxdefect.types import InputError, MaskFile, Sample


def read(root: Path) -> list[Sample]:
    """Reads the data set's samples: id and group "001", all with cracks (class "crack").

    A pixel is crack where `groundTruth.Segmentation` is above 1. An image without its .mat file is known at image level
    only. The published data are 155 images, 118 of them with masks.

    Raises:
      InputError: no images, or a mask without its image.
    """
    paths = files.by_name(root / "image")
    if not paths:
        raise InputError(
            f"{root}: no images in image/; config.data.root must name the folder with image/, groundTruth/"
        )
    masks = files.by_name(root / "groundTruth", suffixes=(".mat",))
    files.check_orphans(masks, paths)
    return [
        Sample(
            id=name,
            image=path,
            mask=MaskFile(masks[name], above=1) if name in masks else None,
            label=1,
            group=name,
            classes=("crack",),
        )
        for name, path in paths.items()
    ]
