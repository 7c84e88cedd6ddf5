r"""How exact an annotation must be: dilated ever more, and as boxes (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_two_stage.py --study=configs/studies/annotation.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds, cross-entropy at 1408x512: AP 99.9 % dilated by 5 (1 miss-classification); 98.7 % with
upright boxes ("big", 3 miss-classifications) and 99.7 % with rotated boxes ("coarse", 2).
"""


def get_study() -> dict:
    dilations = [{f"dilated {side}": {"data.dilation_px": side}} for side in (0, 5, 9, 13, 17)]
    boxes = [
        {"box": {"data.annotation": "box", "data.dilation_px": 0}},
        {"rotated box": {"data.annotation": "rotated_box", "data.dilation_px": 0}},
    ]
    return {"axes": {"annotation": dilations + boxes}, "baseline": {"annotation": "dilated 5"}}
