r"""Deep regression of defect severity in four stages (He & Liu 2020) on magnetic-tile defects of five types.

Command:
  python -m launch.train --config=configs/magnetic_tile_regression.py --config.data.root=MagneticTile \
    --workdir=runs/magnetic_tile_regression
  One command trains all: the regression network on 256x256 patches, then the classifier (five types, or not a defect).
  --config.classifier.model.pretrained=resnet101-63fe2227.pth --config.classifier.model.input_norm=imagenet starts the
  classifier from torchvision's ImageNet weights, as the paper does, with --config.data.num_channels=3.
Data: Magnetic-tile defects (https://github.com/abin24/Magnetic-tile-defect-datasets.), unpacked so that
  --config.data.root holds MT_Blowhole/Imgs/ and so on.
Paper, on DAGM's classes 1 to 6: AR 0.6902, mean IoU 0.8450, P 0.925, R 0.908; without the classifier AR 0.6366, mean
IoU 0.8172, P 0.891.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The whole pipeline."""
    return ConfigDict(
        {
            "data": {
                "reader": "magnetic_tile",
                "root": "MagneticTile",
                "image_size": (256, 256),
                "fit": "patches",
                "patch_stride_px": 64,
                "target": "severity",
                "augment": {
                    "flip": True,
                    "affine_degrees": 180.0,
                    "affine_shift": 0.1,
                    "brightness": 0.1,
                    "contrast": 0.2,
                    "noise": 0.02,
                },
            },
            "split": {"kind": "random", "test_fraction": 0.3, "validation_fraction": 0.15},
            "model": {"architecture": "regression", "cell_px": 4},
            "loss": {"segmentation": "l2", "balance": "none", "decision_weight": 0.0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3},
            "training": {
                "epochs": 40,
                "batch_size": 8,
                "select": "best",
                "select_by": "segmentation_loss",
                "patience_epochs": 8,
            },
            "inference": {"pixel_criterion": "mean_iou", "join_distance_px": 4},
            "classifier": {
                "is_enabled": True,
                "model": {"depth": 101, "input_norm": "none"},
                "augment": {"flip": True, "rotate90": True, "brightness": 0.1, "contrast": 0.2},
                "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"},
                "training": {"epochs": 40, "batch_size": 16, "select_by": "accuracy"},
            },
        }
    )
