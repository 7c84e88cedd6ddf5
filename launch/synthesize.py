"""Writes a procedural data set: `python -m launch.synthesize --layout=severstal --out=data/severstal_synthetic`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from absl import flags

from jaxdefect.config import SyntheticConfig
from jaxdefect.data import synthetic
from launch import cli

_DEFAULTS = SyntheticConfig()
# What trains on each layout.
_CONFIGS = {"severstal": "configs/severstal_mixed.py", "folder": "configs/folder.py"}

_LAYOUT = flags.DEFINE_enum(
    "layout", _DEFAULTS.layout, list(_CONFIGS), "train.csv + train_images/*.jpg, or images/*.png + masks/*.png"
)
_OUT = flags.DEFINE_string("out", None, "the folder to write to; it must be empty or not exist")
_NUM_IMAGES = flags.DEFINE_integer("num_images", _DEFAULTS.num_images, "how many images")
_POSITIVE_FRACTION = flags.DEFINE_float("positive_fraction", _DEFAULTS.positive_fraction, "the defective part of them")
_HEIGHT = flags.DEFINE_integer("height", _DEFAULTS.height, "of every image, in pixels")
_WIDTH = flags.DEFINE_integer("width", _DEFAULTS.width, "of every image, in pixels")
_SEED = flags.DEFINE_integer("seed", _DEFAULTS.seed, "another seed, other images")


def main(argv: Sequence[str]) -> None:
    """Writes the data set and says what it is and how to train on it."""
    del argv
    out = Path(cli.required(_OUT))
    synthetic.write(
        out,
        layout=cast(Literal["severstal", "folder"], _LAYOUT.value),
        num_images=_NUM_IMAGES.value,
        positive_fraction=_POSITIVE_FRACTION.value,
        height=_HEIGHT.value,
        width=_WIDTH.value,
        seed=_SEED.value,
    )
    num_positive = sum(
        synthetic.is_positive(index, positive_fraction=_POSITIVE_FRACTION.value) for index in range(_NUM_IMAGES.value)
    )
    print(
        f"wrote {_NUM_IMAGES.value} images of {_HEIGHT.value} x {_WIDTH.value}, {num_positive} of them defective, "
        f"in the {_LAYOUT.value} layout to {out}\n"
        f"next: python -m launch.train --config={_CONFIGS[_LAYOUT.value]} --config.data.root={out} --workdir=runs/first"
    )


if __name__ == "__main__":
    cli.run(main)
