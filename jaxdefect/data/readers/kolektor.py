"""Reader of KolektorSDD: `kosNN/PartM.jpg` with a mask `kosNN/PartM_label.bmp` for every image."""

import concurrent.futures
from pathlib import Path

import cv2

from jaxdefect.data import images
from jaxdefect.data.readers import files
from jaxdefect.types import InputError, Sample

_NUM_THREADS = 8


def read(root: Path) -> list[Sample]:
    """Reads the data set's samples: id "kos01/Part0", group "kos01", label 1 where the mask has a pixel above 0.

    The published data are 399 images of 50 items, 52 of them defective.

    Raises:
      InputError: no images, an image without its mask or the reverse, or a mask that cannot be read.
    """
    image_paths = sorted(root.glob("kos*/Part*.jpg"))
    if not image_paths:
        raise InputError(
            f"{root}: no images kosNN/PartM.jpg; config.data.root must name the folder that holds kos01 to kos50"
        )
    mask_paths = [path.with_name(f"{path.stem}_label.bmp") for path in image_paths]
    present = set(root.glob("kos*/Part*_label.bmp"))
    if missing := [path for path in mask_paths if path not in present]:
        raise InputError(f"{missing[0]}: mask missing ({len(missing)} of {len(mask_paths)}); unpack the data set again")
    if orphans := sorted(present.difference(mask_paths)):
        raise InputError(f"{orphans[0]}: a mask without its image ({len(orphans)} such); unpack the data set again")
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = list(pool.map(_has_defect, mask_paths))
    samples = [
        Sample(id=f"{path.parent.name}/{path.stem}", image=path, mask=mask, label=0, group=path.parent.name)
        for path, mask in zip(image_paths, mask_paths, strict=True)
    ]
    return files.labelled(samples, found)


def _has_defect(mask: Path) -> bool | InputError:
    try:
        return bool(images.decode(mask, flags=cv2.IMREAD_GRAYSCALE).any())
    except InputError as error:
        return error
