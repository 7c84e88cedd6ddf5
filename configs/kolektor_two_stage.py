"""SegDecNet (Tabernik et al. 2019) on KolektorSDD: segmentation network first, then the decision network on top of it.

Command:
  python -m launch.train --config=configs/kolektor_two_stage.py --config.data.root=KolektorSDD --config.split.fold=0 \
    --workdir=runs/kolektor_two_stage_0
  With --config=configs/kolektor_two_stage.py:mse the segmentation is trained with MSE on a binary target (lr 0.005).
Data: KolektorSDD (399 images, 52 defective) from https://www.vicos.si/resources/kolektorsdd/, unpacked so that
  --config.data.root holds kosNN/PartM.jpg.
Variations: --config.data.dilation_px=0|5|9|13|17, --config.data.image_size=(704,256),
  --config.data.augment.rotate90=True, --config.split.num_positives=33|25|20|15|10|5.
Paper, three folds at 1408x512, 5x5 dilation, cross-entropy, 33 positives: AP 99.9 %, 0 false positives and 1 false
negative at the best threshold, 3 false positives at full recall.
"""

from ml_collections import ConfigDict


def get_config(loss: str = "bce") -> ConfigDict:
    """`loss`: "bce" (cross-entropy) or "mse"."""
    if loss not in ("bce", "mse"):
        raise ValueError(f"kolektor_two_stage.py:{loss}: the loss must be bce or mse")
    return ConfigDict(
        {
            "data": {
                "reader": "kolektor",
                "root": "KolektorSDD",
                "image_size": (1408, 512),
                "dilation_px": 5,
                "target": "soft" if loss == "bce" else "binary",
                "sampling": "alternate",
            },
            "split": {"kind": "kolektor_published", "fold": 0, "validation_fraction": 0.0, "num_positives": 33},
            "model": {"decision_input": "relu", "initializer": "normal"},
            "loss": {"segmentation": loss},
            "optimizer": {"name": "sgd", "learning_rate": 0.1 if loss == "bce" else 0.005},
            # 100 epochs of 33 positives and 33 negatives: 6600 steps for each of the two stages
            "training": {"stages": "two_stage", "epochs": 100, "ema_decay": 0.9999, "select": "last"},
        }
    )
