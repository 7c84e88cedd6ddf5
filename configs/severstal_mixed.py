"""The steel detector (Bi 2022) on Severstal with mixed supervision: some of the defective images carry masks.

Command:
  python -m launch.train --config=configs/severstal_mixed.py:num_positives=3000,num_masks=150 \
    --config.data.root=severstal --workdir=runs/severstal_mixed
  The argument after the colon is optional (3000 positives, 150 masks). It ties epochs and beta to the number of
  positives as in the paper (90/0.01, 80/0.01, 60/0.015, 40/0.02 for up to 300, 750, 1500, 3000), which overriding
  --config.split.num_positives does not.
Data: the Kaggle competition "severstal-steel-defect-detection", unpacked to train.csv and train_images/ (12,568 images
  of 256x1600). The paper's own split is not published; ours is random by seed.
Paper, AP on the test images with 3000 positives: 98.2 % with 150 masks, 98.7 % with 750, 98.8 % with 1500
(96.2 % with none: severstal_weak.py; 99.6 % with all: severstal_full.py).
"""

from ml_collections import ConfigDict

_SCHEDULES = ((300, 90, 0.01), (750, 80, 0.01), (1500, 60, 0.015), (3000, 40, 0.02))  # positives, epochs, beta


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: "num_positives=3000,num_masks=150", either part optional; num_masks=-1 means all."""
    given = {"num_positives": 3000, "num_masks": 150}
    for part in filter(None, argument.split(",")):
        name, _, value = part.partition("=")
        if name not in given or not value.lstrip("-").isdigit():
            raise ValueError(f"{part!r}: write num_positives=COUNT,num_masks=COUNT (-1: all)")
        given[name] = int(value)
    num_positives, num_masks = given["num_positives"], given["num_masks"]
    epochs, decay_rate = _SCHEDULES[-1][1:]
    if num_positives >= 0:
        epochs, decay_rate = next(((e, b) for most, e, b in _SCHEDULES if num_positives <= most), _SCHEDULES[-1][1:])
    return ConfigDict(
        {
            "data": {
                "reader": "severstal",
                "root": "severstal",
                "image_size": (256, 1600),
                "distance_power": 2.0,
                "distance_weight_max": 1.0,
                "sampling": "rare_negatives",
            },
            "split": {"kind": "random", "num_positives": num_positives, "num_masks": num_masks},
            "model": {"kernels": "atrous", "attention": True},
            "loss": {"segmentation": "mse", "balance": "decay", "decay_rate": decay_rate, "decision_weight": 0.1},
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
            "training": {"epochs": epochs, "batch_size": 10, "select": "best"},
        }
    )
