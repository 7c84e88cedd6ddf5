r"""Cross-entropy or MSE as segmentation loss (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_two_stage.py --study=configs/studies/loss.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds, averaged over other settings: cross-entropy (learning rate 0.1) has a 7 % better
AP than MSE (0.005). With MSE the decision network reaches more than 95 %, a logistic regression less than 90 %.
"""


def get_study() -> dict:
    bce = {"loss.segmentation": "bce", "data.target": "soft", "optimizer.learning_rate": 0.1}
    mse = {"loss.segmentation": "mse", "data.target": "binary", "optimizer.learning_rate": 0.005}
    return {"axes": {"loss": [{"cross-entropy": bce}, {"MSE": mse}]}, "baseline": {"loss": "MSE"}}
