r"""The decision network, or a logistic regression on the map's maximum and mean (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_two_stage.py --study=configs/studies/decision.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds, cross-entropy: 98.2 % AP at best with the logistic regression (dilated by 9; 0 false
positives, 4 false negatives), 99.9 % with the network; averaged over the other settings the network adds 3.6 %.
"""


def get_study() -> dict:
    return {
        "axes": {
            "decision": [
                {"logistic regression": {"inference.decision": "logistic"}},
                {"network": {"inference.decision": "network"}},
            ],
        },
    }
