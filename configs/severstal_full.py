"""The steel detector (Bi 2022) on Severstal with full supervision: every defective image carries its mask.

Command:
  python -m launch.train --config=configs/severstal_full.py:num_positives=3000 --config.data.root=severstal \
    --workdir=runs/severstal_full
Data: the Kaggle competition "severstal-steel-defect-detection"; everything else is as in severstal_mixed.py.
Paper, AP in % on the test images with 300, 750, 1500, 3000 positives: 98.2, 99.0, 99.3, 99.6.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(argument: str = "num_positives=3000") -> ConfigDict:
    """`argument`: "num_positives=300"."""
    if "num_masks" in argument:
        raise ValueError("num_masks is set by this file; use severstal_mixed.py to choose it")
    mixed = runpy.run_path(str(Path(__file__).with_name("severstal_mixed.py")))
    return mixed["get_config"](f"{argument},num_masks=-1")
