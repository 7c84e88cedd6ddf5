"""A whole cross-validation, small: in turn and stacked, stopped and gone on with."""

import csv
import json
from pathlib import Path

import pytest

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import policies
from jaxdefect.inference.choosing import Wish
from jaxdefect.reports.calibration import Images, run_calibration
from jaxdefect.studies import crossvalidation, running
from jaxdefect.types import InputError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    synthetic = {"layout": "folder", "num_images": 16, "height": 64, "width": 64}
    return config_lib.from_dict(
        {
            "data": {
                "reader": "synthetic",
                "root": str(tmp_path / "d"),
                "image_size": (64, 64),
                "synthetic": synthetic,
            },
            "split": {"kind": "folds", "num_folds": 2, "validation_fraction": 0.0},
            "model": {"kernels": "atrous"},
            "training": {"epochs": 1, "steps_per_epoch": 1, "select": "last"},
        }
    )


def test_every_image_is_tested_once_and_nothing_is_trained_twice(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = crossvalidation.crossvalidate(config, tmp_path / "folds", stack=2)
    assert isinstance(content, dict)
    with (tmp_path / "folds" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 16
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert json.loads((tmp_path / "folds" / "crossvalidation.json").read_text()) == json.loads(json.dumps(content))
    text = (tmp_path / "folds" / "table.md").read_text()
    assert "| oracle F1 |" in text
    assert "| fold 1 |" in text

    # The scores of the other folds calibrate a run that was trained on their images.
    policy = Wish(policies.make("recall", recall=1.0))
    of_others = Images(scores_csv=(tmp_path / "folds" / "scores.csv",))
    (calibrated,) = run_calibration(tmp_path / "folds" / "fold_0" / "seed_0", policy, of_others)
    chosen = calibrated.calibration.images
    assert chosen is not None
    assert set(chosen.ids) == {row["id"] for row in rows if row["fold"] == "1"}
    assert calibrated.calibration.num_trained == 0
    assert calibrations.load(tmp_path / "folds" / "fold_0" / "seed_0") == calibrated.calibration

    def never(*_: object, **__: object) -> int:
        raise AssertionError("trained again")

    monkeypatch.setattr(running.system, "train", never)
    again = crossvalidation.crossvalidate(config, tmp_path / "folds")
    assert isinstance(again, dict)
    assert again["by_seed"] == content["by_seed"]
    other = config_lib.from_dict(config_lib.to_dict(config) | {"model": {"kernels": "large"}})
    with pytest.raises(InputError, match=r"config\.model\.kernels: 'atrous' -> 'large'"):
        crossvalidation.crossvalidate(other, tmp_path / "folds")
    with pytest.raises(InputError, match=r"runs failed.*\n.*AssertionError: trained again"):
        crossvalidation.crossvalidate(config, tmp_path / "folds", seeds=(0, 1))


def test_a_split_without_folds_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use --config\.split\.kind=folds"):
        crossvalidation.crossvalidate(config_lib.from_dict({}), tmp_path)
    with pytest.raises(InputError, match="fold 2: there is none"):
        crossvalidation.crossvalidate(config, tmp_path, wanted_folds=(0, 2))
