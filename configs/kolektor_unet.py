r"""U-Net or DeepLabv3+ under SegDecNet's decision network, as Tabernik et al. 2019 compare them, on KolektorSDD.

Command:
  python -m launch.train --config=configs/kolektor_unet.py:unet --config.data.root=KolektorSDD \
    --config.split.fold=0 --workdir=runs/kolektor_unet_0
  The argument names the segmentation part: unet (the default), deeplab, or segdec for the same recipe with SegDecNet's.
  With --config.inference.decision=logistic a logistic regression on the map's maximum and mean decides instead of the
  decision network.
Data: KolektorSDD (399 images, 52 defective) from https://www.vicos.si/resources/kolektorsdd/, unpacked so that
  --config.data.root holds kosNN/PartM.jpg.
Paper, AP over three folds at 1408x512: U-Net 96.1 % (108 false positives at full recall), DeepLabv3+ 98.0 % (68),
SegDecNet 99.9 % (3). The paper trains in two stages; here both are trained at once, the decision's gradient stopped,
since batch norm's running averages would move on in a frozen network.
"""

from ml_collections import ConfigDict


def get_config(segmentation: str = "unet") -> ConfigDict:
    """`segmentation`: "unet", "deeplab" or "segdec"."""
    if segmentation not in ("unet", "deeplab", "segdec"):
        raise ValueError(f"kolektor_unet.py:{segmentation}: must be unet, deeplab or segdec")
    return ConfigDict(
        {
            "data": {
                "reader": "kolektor",
                "root": "KolektorSDD",
                "image_size": (1408, 512),
                "dilation_px": 5,
                "sampling": "alternate",
            },
            "split": {"kind": "kolektor_published", "fold": 0, "validation_fraction": 0.0},
            "model": {"segmentation": segmentation, "decision_input": "relu"},
            "loss": {"segmentation": "bce", "balance": "none", "decision_weight": 1.0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"},
            "training": {"epochs": 100, "batch_size": 1, "select": "last"},
        }
    )
