"""Times the judgement of large gray images in tiles, from host memory to score, map and defects.

    python -m benchmarks.large_images [--images=7 --size=8192x12800 --tile=256 --overlap=0 --batch_size=64 --dtype=tf32
        --out=FILE.json]

By default the regression network on the seven images of a cover glass (He & Liu 2020: in 2.5 s on a GTX 1080 Ti; by the
paper's own table of 50 ms for 64 patches it would be 8.75 s), with untrained weights, on noise with some bright spots.
`--network=none` puts a mean over cells in the network's place: what is left is the host's work, and the spots are the
defects.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from jaxdefect import models
from jaxdefect.benchmark import environment, modes, results
from jaxdefect.config import Config, DataConfig
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.model_config import RegressionConfig
from launch import cli

_IMAGES = flags.DEFINE_integer("images", 7, "How many.")
_SIZE = flags.DEFINE_string("size", "8192x12800", "Of an image, HEIGHTxWIDTH.")
_TILE = flags.DEFINE_integer("tile", 256, "Side of a tile.")
_OVERLAP = flags.DEFINE_float("overlap", 0.0, "The share of a tile's side that neighbours have in common.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Tiles per computation.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", list(modes.DTYPES), "Of the network.")
_NETWORK = flags.DEFINE_enum("network", "regression", ["regression", "none"], "What judges a tile.")
_DEFECTS = flags.DEFINE_integer("defects", 5, "Bright spots of 32x32 pixels in an image.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Timed passes over all images.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")


def _cell_means(_: Any, images: jax.Array) -> dict[str, jax.Array]:
    """What a network returns, of the mean over cells of 4x4 pixels."""
    batch, height, width, _ = images.shape
    cells = images.reshape(batch, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
    return {"decision": cells.max(axis=(1, 2)), "probability": cells}


def predictor() -> Predictor:
    """The network with initial weights, in tiles."""
    model = RegressionConfig(dtype=_DTYPE.value)
    config = Config(model=model, data=DataConfig(image_size=(_TILE.value, _TILE.value)))
    module = models.build(model)
    is_network = _NETWORK.value == "regression"
    whole = Predictor(
        config=config,
        variables=jax.device_put(models.init(module, num_channels=1, seed=0)),
        checkpoint_step=0,
        workdir=Path(),
        calibration=None,
        forward=compile_forward(module.apply) if is_network else jax.jit(_cell_means),
    )
    return whole.in_tiles(overlap=_OVERLAP.value).on_all_devices()


def images() -> list[np.ndarray]:
    """[H, W, 1] uint8 each, below half but for the spots."""
    height, width = cli.size(_SIZE.value, flag="size")
    rng, made = np.random.default_rng(0), []
    for _ in range(_IMAGES.value):
        image = rng.integers(40, 80, (height, width, 1), np.uint8)
        for top, left in zip(
            rng.integers(0, height - 32, _DEFECTS.value), rng.integers(0, width - 32, _DEFECTS.value), strict=True
        ):
            image[top : top + 32, left : left + 32] = 250
        made.append(image)
    return made


def judge(predictor: Predictor, pixels: Sequence[np.ndarray]) -> dict[str, float]:
    """Seconds for scores and maps of all images, for their defects after that, and how many there are."""
    start = time.perf_counter()
    results = list(predictor.stream(map(predictor.prepare, pixels), batch_size=_BATCH_SIZE.value))
    judged = time.perf_counter()
    found = [predictor.with_defects(result) for result in results]
    finished = time.perf_counter()
    return {
        "maps": judged - start,
        "defects": finished - judged,
        "all": finished - start,
        "count": sum(len(result.defects) for result in found),
    }


def main(argv: Sequence[str]) -> None:
    """Prints the device and the medians."""
    del argv
    judging, pixels = predictor(), images()
    judge(judging, [pixels[0][: 2 * _TILE.value]])  # compiles
    passes = [judge(judging, pixels) for _ in range(_REPETITIONS.value)]
    found = environment.describe()
    seconds = {name: statistics.median(one[name] for one in passes) for name in passes[0]}
    rate = sum(image.size for image in pixels) / 1e6 / seconds["maps"]
    print(f"{found['devices']} x {found['device']} ({found['processor']}), {_NETWORK.value}, {_DTYPE.value}")
    print(
        f"{len(pixels)} images of {_SIZE.value}: scores and maps {seconds['maps']:.2f} s"
        f" ({rate:.0f} megapixels/s), {seconds['count']:.0f} defects {seconds['defects']:.2f} s, together"
        f" {seconds['all']:.2f} s"
    )
    if _OUT.value:
        results.save(Path(_OUT.value), {"passes": passes, "environment": found})


if __name__ == "__main__":
    app.run(main)
