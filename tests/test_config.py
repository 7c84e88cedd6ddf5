"""The configuration: every shipped config is valid, every mistake is named."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxdefect import config as config_lib
from jaxdefect import structure
from jaxdefect.types import InputError
from launch import cli

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.name)
def test_every_config_is_valid_and_says_how_to_run_it(path: Path) -> None:
    config = config_lib.from_dict(cli.read_config(str(path)).to_dict())
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config
    text = path.read_text()
    assert "Command:" in text
    assert "Data:" in text


@pytest.mark.parametrize(
    ("num_positives", "epochs", "rate"), [(300, 90, 0.01), (750, 80, 0.01), (1500, 60, 0.015), (3000, 40, 0.02)]
)
def test_severstal_ties_epochs_and_decay_to_the_positives(num_positives: int, epochs: int, rate: float) -> None:
    config = cli.read_config(f"{CONFIGS}/severstal_mixed.py:num_positives={num_positives},num_masks=100")
    assert (config.training.epochs, config.loss.decay_rate) == (epochs, rate)
    assert (config.split.num_positives, config.split.num_masks) == (num_positives, 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": {}}, r"config\.optimiser.*config\.optimizer"),
        ({"optimizer": {"learning_rat": 1.0}}, r"config\.optimizer\.learning_rat.*config\.optimizer\.learning_rate"),
        ({"optimizer": {"learning_rate": "fast"}}, r"learning_rate = 'fast'.*float, not str"),
        ({"optimizer": {"name": "sdg"}}, r"must be one of 'sgd'.*did you mean 'sgd'"),
        ({"training": {"epochs": 1.5}}, r"epochs = 1\.5.*int, not float"),
        ({"training": {"epochs": 0}}, r"epochs = 0: must be 1 or more"),
        ({"optimizer": {"learning_rate": float("inf")}}, r"learning_rate = inf: must be above 0"),
        ({"model": {"attention_reduction": 0}}, r"attention_reduction = 0: must be between 1 and 64"),
        ({"data": {"augment": {"noise": -1}}}, r"data\.augment\.noise = -1"),
        ({"model": {"norm": "batch"}, "training": {"stages": "two_stage"}}, r"norm = 'batch'.*two_stage"),
        ({"data": {"image_size": (250, 1600)}}, r"250x1600 .*data\.image_size.* nearest valid size is 248x1600"),
        ({"data": {"image_size": (256,)}}, r"must be 2 values"),
        ({"data": 3}, r"section"),
        ({"split": {"num_positives": 3, "num_masks": 5}}, r"more masks asked than positives"),
    ],
)
def test_mistakes_are_named(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_lib.from_dict(values)


def test_difference_lists_what_changed() -> None:
    old = config_lib.to_dict(config_lib.Config())
    new = config_lib.to_dict(
        dataclasses.replace(config_lib.Config(), optimizer=config_lib.OptimizerConfig(learning_rate=0.2))
    )
    assert structure.difference(old, new) == ["config.optimizer.learning_rate: 0.1 -> 0.2"]
