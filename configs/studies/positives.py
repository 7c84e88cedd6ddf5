r"""How many defective training images are needed (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_two_stage.py --study=configs/studies/positives.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds: more than 99 % AP and a single miss-classification down to 25 defective images, around
96 % with 5. As there, every setting trains for 6600 steps.
"""


def get_study() -> dict:
    counts = (33, 25, 20, 15, 10, 5)
    labels = [{str(n): {"split.num_positives": n, "training.steps_per_epoch": 66}} for n in counts]
    return {"axes": {"positives": labels}}
