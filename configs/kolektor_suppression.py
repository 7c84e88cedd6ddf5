r"""The one-stage detector with dual background suppression (Sensors 2020) on KolektorSDD, or its U-Net baseline.

Command:
  python -m launch.train --config=configs/kolektor_suppression.py:dilation=9 --config.data.root=KolektorSDD \
    --config.split.fold=0 --workdir=runs/suppression_9_0
  The argument: dilation=0, 5, 9, 13 or 17, and network=dual (the default) or unet, e.g.
  --config=configs/kolektor_suppression.py:dilation=5,network=unet.
Data: KolektorSDD (399 images, 52 defective) from https://www.vicos.si/resources/kolektorsdd/, unpacked so that
  --config.data.root holds kosNN/PartM.jpg.
Paper, three folds at 1408x512: precision, recall and F1 100 % each at dilation 9. Its threshold sigma on the sum over
the map is 100 (U-Net: 1000, 1350, 1300, 1250, 1250 by dilation); it stands in config.model.threshold relative to the
area, until launch.evaluate chooses one on the validation images.
"""

from ml_collections import ConfigDict

_AREA = 1408 * 512
_UNET_SIGMA = {0: 1000, 5: 1350, 9: 1300, 13: 1250, 17: 1250}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: "dilation=9,network=dual", either part optional."""
    given = {"dilation": "9", "network": "dual"}
    for part in filter(None, argument.split(",")):
        name, _, value = part.partition("=")
        if name not in given:
            raise ValueError(f"{part!r}: write dilation=PIXELS,network=dual|unet")
        given[name] = value
    if given["network"] not in ("dual", "unet") or given["dilation"] not in map(str, _UNET_SIGMA):
        raise ValueError(f"{argument!r}: dilation must be one of {sorted(_UNET_SIGMA)}, network dual or unet")
    dilation = int(given["dilation"])
    if given["network"] == "unet":
        model = {"architecture": "unet", "threshold": _UNET_SIGMA[dilation] / _AREA}
    else:
        model = {"architecture": "background_suppression", "threshold": 100 / _AREA}
    return ConfigDict(
        {
            "data": {
                "reader": "kolektor",
                "root": "KolektorSDD",
                "image_size": (1408, 512),
                "dilation_px": dilation,
                "sampling": "alternate",
            },
            "split": {"kind": "kolektor_published", "fold": 0, "validation_fraction": 0.2},
            "model": model,
            "loss": {"segmentation": "bce", "balance": "none", "decision_weight": 0.0},
            "optimizer": {"name": "adam", "learning_rate": 1e-3},
            "training": {"epochs": 100, "batch_size": 1, "select": "best", "validate_every_epochs": 5},
        }
    )
