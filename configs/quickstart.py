"""A first training in about a minute on two CPU cores, on procedurally made steel surfaces; needs no data.

Command:
  python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart
Data: written to data/quickstart on the first start (see `jaxdefect/data/synthetic.py`).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "reader": "synthetic",
                "root": "data/quickstart",
                "image_size": (128, 256),
                "dilation_px": 5,
                "synthetic": {"layout": "folder", "num_images": 120, "height": 256, "width": 512},
            },
            "split": {"kind": "random"},
            "model": {"kernels": "atrous", "attention": True},
            "loss": {"segmentation": "bce", "balance": "linear", "decision_weight": 1.0},
            "optimizer": {"name": "adam", "learning_rate": 2e-3, "schedule": "cosine", "gradient_clip": 1.0},
            "training": {"epochs": 8, "batch_size": 4, "validate_every_epochs": 2},
        }
    )
