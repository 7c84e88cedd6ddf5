r"""Deep regression with and without the classifier of its fourth stage (He & Liu 2020).

Command:
  python -m launch.ablate --config=configs/magnetic_tile_regression.py --study=configs/studies/classifier.py \
    --config.data.root=MagneticTile --workdir=runs/studies
Paper, DAGM, classes 1 to 6, with / without the classifier: AR 0.6902 / 0.6366, mean IoU 0.8450 / 0.8172, precision
0.925 / 0.891.
"""


def get_study() -> dict:
    switches = {"off": False, "on": True}
    return {"axes": {"classifier": [{name: {"classifier.is_enabled": on}} for name, on in switches.items()]}}
