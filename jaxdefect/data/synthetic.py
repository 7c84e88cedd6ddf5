"""A data set of procedural rolled-steel surfaces, written in the layout of real ones: the embedded default.

`severstal`: train.csv with run-length masks and train_images/*.jpg. `folder`: images/*.png and masks/*.png, 0 or 255,
all zero for a negative.
"""

import csv
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from jaxdefect.data import annotation
from jaxdefect.data.surfaces import Surface, render
from jaxdefect.types import InputError

PARAMETERS_FILE = "synthetic.json"
# Raised whenever the same parameters give other pixels, so that a data set of an older generator is recognised.
GENERATOR_VERSION = 1

_JPEG_QUALITY = 90
_SMALLEST_SIDE = 64


def write(
    root: Path,
    *,
    layout: Literal["severstal", "folder"],
    num_images: int,
    positive_fraction: float,
    height: int,
    width: int,
    seed: int,
) -> None:
    """Writes a data set to `root`, all or nothing, with its parameters in `synthetic.json` beside the images.

    Image number i depends on the seed, its number and its label alone: a larger `num_images` only adds images, and
    the same parameters give the same bytes (under the same OpenCV). floor(num_images * positive_fraction) images
    carry one to three defects of one or two classes.

    Raises:
      InputError: a parameter out of range, `root` a file or not empty, or a place that cannot be written to.
    """
    parameters = describe(
        layout=layout,
        num_images=num_images,
        positive_fraction=positive_fraction,
        height=height,
        width=width,
        seed=seed,
    )
    _check(parameters)
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise InputError(f"{root}: exists and is not an empty folder; delete it or choose another place")
    writer = {"severstal": _write_severstal, "folder": _write_folder}[layout]
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # A sibling, because a rename is atomic only within one file system.
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as temporary:
            incomplete = Path(temporary) / "data"
            incomplete.mkdir()
            writer(incomplete, parameters)
            (incomplete / PARAMETERS_FILE).write_text(json.dumps(parameters, indent=2) + "\n")
            os.replace(incomplete, root)
    except OSError as error:
        raise InputError(
            f"{root}: cannot write the synthetic data set here ({error.strerror}); choose another place"
        ) from error


def describe(**parameters: Any) -> dict[str, Any]:
    """What `synthetic.json` holds for these arguments of `write`: the arguments and the generator's version."""
    return {"generator_version": GENERATOR_VERSION, **parameters}


def is_positive(index: int, *, positive_fraction: float) -> bool:
    """Whether image number `index` is defective: evenly spread, and independent of how many images follow."""
    return int((index + 1) * positive_fraction + 1e-9) > int(index * positive_fraction + 1e-9)


def _check(parameters: dict[str, Any]) -> None:
    def require(ok: bool, name: str, wanted: str) -> None:
        if not ok:
            raise InputError(f"synthetic data set: {name} = {parameters[name]!r}: must be {wanted}")

    require(parameters["num_images"] >= 1, "num_images", "1 or more")
    require(0 <= parameters["positive_fraction"] <= 1, "positive_fraction", "in [0, 1]")
    require(parameters["seed"] >= 0, "seed", "0 or more")
    for side in ("height", "width"):
        require(parameters[side] >= _SMALLEST_SIDE, side, f"{_SMALLEST_SIDE} or more")


def image_id(index: int) -> str:
    """Nine hexadecimal digits, as Severstal has them: distinct, and in no order that gives the label away."""
    scattered = (index + 1) * 0x9E3779B97 % 2**36  # an odd factor: one to one
    return f"{scattered ^ scattered >> 18:09x}"  # or else the last digit's parity would alternate with the index


def _run_text(mask: np.ndarray) -> str:
    """A [H, W] mask as "start length start length …", as train.csv has it."""
    return " ".join(f"{start} {length}" for start, length in annotation.encode_runs(mask))


def _for_each_surface(parameters: dict[str, Any], save: Callable[[str, Surface], Any]) -> list[Any]:
    """Renders and saves every image, in threads (NumPy and OpenCV release the lock); results sorted by image id."""

    def job(index: int) -> tuple[str, Any]:
        surface = render(
            seed=parameters["seed"],
            index=index,
            is_positive=is_positive(index, positive_fraction=parameters["positive_fraction"]),
            height=parameters["height"],
            width=parameters["width"],
        )
        name = image_id(index)
        return name, save(name, surface)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = dict(pool.map(job, range(parameters["num_images"])))
    return [results[name] for name in sorted(results)]


def _write_severstal(folder: Path, parameters: dict[str, Any]) -> None:
    images = folder / "train_images"
    images.mkdir()

    def save(name: str, surface: Surface) -> list[tuple[str, int, str]]:
        # Three equal channels, as the original's files have.
        colour = cv2.cvtColor(surface.image, cv2.COLOR_GRAY2BGR)
        _save(images / f"{name}.jpg", colour, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        return [(f"{name}.jpg", class_id, _run_text(mask)) for class_id, mask in sorted(surface.masks.items())]

    rows = [row for rows in _for_each_surface(parameters, save) for row in rows]
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("ImageId", "ClassId", "EncodedPixels"))
        writer.writerows(rows)


def _write_folder(folder: Path, parameters: dict[str, Any]) -> None:
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()

    def save(name: str, surface: Surface) -> None:
        union = np.zeros(surface.image.shape, np.uint8)
        for mask in surface.masks.values():
            union[mask] = 255
        _save(images / f"{name}.png", surface.image, [])
        _save(masks / f"{name}.png", union, [])

    _for_each_surface(parameters, save)


def _save(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Encodes and writes; `cv2.imwrite` would only return False where the disk is full."""
    _, encoded = cv2.imencode(path.suffix, image, options)
    path.write_bytes(encoded.tobytes())
