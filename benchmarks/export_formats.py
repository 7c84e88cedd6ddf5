"""Exports every architecture to every format and compares it there with the original, on images of your own.

    python -m benchmarks.export_formats '--images=KolektorSDD/**/*.jpg' --size=352x128

The weights are initial ones; batch norm has the statistics of these images. Prints a Markdown table: differences as
`jaxdefect.interop.checking.Check` has them, and the median time of an image alone, of JAX and of the format's runtime.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxdefect import models
from jaxdefect.data.images import read_image, resize_image
from jaxdefect.inference.files import find_images
from jaxdefect.interop import checking, runtimes
from jaxdefect.model_config import (
    BackgroundSuppressionConfig,
    MobileNetV2Config,
    ModelConfig,
    RegressionConfig,
    ResNetConfig,
    SegDecConfig,
    UNetConfig,
    UNetMobileNetV2Config,
)
from launch import cli

_IMAGES = flags.DEFINE_string("images", None, "folder or quoted pattern")
_SIZE = flags.DEFINE_string("size", "352x128", "of the network's input, HEIGHTxWIDTH")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 20, "images to compare on")
_ONLY = flags.DEFINE_list("only", None, "names of rows; default: all")
_STATISTICS_PASSES = 40  # of batch norm: 0.9^40 of the initial statistics is left

ARCHITECTURES: dict[str, ModelConfig] = {
    "segdec": SegDecConfig(),
    "segdec, official": SegDecConfig(num_first_convs=1, norm="feature_official"),
    "segdec, atrous and attention": SegDecConfig(kernels="atrous", attention=True),
    "segdec, unet": SegDecConfig(segmentation="unet", norm="batch"),
    "segdec, deeplab": SegDecConfig(segmentation="deeplab", norm="batch"),
    "segdec, deeplab, feature norm": SegDecConfig(segmentation="deeplab"),
    "background_suppression": BackgroundSuppressionConfig(),
    "regression": RegressionConfig(),
    "unet": UNetConfig(),
    "unet_mobilenet_v2": UNetMobileNetV2Config(),
    "resnet, 101": ResNetConfig(depth=101, num_classes=6),
    "mobilenet_v2": MobileNetV2Config(num_classes=6),
}


def main(argv: Sequence[str]) -> None:
    """Prints a row for every architecture and format."""
    del argv
    height, width = cli.size(_SIZE.value, flag="size")
    paths = list(find_images(cli.required(_IMAGES), out=Path("results")).values())
    chosen = [paths[place] for place in np.linspace(0, len(paths) - 1, _NUM_IMAGES.value).astype(int)]
    images = np.stack([resize_image(read_image(path, num_channels=1), height, width) for path in chosen])
    print("| architecture | format | probability | logit | JAX, ms | exported, ms |\n|---|---|---|---|---|---|")
    for name in _ONLY.value or ARCHITECTURES:
        network = _network(ARCHITECTURES[name], images)
        for kind, runtime in runtimes.RUNTIMES.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"model{runtime.suffix}"
                runtime.write(network, path, None, ("cpu", "cuda"))
                check = checking.check(network, runtime.open(path), images, batch=None)
            print(
                f"| {name} | {kind} | {check.probability:.1e} | {check.logit:.1e} | {check.original_ms:.0f} | "
                f"{check.exported_ms:.0f} |",
                flush=True,
            )


def _network(config: ModelConfig, images: np.ndarray) -> runtimes.Network:
    module = models.build(config)
    variables = _with_statistics(module, models.init(module, num_channels=1, seed=0), images[:4])

    def function(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        outputs: Any = module.apply(variables, images, train=False)
        return {name: outputs[name].astype(jnp.float32) for name in outputs if name != "segmentation"}

    return runtimes.Network(function, jax.device_get(variables), images.shape[1:])


def _with_statistics(module: Any, variables: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
    """The variables with running averages of these images, where the network has any."""
    if "batch_stats" not in variables:
        return variables

    @jax.jit
    def update(variables: dict[str, Any]) -> dict[str, Any]:
        _, changed = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return {**variables, **changed}

    for _ in range(_STATISTICS_PASSES):
        variables = update(variables)
    return variables


if __name__ == "__main__":
    cli.run(main)
