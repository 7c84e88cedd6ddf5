"""The configuration: every shipped config is valid, every mistake is named."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxdefect import config as config_lib
from jaxdefect import structure
from jaxdefect.model_config import UNetConfig
from jaxdefect.types import InputError
from launch import cli

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def merge(base: dict, values: dict) -> dict:
    """Two config mappings with sections, what `values` sets in place of what `base` does."""
    return {name: {**base.get(name, {}), **values.get(name, {})} for name in {**base, **values}}


UNDER = {"model": {"segmentation": "unet"}}  # the decision network
UNTRAINED_DECISION = {"balance": "none", "decision_weight": 0.0}
UNET = {"model": {"architecture": "unet"}, "loss": UNTRAINED_DECISION}
MAP_ONLY = {"loss": UNTRAINED_DECISION, "inference": {"decision": "logistic"}}
RESNET = {"model": {"architecture": "resnet", "num_classes": 3}, "data": {"classes": ("bar", "spot")}}
REGRESSION = {
    "model": {"architecture": "regression"},
    "data": {"target": "severity"},
    "loss": {**UNTRAINED_DECISION, "segmentation": "l2"},
}
ENSEMBLE = {"ensemble": {"kind": "per_class"}}
FOUR_STAGES = merge(REGRESSION, {"data": {"fit": "patches"}, "classifier": {"is_enabled": True}})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.name)
def test_every_config_is_valid_and_says_how_to_run_it(path: Path) -> None:
    config = config_lib.from_dict(cli.read_config(str(path)).to_dict())
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config
    text = path.read_text()
    assert "Command:" in text
    assert "Data:" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import mlcollections\n", r"config\.py, line 1: ModuleNotFoundError: .*mlcollections"),
        ("def get_config():\n  return {'data': undefined}", r"config\.py, line 2: NameError"),
        ("def get_config(:", r"config\.py, line 1: "),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict().data",
            r"config\.py, line 3: AttributeError",
        ),
        ("def get_config():\n  return 1", r"get_config\(\) must return a ConfigDict, not 1"),
    ],
)
def test_an_error_in_a_config_file_is_said_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        cli.read_config(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n  return {}", r"config\.py:x: .*takes 0 positional arguments"),
        ("def get_config(name):\n  raise ValueError('no such preset')", r"config\.py:x: no such preset"),
        ("def get_config(name):\n  return name + 1", r"config\.py, line 2: TypeError"),
    ],
)
def test_a_wrong_argument_is_said_and_an_error_behind_it_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        cli.read_config(f"{path}:x")


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
        (
            {"model": {"architecture": "background_suppression", "decoder_channels": (0, 8, 8)}},
            r"decoder_channels = \(0, 8, 8\): must be between 1 and 4096",
        ),
        ({"data": {"augment": {"noise": -1}}}, r"data\.augment\.noise = -1"),
        ({"model": {"norm": "batch"}, "training": {"stages": "two_stage"}}, r"norm = 'batch'.*two_stage"),
        ({"model": {"architecture": "unet", "attention": True}}, r"no such setting of the architecture 'unet'"),
        (
            {"classifier": {"training": {"batch_size": 0}}},
            r"config\.classifier\.training\.batch_size = 0: must be 1 or",
        ),
        (
            {"classifier": {"optimizer": {"momentum": 2}}},
            r"config\.classifier\.optimizer\.momentum = 2.*between 0 and 1",
        ),
        ({"classifier": {"augment": {"noise": 2}}}, r"config\.classifier\.augment\.noise = 2"),
        ({"classifier": {"window_stride_px": 0}}, r"config\.classifier\.window_stride_px = 0"),
        ({"classifier": {"training": {"stages": "two_stage"}}}, r"classifier\.training\.stages = 'two.*use 'joint'"),
        (
            {"classifier": {"training": {"select_by": "segmentation_loss"}}},
            r"classifier\.training\.select_by = 'segmentation_loss'.*use 'accuracy'",
        ),
        ({"data": {"image_size": (250, 1600)}}, r"250x1600 .*data\.image_size.* nearest valid size is 248x1600"),
        ({"data": {"image_size": (256,)}}, r"must be 2 values"),
        ({"data": 3}, r"section"),
        ({"split": {"num_positives": 3, "num_masks": 5}}, r"more masks asked than positives"),
    ],
)
def test_mistakes_are_named(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_lib.from_dict(values)


@pytest.mark.parametrize("values", [UNET, MAP_ONLY, RESNET, REGRESSION, ENSEMBLE, FOUR_STAGES], ids=str)
def test_what_the_conflicts_start_from_is_valid(values: dict) -> None:
    config_lib.from_dict(values)


@pytest.mark.parametrize(
    ("base", "values", "message"),
    [
        (ENSEMBLE, {"inference": {"decision": "logistic"}}, r"decision = 'logistic'.*'per_class'; use 'network'"),
        (ENSEMBLE, {"data": {"fit": "patches"}}, r"data\.fit = 'patches'.*'per_class'; use 'resize'"),
        (
            ENSEMBLE,
            {"classifier": {"is_enabled": True}},
            r"classifier\.is_enabled = True.*'per_class'; set it to False",
        ),
        (ENSEMBLE, RESNET, r"architecture = 'resnet'.*'per_class'; use that of a detector"),
        (
            ENSEMBLE,
            {"training": {"patience_epochs": 2}},
            r"patience_epochs = 2.*'per_class'.*set it to 0.*'sequential'",
        ),
        (FOUR_STAGES, {"data": {"fit": "resize"}}, r"data\.fit = 'resize'.*classifier\.is_enabled.*use 'patches'"),
        (FOUR_STAGES, {"inference": {"decision": "logistic"}}, r"'logistic'.*classifier\.is_enabled.*use 'network'"),
        (FOUR_STAGES, {"classifier": {"window_px": 50}}, r"50x50 .*classifier\.window_px.* 64x64"),
        (
            {"data": {"fit": "patches"}, "classifier": {"is_enabled": True}},
            {},
            r"architecture = 'segdec'.*classifier\.is_enabled.*'regression'",
        ),
        (RESNET, {"data": {"classes": ()}}, r"'resnet'.*num_classes = 3.*classes = \(\).*config\.classifier of a det"),
        (RESNET, {"model": {"num_classes": 2}}, r"num_classes = 2.*classes = \('bar', 'spot'\).*one output more"),
        (UNET, {"data": {"classes": ("bar",)}}, r"classes = \('bar',\).*'unet'.*leave them empty"),
        (RESNET, {"inference": {"decision": "logistic"}}, r"decision = 'logistic'.*'resnet'.*use 'network'"),
        (RESNET, {"training": {"select_by": "segmentation_loss"}}, r"select_by.*'resnet'.*use 'accuracy'"),
        (UNET, {"training": {"select_by": "accuracy"}}, r"select_by = 'accuracy'.*'unet'; use 'average_precision'"),
        (
            {"training": {"stages": "two_stage"}},
            {"training": {"select_by": "segmentation_loss"}},
            r"select_by = 'segmentation_loss'.*'two_stage'.*use 'average_precision'",
        ),
        (
            {"training": {"stages": "two_stage"}},
            {"training": {"patience_epochs": 1}},
            r"patience_epochs = 1.*'two_stage'",
        ),
        (
            {"training": {"stages": "two_stage"}},
            {"loss": {"balance": "decay"}},
            r"balance = 'decay'.*'two_stage'.*use 'none'",
        ),
        (
            {},
            {"loss": {"decay_feedback": 0.1}},
            r"decay_feedback = 0\.1.*balance = 'linear'; only 'decay'.*set it to 0",
        ),
        ({}, {"optimizer": {"momentum": 0.5}}, r"optimizer\.momentum = 0\.5.*name = 'sgd'.*'momentum' has it.*at 0\.9"),
        (
            FOUR_STAGES,
            {"classifier": {"optimizer": {"name": "adam", "weight_decay": 0.1}}},
            r"classifier\.optimizer\.weight_decay = 0\.1.*classifier\.optimizer\.name = 'adam'.*only 'adamw'",
        ),
        ({}, {"loss": {"decision_weight": 0}}, r"decision_weight = 0.*decision = 'network'.*above 0 or use 'logistic'"),
        (MAP_ONLY, {"training": {"stages": "two_stage"}}, r"decision_weight = 0.*'two_stage'.*raise it"),
        (UNET, {"training": {"stages": "two_stage"}}, r"'two_stage': only the architecture 'segdec'"),
        (
            {"data": {"image_size": (64, 128), "fit": "patches"}},
            {"data": {"patch_stride_px": 65}},
            r"patch_stride_px = 65.*image_size = \(64, 128\).*at most 64",
        ),
        (REGRESSION, {"loss": {"undisputed_power": 1}}, r"undisputed_power = 1\.0.*'l2'.*set it to 0"),
        (
            {},
            {"loss": {"undisputed_power": 1}},
            r"undisputed_power = 1\.0.*masks = 'hard'; .* that to 'soft', or it to 0",
        ),
        (
            {},
            {"model": {"segmentation": "deeplab", "norm": "batch"}, "training": {"batch_size": 1}},
            r"batch_size = 1: .*'deeplab' and config\.model\.norm = 'batch'.*set it to 2 or more",
        ),
        (REGRESSION, {"loss": {"positive_weight": 5}}, r"positive_weight = 5\.0.*'l2'; only 'bce' has it: set it to 1"),
        ({}, {"loss": {"segmentation": "mse", "positive_weight": 5}}, r"positive_weight = 5\.0.*'mse'"),
        (
            REGRESSION,
            {"data": {"augment": {"contrast": 0.2}}, "training": {"scan_steps": 1}},
            r"'severity' and data\.augment\..*contrast.*scan_steps = 1; switch it off, or set .*scan_steps = 0",
        ),
        (
            FOUR_STAGES,
            {"classifier": {"augment": {"affine_degrees": 9.0}, "training": {"scan_steps": 3}}},
            r"config\.classifier\.augment\.affine_degrees.* config\.classifier\.training\.scan_steps = 3; .*= 0 to",
        ),
        (REGRESSION, {"data": {"dilation_px": 3}}, r"dilation_px = 3: .*target = 'severity'.*set it to 0"),
        (REGRESSION, {"data": {"annotation": "box"}}, r"annotation = 'box': .*'severity'.*set it to 'mask'"),
        ({}, {"data": {"distance_power": 2}}, r"distance_power = 2\.0: .*distance_weight_max = 0\.0.*no effect"),
        (
            {"split": {"validation_fraction": 0.0}},
            {"training": {"patience_epochs": 3}},
            r"patience_epochs = 3: .*validation_fraction = 0\.0; without validation images",
        ),
        (UNDER, {"model": {"attention": True}}, r"attention = True: .*segmentation = 'unet'.*set it to False"),
        (UNDER, {"model": {"num_first_convs": 1}}, r"num_first_convs = 1: .*segmentation = 'unet'.*leave it at 2"),
        (REGRESSION, {"data": {"target": "soft"}}, r"target = 'soft'.*'regression' learns the target 'severity'"),
        (UNET, {"loss": {"balance": "linear"}}, r"balance = 'linear'.*'unet'.*balance = 'none'.*decision_weight = 0"),
        (UNET, {"loss": {"balance": "decay"}}, r"balance = 'decay'.*'unet'.*balance = 'none'.*decision_weight = 0"),
        (UNET, {"loss": {"decision_weight": 1}}, r"decision_weight = 1\.0.*'unet'.*decision_weight = 0"),
    ],
)
def test_conflicts_are_named_with_the_way_out(base: dict, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_lib.from_dict(merge(base, values))


def test_an_ensemble_trained_in_turn_may_stop_early() -> None:
    sequential = {"ensemble": {"training": "sequential"}, "training": {"patience_epochs": 2}}
    assert config_lib.from_dict(merge(ENSEMBLE, sequential)).training.patience_epochs == 2


def test_another_architecture_starts_from_its_own_defaults() -> None:
    file = str(CONFIGS / "quickstart.py")
    config = cli.read_config(file, architecture="unet")
    assert config.model.to_dict() == dataclasses.asdict(UNetConfig())
    assert config.data == cli.read_config(file).data
    assert cli.read_config(file, architecture="segdec") == cli.read_config(file)
    with pytest.raises(InputError, match=r"architecture = 'unett'.*did you mean 'unet'"):
        cli.read_config(file, architecture="unett")


def test_difference_lists_what_changed() -> None:
    old = config_lib.to_dict(config_lib.Config())
    new = config_lib.to_dict(
        dataclasses.replace(config_lib.Config(), optimizer=config_lib.OptimizerConfig(learning_rate=0.2))
    )
    assert structure.difference(old, new) == ["config.optimizer.learning_rate: 0.1 -> 0.2"]
