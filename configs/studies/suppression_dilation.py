r"""Dual background suppression and its U-Net baseline under five dilations of the annotation (Sensors 2020).

Command:
  python -m launch.ablate --config=configs/kolektor_suppression.py --study=configs/studies/suppression_dilation.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds: precision, recall and F1 are 100 % at dilation 9, and no defect is missed at four of
the five dilations. U-Net misses as few and raises more false alarms. There the thresholds are fixed by hand; here they
are chosen on the other folds.
"""


def get_study() -> dict:
    return {
        "axes": {
            "network": [
                {"dual suppression": {"model.architecture": "background_suppression"}},
                {"U-Net": {"model.architecture": "unet"}},
            ],
            "dilation": [{str(side): {"data.dilation_px": side}} for side in (0, 5, 9, 13, 17)],
        },
    }
