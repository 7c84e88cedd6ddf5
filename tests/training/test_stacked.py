"""Runs trained side by side are the runs trained alone, on any number of devices, stopped or not."""

import dataclasses
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect import models
from jaxdefect.config import (
    Config,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    SplitConfig,
    SyntheticConfig,
    TrainingConfig,
)
from jaxdefect.model_config import RegressionConfig, SegDecConfig
from jaxdefect.training import checkpoint, loop, stacked, state
from jaxdefect.training.logging import read_figures
from jaxdefect.types import InputError


@pytest.fixture
def configs(tmp_path: Path) -> dict[Path, Config]:
    """Three runs for the suite's two devices: they share one, while each run alone would use both."""
    config = Config(
        data=DataConfig(
            reader="synthetic",
            root=str(tmp_path / "surfaces"),
            image_size=(64, 64),
            target="severity",
            synthetic=SyntheticConfig(layout="folder", num_images=16, height=64, width=64),
        ),
        model=RegressionConfig(),  # of all networks the one that compiles first
        loss=LossConfig(segmentation="l2", balance="none", decision_weight=0),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.05),
        training=TrainingConfig(epochs=2, steps_per_epoch=1, batch_size=2),
    )
    return {
        tmp_path / "stacked" / str(seed): dataclasses.replace(config, split=SplitConfig(seed=seed)) for seed in range(3)
    }


def with_decision(config: Config) -> Config:
    """The config of a detector whose step is many convolutions of our own, and weighs two losses."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, target="soft"),
        model=SegDecConfig(kernels="atrous", num_first_convs=1),
        loss=LossConfig(balance="none"),
    )


NUMBERS = ("learning_rate", "segmentation_weight", "decision_weight")


def weights(workdir: Path, config: Config) -> list[np.ndarray]:
    variables, step = checkpoint.restore_variables(workdir, config=config, which="last")
    assert step == 2
    return [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]


@pytest.mark.slow
def test_side_by_side_is_as_alone_and_what_a_run_has_is_never_thrown_away(
    configs: dict[Path, Config], tmp_path: Path
) -> None:
    assert stacked.train(configs) == 0
    first, *others = configs
    manager = checkpoint.open_checkpoints(first)
    manager.manager.delete(2)  # as if the power had gone between the saves of two runs
    manager.close()
    with pytest.raises(stacked.Apart, match=r"0 after step 1, .*1 after step 2, .*2 after step 2"):
        stacked.train(configs)
    assert [checkpoint.open_checkpoints(workdir).latest_step() for workdir in (first, *others)] == [1, 2, 2]
    assert loop.train(configs[first], first) == 0
    assert stacked.train(configs) == 0
    for (workdir, config), seed in zip(configs.items(), range(3), strict=True):
        lines = read_figures(workdir, "train")
        assert [line["step"] for line in lines] == [1, 2]
        if seed == 0:
            alone = tmp_path / "alone"
            assert loop.train(config, alone) == 0
            for a, b in zip(weights(workdir, config), weights(alone, config), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
            assert lines[0]["loss"] == pytest.approx(read_figures(alone, "train")[0]["loss"], rel=1e-5)
    losses = {read_figures(workdir, "train")[0]["loss"] for workdir in configs}
    assert len(losses) > 1  # their data differ


def test_side_by_side_with_numbers_of_their_own(configs: dict[Path, Config], tmp_path: Path) -> None:
    _, first, _ = configs.values()
    loss = LossConfig(balance="decay", decay_rate=0.25, decision_weight=0.5)
    first = dataclasses.replace(with_decision(first), loss=loss)
    second = dataclasses.replace(
        first,
        loss=LossConfig(balance="decay", decay_rate=0.75, decision_weight=1.5),
        optimizer=dataclasses.replace(first.optimizer, learning_rate=0.01, schedule="cosine"),
        training=dataclasses.replace(first.training, seed=7),
    )
    first = dataclasses.replace(first, optimizer=dataclasses.replace(first.optimizer, schedule="cosine"))
    assert stacked.program_of(first) == stacked.program_of(second)
    stacked_configs = {tmp_path / "a": first, tmp_path / "b": second}
    assert stacked.train(stacked_configs) == 0
    assert loop.train(second, tmp_path / "alone") == 0
    for a, b in zip(weights(tmp_path / "b", second), weights(tmp_path / "alone", second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for a, b in zip(read_figures(tmp_path / "b", "train"), read_figures(tmp_path / "alone", "train"), strict=True):
        assert {key: a[key] for key in NUMBERS} == pytest.approx({key: b[key] for key in NUMBERS})
    moved = [weights(workdir, config)[0] for workdir, config in stacked_configs.items()]
    assert np.abs(moved[0] - moved[1]).max() > 1e-2  # initial weights by their own seed


def test_a_device_computes_its_runs_by_vmap_as_one_by_one(configs: dict[Path, Config]) -> None:
    config = with_decision(next(iter(configs.values())))
    slower = dataclasses.replace(config, optimizer=OptimizerConfig(name="sgd", learning_rate=0.01))
    module, mesh = models.build(config.model), Mesh(jax.devices()[:1], ("runs",))
    (stage,) = state.stages(config, steps_per_epoch=1)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.random((2, 1, 64, 64, 1), np.float32),
        "mask": rng.integers(0, 2, (2, 1, 8, 8, 1)).astype(np.float32),
        "weight": np.ones((2, 1, 8, 8, 1), np.float32),
        "label": np.ones((2, 1), np.float32),
        "has_mask": np.ones((2, 1), np.float32),
    }
    results = []
    for is_vectorized in (False, True):
        step = stacked.make_step(
            module, [config, slower], stage.name, steps_per_epoch=1, mesh=mesh, is_vectorized=is_vectorized
        )
        member = state.initial_state(module, config, stage)
        current = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), jax.device_get(member))
        after, metrics = step(*jax.device_put((current, batch), NamedSharding(mesh, PartitionSpec("runs"))))
        results.append(jax.device_get((after.params, metrics)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    moved = [np.abs(leaf[0] - leaf[1]).max() for leaf in jax.tree.leaves(results[0][0])]
    assert max(moved) > 1e-2  # each by its own learning rate


def test_a_disk_with_room_for_one_run_only_is_refused_before_any_starts(
    configs: dict[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, config = next(iter(configs.items()))
    one = checkpoint.num_bytes_needed(workdir, module=models.build(config.model), config=config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=one + 1))
    with pytest.raises(InputError, match=r"the disk has \d+ MiB left"):
        stacked.train(configs)
    assert not any(workdir.exists() for workdir in configs)


def test_runs_of_different_settings_are_refused(configs: dict[Path, Config], tmp_path: Path) -> None:
    first = next(iter(configs.values()))
    other = dataclasses.replace(first, optimizer=OptimizerConfig(name="adam"))
    with pytest.raises(InputError, match=r"config\.optimizer cannot be stacked"):
        stacked.train({tmp_path / "a": first, tmp_path / "b": other})
    resident = dataclasses.replace(first, training=dataclasses.replace(first.training, scan_steps=2))
    with pytest.raises(InputError, match=r"config\.training\.scan_steps: stacked runs are fed"):
        stacked.train({tmp_path / "a": resident, tmp_path / "b": resident})
