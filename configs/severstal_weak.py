"""The steel detector (Bi 2022) on Severstal with weak supervision: image labels only.

Command:
  python -m launch.train --config=configs/severstal_weak.py:num_positives=3000 --config.data.root=severstal \
    --workdir=runs/severstal_weak
Data: the Kaggle competition "severstal-steel-defect-detection"; everything else is as in severstal_mixed.py.
Without masks only negatives train the segmentation network, because the decision's gradient is kept from it (as in
all published runs); --config.model.stop_gradient=False lets the image labels train it too.
Paper, AP in % on the test images with 300, 750, 1500, 3000 positives: 93.2, 93.3, 93.7, 96.2.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(argument: str = "num_positives=3000") -> ConfigDict:
    """`argument`: "num_positives=300"."""
    if "num_masks" in argument:
        raise ValueError("num_masks is set by this file; use severstal_mixed.py to choose it")
    mixed = runpy.run_path(str(Path(__file__).with_name("severstal_mixed.py")))
    return mixed["get_config"](f"{argument},num_masks=0")
