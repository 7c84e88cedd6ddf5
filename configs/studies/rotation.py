r"""Random rotation of the training images by 90 degrees, or not (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_two_stage.py --study=configs/studies/rotation.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds: no gain; at most one percent in some settings, and much worse in others.
"""


def get_study() -> dict:
    return {
        "axes": {"rotation": [{"off": {"data.augment.rotate90": False}}, {"on": {"data.augment.rotate90": True}}]},
    }
