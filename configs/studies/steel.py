r"""Attention, atrous convolutions and loss-weight decay under weak, mixed and full supervision (Bi 2022, Table 6).

Command:
  python -m launch.ablate --config=configs/kolektor_steel.py --study=configs/studies/steel.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, AP in % with weak / mixed / full supervision:
  none 92.65 / 98.92 / 99.46; attention 92.91 / 97.63 / 98.26; atrous 93.12 / 99.00 / 99.51;
  attention, atrous 93.01 / 98.68 / 99.24; attention, decay 93.05 / 97.81 / 99.43; atrous, decay 93.27 / 99.24 / 99.87;
  all three 93.41 / 99.36 / 100.00.
Mixed is a quarter of the masks here. Without masks the learning rate and delta are those of joint training (0.01, 1).
Without decay the losses are balanced linearly. The table for Severstal: steel_severstal.py.
"""

# of the paper's table: attention, atrous convolutions, decay
_COMBINATIONS = (
    ("off", "off", "off"),
    ("on", "off", "off"),
    ("off", "on", "off"),
    ("on", "on", "off"),
    ("on", "off", "on"),
    ("off", "on", "on"),
    ("on", "on", "on"),
)


def get_study() -> dict:
    supervision = {
        "weak": {"split.num_masks": 0, "optimizer.learning_rate": 0.01, "loss.decision_weight": 1.0},
        "mixed": {"split.num_masks": 8},
        "full": {"split.num_masks": -1},
    }
    axes = {
        "supervision": [{name: overrides} for name, overrides in supervision.items()],
        "attention": [{"off": {"model.attention": False}}, {"on": {"model.attention": True}}],
        "atrous": [{"off": {"model.kernels": "large"}}, {"on": {"model.kernels": "atrous"}}],
        "decay": [{"off": {"loss.balance": "linear"}}, {"on": {"loss.balance": "decay"}}],
    }
    names = ("attention", "atrous", "decay")
    return {
        "axes": axes,
        "combinations": [
            {"supervision": mode, **dict(zip(names, switches, strict=True))}
            for mode in supervision
            for switches in _COMBINATIONS
        ],
        "baseline": {"supervision": "full"},
    }
