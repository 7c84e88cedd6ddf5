r"""One U-Net with a MobileNetV2 encoder per defect type, together an ensemble, on magnetic-tile defects.

Command:
  python -m launch.train --config=configs/magnetic_tile_ensemble.py --config.data.root=MagneticTile \
    --config.model.pretrained=mobilenet_v2-b0353104.pth --workdir=runs/magnetic_tile_ensemble
  The five detectors are trained side by side as one compiled program; with --config.ensemble.training=sequential one
  after the other, to the same numbers but for rounding, which norms magnify: on a CPU that starts in a quarter of the
  time, as one program for five takes minutes to compile, and is done earlier unless there are thousands of steps.
  Without --config.model.pretrained the encoder starts from random weights.
  Keras' weights (mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5) go with
  --config.model.padding=tensorflow --config.model.input_norm=symmetric.
Data: Magnetic-tile defects (https://github.com/abin24/Magnetic-tile-defect-datasets.), unpacked so that
  --config.data.root holds MT_Blowhole/Imgs/ and so on.
Published for reed straws: no figures of accuracy; 17 ms per image of 256x1248 on a GTX 1070.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The ensemble."""
    return ConfigDict(
        {
            "data": {
                "reader": "magnetic_tile",
                "root": "MagneticTile",
                "image_size": (256, 256),
                "num_channels": 3,
                "augment": {"flip": True, "brightness": 0.1, "contrast": 0.2},
            },
            "split": {"kind": "random", "test_fraction": 0.3, "validation_fraction": 0.15},
            "model": {"architecture": "unet_mobilenet_v2"},
            "loss": {"segmentation": "bce", "positive_weight": 5.0, "balance": "none", "decision_weight": 0.0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"},
            # A class has some ten validation images, of one or two tiles: too few to choose a checkpoint by.
            "training": {"epochs": 20, "batch_size": 4, "select": "last"},
            "ensemble": {"kind": "per_class", "training": "stacked"},
        }
    )
