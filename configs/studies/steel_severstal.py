r"""Attention, atrous convolutions and loss-weight decay on Severstal (Bi 2022, Table 6): steel.py with its settings.

Command:
  python -m launch.ablate --config=configs/severstal_mixed.py:num_positives=1000 \
    --study=configs/studies/steel_severstal.py --config.data.root=severstal --workdir=runs/studies
Paper, Severstal, 1000 defective images, 50 epochs, AP in % with weak / mixed (250 masks) / full supervision:
  none 90.27 / 97.1 / 98.7; attention 91.31 / 97.2 / 98.7; atrous 92.25 / 97.4 / 98.8;
  attention, atrous 92.53 / 97.5 / 98.9; attention, decay 91.08 / 97.3 / 98.7; atrous, decay 92.82 / 97.6 / 99.0;
  all three 93.16 / 97.9 / 99.2.
"""

import runpy
from pathlib import Path


def get_study() -> dict:
    study = runpy.run_path(str(Path(__file__).with_name("steel.py")))["get_study"]()
    masks = {"weak": 0, "mixed": 250, "full": -1}
    study["axes"]["supervision"] = [
        {name: {"split.num_positives": 1000, "split.num_masks": count, "training.epochs": 50}}
        for name, count in masks.items()
    ]
    return study
