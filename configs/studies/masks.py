r"""How many of the defective training images need a mask (Bi 2022, Table 5).

Command:
  python -m launch.ablate --config=configs/severstal_mixed.py --study=configs/studies/masks.py \
    --config.data.root=severstal --workdir=runs/studies
Paper, Severstal, AP by positives: masks:
  300: none .932, 10 .935, 50 .959, 150 .972, all .982
  750: none .933, 10 .934, 50 .934, 150 .962, 300 .983, all .990
  1500: none .937, 10 .942, 50 .969, 150 .983, 300 .983, 750 .985, all .993
  3000: none .962, 10 .961, 50 .965, 150 .982, 300 .985, 750 .987, 1500 .988, all .996
"""

_MASKS = (0, 10, 50, 150, 300, 750, 1500, 3000)
_SCHEDULES = {300: (90, 0.01), 750: (80, 0.01), 1500: (60, 0.015), 3000: (40, 0.02)}  # positives: epochs, beta


def get_study() -> dict:
    positives = [
        {str(n): {"split.num_positives": n, "training.epochs": epochs, "loss.decay_rate": rate}}
        for n, (epochs, rate) in _SCHEDULES.items()
    ]
    return {
        "axes": {"positives": positives, "masks": [{str(n): {"split.num_masks": n}} for n in _MASKS]},
        "combinations": [
            {"positives": str(n), "masks": str(masks)} for n in _SCHEDULES for masks in _MASKS if masks <= n
        ],
    }
