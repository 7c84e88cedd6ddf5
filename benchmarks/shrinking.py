"""Times how images of 8 bit are shrunk to a network's input, by OpenCV's INTER_AREA and by ours, in turns.

python -m benchmarks.shrinking [--repetitions=15 --out=FILE.json]
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from benchmarks import turns
from jaxdefect.benchmark import environment, results
from jaxdefect.data import images
from launch import cli

_REPETITIONS = flags.DEFINE_integer("repetitions", 15, "Timed calls of each; both alternate.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")

# [H, W, C], and the result's height and width.
_SIZES = (
    ((480, 320, 1), (320, 240)),
    ((1263, 500, 1), (704, 256)),
    ((1200, 1600, 3), (512, 512)),
    ((4000, 3000, 1), (512, 512)),
    ((4000, 3000, 3), (512, 512)),
    ((8192, 12800, 1), (1024, 1024)),
)


def main(argv: Sequence[str]) -> None:
    """Prints two lines for each size."""
    del argv
    cv2.setNumThreads(0)  # images are read in several threads
    figures, rng = [], np.random.default_rng(0)
    for shape, (height, width) in _SIZES:
        pixels = rng.integers(0, 256, shape, np.uint8)

        def by_opencv(pixels: np.ndarray = pixels, size: tuple[int, int] = (width, height)) -> np.ndarray:
            return cv2.resize(images.to_unit_range(pixels), size, interpolation=cv2.INTER_AREA)

        def ours(pixels: np.ndarray = pixels, size: tuple[int, int] = (height, width)) -> np.ndarray:
            return images.to_input(pixels, *size).squeeze()

        name = f"{list(shape)} to {height}x{width}"
        figures += turns.report(name, {"OpenCV": by_opencv, "ours": ours}, repetitions=_REPETITIONS.value)
    if _OUT.value:
        results.save(Path(_OUT.value), {"rows": figures, "environment": environment.describe()})


if __name__ == "__main__":
    cli.run(main)
