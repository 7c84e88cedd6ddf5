"""Reader of AigleRN, the part of the TITS 2016 road-crack data that has cracks of the AIGLE_RN sensor with masks."""

import re
from pathlib import Path

import cv2
import numpy as np

from jaxdefect.data import annotation, images
from jaxdefect.data.readers import files
from jaxdefect.types import InputError, RunLengthMask, Sample

_IMAGE = re.compile(r"Im_GT_AIGLE_RN_([A-Z]\d+)([a-z]?)(?:or)?")


def read(root: Path) -> list[Sample]:
    """Reads `IMAGES/AIGLE_RN/Im_GT_AIGLE_RN_F01aor.png` with `GROUND_TRUTH/AIGLE_RN/GT_AIGLE_RN_F01a.png`.

    That is how the authors' archive has them; `root` is the folder that holds IMAGES, or up to two above it, and
    GROUNDTRUTH, as its README has it, does as well. Images named `Im_noGT` have no ground truth and are left out, and
    so are the other sensors. The published data are 38 images, all with cracks.

    The masks are in black and white without saying which of the two is the crack: it is the rarer one. Since a mask
    file cannot say that, the masks are decoded here and kept as run lengths. Id "F01a"; the group is "F01", since the
    letters tell neighbouring stretches of one road apart; the class is "crack".

    Raises:
      InputError: no images, an image without its mask or the reverse, a mask that cannot be read or is empty, or a mask
        of another size than its image.
    """
    folders = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}IMAGES/AIGLE_RN"))]
    if not folders:
        raise InputError(
            f"{root}: no folder IMAGES/AIGLE_RN; config.data.root must name the folder with IMAGES and GROUND_TRUTH"
        )
    base = folders[0].parents[1]
    masks = {
        path.stem.removeprefix("GT_AIGLE_RN_"): path
        for name in ("GROUND_TRUTH", "GROUNDTRUTH")
        for path in files.by_name(base / name / "AIGLE_RN").values()
    }
    paths: dict[str, Path] = {}
    groups: dict[str, str] = {}
    for stem, path in files.by_name(folders[0]).items():
        if match := _IMAGE.fullmatch(stem):
            id = "".join(match.groups())
            paths[id], groups[id] = path, match[1]
    if not paths:
        raise InputError(f"{folders[0]}: no images Im_GT_AIGLE_RN_*or.png; unpack the data set again")
    files.check_missing(paths, masks)
    files.check_orphans(masks, paths)
    return [
        Sample(id, path, _mask(masks[id], path), label=1, group=groups[id], classes=("crack",))
        for id, path in paths.items()
    ]


def _mask(mask: Path, image: Path) -> RunLengthMask:
    pixels = images.decode(mask, flags=cv2.IMREAD_GRAYSCALE)
    if pixels.shape != images.image_size(image):
        raise InputError(f"{mask}: the mask is {pixels.shape} pixels, its image {image} {images.image_size(image)}")
    is_light = pixels > 127
    is_crack = is_light if is_light.mean() < 0.5 else ~is_light
    if not is_crack.any():
        raise InputError(f"{mask}: the mask is of one colour; copy the file again")
    return RunLengthMask(annotation.encode_runs(is_crack.astype(np.uint8)), source=str(mask))
