"""Your own images: a folder with images/ and masks/, or with a labels.csv.

Command:
  python -m launch.train --config=configs/folder.py --config.data.root=DIR "--config.data.image_size=(512,512)" \
    --workdir=runs/mine
Data: either DIR/images/NAME.png with DIR/masks/NAME.png for every image (black: no defect), or DIR/labels.csv with the
columns image, label (0 or 1) and, where there are any, mask, group (images of one item) and classes. A defective image
without a mask trains the decision only.
The model is that of joint training (Božič 2021) with the steel detector's cheap kernels: a good start, not a paper's
recipe. Choose an image_size, multiples of 8, that keeps the smallest defect a few pixels wide.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "reader": "folder",
                "root": "",
                "image_size": (512, 512),
                "dilation_px": 5,
                "distance_power": 1.0,
                "distance_weight_max": 3.0,
                "sampling": "rare_negatives",
                "augment": {"flip": True, "brightness": 0.1, "contrast": 0.1},
            },
            "split": {"kind": "random", "test_fraction": 0.2, "validation_fraction": 0.2},
            "model": {"kernels": "atrous", "attention": True},
            "loss": {"segmentation": "bce", "balance": "linear", "decision_weight": 1.0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine", "gradient_clip": 1.0},
            "training": {"epochs": 40, "batch_size": 4},
        }
    )
