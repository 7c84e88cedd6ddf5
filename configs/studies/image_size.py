r"""Full or half image size (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_two_stage.py --study=configs/studies/image_size.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds, averaged over other settings: half the size has a 5 % worse AP, mostly with MSE;
with cross-entropy it makes little difference. There annotations are dilated at full size; here at that of the input.
"""


def get_study() -> dict:
    sizes = {"full": (1408, 512), "half": (704, 256)}
    return {"axes": {"image size": [{name: {"data.image_size": size}} for name, size in sizes.items()]}}
