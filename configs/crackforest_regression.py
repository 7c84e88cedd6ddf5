r"""Deep regression of defect severity in four stages (He & Liu 2020) on CrackForest's road cracks.

Command:
  python -m launch.train --config=configs/crackforest_regression.py --config.data.root=CrackForest \
    --workdir=runs/crackforest
  One command trains all: the regression network on 256x256 patches, then the classifier on windows over true defects
  and the regression's false alarms (run it in the project's root: the split is configs/splits/crackforest.json).
  --config.classifier.is_enabled=False stops before the classifier.
Data: CrackForest (https://github.com/cuilimeng/CrackForest-dataset), unpacked so that --config.data.root holds image/
  and groundTruth/. Of its 155 images the 118 with annotations are used: 64 to train, 8 to validate, 46 to test, by id.
Paper, on AigleRN: pixel precision 0.9313, recall 0.9440, F1 0.9375.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The whole pipeline."""
    return ConfigDict(
        {
            "data": {
                "reader": "crackforest",
                "root": "CrackForest",
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
            "split": {"kind": "manifest", "path": "configs/splits/crackforest.json"},
            "model": {"architecture": "regression", "cell_px": 4},
            "loss": {"segmentation": "l2", "balance": "none", "decision_weight": 0.0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3},
            "training": {
                "epochs": 60,
                "batch_size": 8,
                "select": "best",
                "select_by": "segmentation_loss",
                "patience_epochs": 10,
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
