"""The steel detector (Bi 2022: attention, atrous convolutions, loss-weight decay) on KolektorSDD.

Command:
  python -m launch.train --config=configs/kolektor_steel.py --config.data.root=KolektorSDD --config.split.fold=0 \
    --workdir=runs/kolektor_steel_0
Data: KolektorSDD (399 images, 52 defective) from https://www.vicos.si/resources/kolektorsdd/, unpacked so that
  --config.data.root holds kosNN/PartM.jpg.
Variations: --config.split.num_masks=5 (mixed supervision), --config.data.image_size=(704,256) (half size), and without
  masks --config.split.num_masks=0 --config.optimizer.learning_rate=0.01 --config.loss.decision_weight=1.
Paper, mean AP over the three folds: 100.00 % with all masks, 99.36 % with some, 93.41 % with none.
The paper gives its settings for Severstal only. Here: the learning rate of joint training on KolektorSDD (1), delta of
Severstal (0.1), and beta = 1 / epochs, so that theta ends near 0.37, much as it does there.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "reader": "kolektor",
                "root": "KolektorSDD",
                "image_size": (1408, 512),
                "dilation_px": 7,
                "distance_power": 2.0,
                "distance_weight_max": 1.0,
                "sampling": "rare_negatives",
            },
            "split": {"kind": "kolektor_published", "fold": 0, "validation_fraction": 0.0},
            "model": {"kernels": "atrous", "attention": True},
            "loss": {"segmentation": "mse", "balance": "decay", "decay_rate": 0.02, "decision_weight": 0.1},
            "optimizer": {"name": "sgd", "learning_rate": 1.0},
            "training": {"epochs": 50, "batch_size": 1, "select": "last"},
        }
    )
