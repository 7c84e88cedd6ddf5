"""Joint segmentation and decision training (Božič, Tabernik, Skočaj 2021) on KolektorSDD.

Command:
  python -m launch.train --config=configs/kolektor_joint.py --config.data.root=KolektorSDD --config.split.fold=0 \
    --workdir=runs/kolektor_joint_0
  The same with --config=configs/kolektor_joint.py:official trains as the published PyTorch code does.
Data: KolektorSDD (399 images, 52 defective) from https://www.vicos.si/resources/kolektorsdd/, unpacked so that
  --config.data.root holds kosNN/PartM.jpg.
Variations: --config.split.num_masks=5 (mixed supervision), --config.data.image_size=(704,256) (half size), and without
  masks, as in the paper: --config.split.num_masks=0 --config.loss.balance=none --config.loss.decision_weight=1
  --config.optimizer.learning_rate=0.01.
Paper, mean over the three folds at 1408x512, 50 epochs: AP 100 % with all 33 masks, 99.3 % or more with 5 of them.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "paper") -> ConfigDict:
    """`preset`: "paper" (the clean one) or "official" (what the published code computes)."""
    if preset not in ("paper", "official"):
        raise ValueError(f"kolektor_joint.py:{preset}: the preset must be paper or official")
    config = ConfigDict(
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
            "loss": {"balance": "linear", "decision_weight": 0.01},
            "optimizer": {"name": "sgd", "learning_rate": 1.0},
            "training": {"epochs": 50, "batch_size": 1, "select": "last"},
        }
    )
    if preset == "official":
        config.model = ConfigDict({"num_first_convs": 1, "norm": "feature_official"})
        config.loss.update({"decision_target": "mask_max", "reduction": "sum"})
    return config
