"""A whole small training: exact resume, stages, refusals, and the same numbers on two devices."""

import dataclasses
import functools
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

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
from jaxdefect.data import pipeline, readers, splits
from jaxdefect.model_config import SegDecConfig
from jaxdefect.models import few_channels, winograd
from jaxdefect.training import checkpoint, loop, runs, state, step, traced
from jaxdefect.types import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("data") / "surfaces"
    return Config(
        data=DataConfig(
            reader="synthetic",
            root=str(root),
            image_size=(64, 64),
            synthetic=SyntheticConfig(layout="folder", num_images=24, height=128, width=128),
        ),
        split=SplitConfig(test_fraction=0.2, validation_fraction=0.2, num_positives=5, num_masks=3),
        model=SegDecConfig(kernels="atrous", num_first_convs=1),
        loss=LossConfig(segmentation="bce", balance="linear"),
        optimizer=OptimizerConfig(name="momentum", learning_rate=0.05),
        training=TrainingConfig(epochs=2, batch_size=2, ema_decay=0.9),
    )


def leaves(workdir: Path, config: Config, which: str = "last") -> dict[str, np.ndarray]:
    variables, _ = checkpoint.restore_variables(workdir, config=config, which=which)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def figures(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went through without a stop."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert loop.train(config, workdir) == 0
    return workdir


def test_a_run_holds_what_is_needed_to_judge_it(config: Config, finished: Path) -> None:
    lines = figures(finished)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 11))
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [5, 10]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["segmentation_weight"] for line in train] == [1.0] * 5 + [0.5] * 5
    assert [line["decision_weight"] for line in train] == [0.0] * 5 + [0.5] * 5
    assert len(list((finished / "overlays" / "step_000010").glob("*.png"))) == 4
    assert list((finished / "tensorboard").iterdir())
    run = runs.load(finished)
    assert run.config == config
    assert len(run.split.masked) == 3
    version = json.loads((finished / "starts.jsonl").read_text().splitlines()[0])
    assert version["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("stop", "after"),
    [("crash", 7), ("SIGTERM", 7), ("SIGTERM", 4), ("SIGTERM", 9), ("SIGTERM, more follows", 9)],
)
def test_a_stopped_run_ends_with_the_same_numbers(
    config: Config, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, after: int
) -> None:
    """Stopped in the middle of an epoch (after 7 steps), at its end, and at the end of all; by a step that is not kept
    on disk too. One that is kept is read in a thread, while the weights are.
    """
    iterate, read, threads = pipeline.iterate, traced._read, []

    def reading(path: Path) -> jax.export.Exported | None:
        threads.append(threading.current_thread())
        return read(path)

    monkeypatch.setattr(traced, "_read", reading)

    def stopping(*arguments, **settings) -> Iterator[dict]:
        for number, batch in enumerate(iterate(*arguments, **settings)):
            if number == after and stop == "crash":
                raise RuntimeError("the power went")
            if number == after:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "iterate", stopping)
        if stop == "crash":
            patch.setenv(traced.FOLDER, "")
            with pytest.raises(RuntimeError, match="the power went"):
                loop.train(config, tmp_path)
        else:
            is_finished = after == 9 and stop == "SIGTERM"
            code = loop.train(config, tmp_path, goes_on=stop == "SIGTERM, more follows")
            assert code == (0 if is_finished else 128 + signal.SIGTERM)
            assert checkpoint.open_checkpoints(tmp_path).latest_step() == after + 1
    assert loop.train(config, tmp_path) == 0
    assert threads
    assert threading.main_thread() not in threads

    expected = leaves(finished, config)
    for path, value in leaves(tmp_path, config).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert figures(tmp_path) == figures(finished)


def test_another_config_is_refused_with_the_difference(config: Config, finished: Path) -> None:
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.5))
    with pytest.raises(InputError, match=r"config\.optimizer\.learning_rate: 0\.05 -> 0\.5"):
        loop.train(other, finished)


def test_a_second_process_is_kept_out_of_a_run(config: Config, tmp_path: Path) -> None:
    with runs.exclusive(tmp_path), pytest.raises(InputError, match="another process trains there"):
        loop.train(config, tmp_path)
    with runs.exclusive(tmp_path):  # free again
        assert [path.name for path in tmp_path.iterdir()] == ["training.lock"]


def test_a_split_that_cannot_train_is_not_kept_and_a_kept_one_is_named(config: Config, tmp_path: Path) -> None:
    samples = readers.read(config.data)
    with pytest.raises(InputError, match="the train part of the split has no negatives"):
        runs.open_run(tmp_path, config, [sample for sample in samples if sample.label])
    assert not list(tmp_path.iterdir())
    split = runs.open_run(tmp_path, config, samples).split
    splits.save(dataclasses.replace(split, train=split.masked), tmp_path / "split.json")
    with pytest.raises(InputError, match=r"split\.json: the train part of the split has no negatives.*\n.*--workdir"):
        runs.open_run(tmp_path, config, samples)


def test_a_checkpoint_of_another_architecture_is_refused(config: Config, finished: Path) -> None:
    other = dataclasses.replace(config, model=SegDecConfig(kernels="large"))
    with pytest.raises(InputError, match=r"segmentation/conv1/kernel: checkpoint \(3, 3, 1, 32\).*\(5, 5, 1, 32\)"):
        checkpoint.restore_variables(finished, config=other)
    with pytest.raises(InputError, match=r"choose best, last or one of the steps \[5, 10\]"):
        checkpoint.restore_variables(finished, config=config, which="7")


@pytest.fixture
def collected() -> Iterator[None]:
    """What the test leaves is collected with it, and not in one whose warnings are errors."""
    yield
    gc.collect()


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax forgets what else it was reading
@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("variables/_METADATA", "10"),
        ("variables/d/*", "10"),
        ("variables/ocdbt.process_0/d/*", "10"),
        ("metrics/metrics", ""),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_way_out(
    config: Config, finished: Path, tmp_path: Path, file: str, folder: str
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for path in (workdir / "checkpoints" / "10").glob(file):
        os.truncate(path, path.stat().st_size // 2)
    where = re.escape(str(workdir / "checkpoints" / folder))
    with pytest.raises(InputError, match=rf"^{where}: cannot be read .*copy it again, or move "):
        checkpoint.restore_variables(workdir, config=config, which="last")
    with pytest.raises(InputError, match=rf"^{where}: cannot be read"):
        loop.train(config, workdir)
    shutil.rmtree(workdir / "checkpoints" / "10")
    _, step_before = checkpoint.restore_variables(workdir, config=config, which="last")
    assert step_before == 5


def test_best_is_the_checkpoint_of_the_best_validation(config: Config, finished: Path) -> None:
    scores = {line["step"]: line["average_precision"] for line in figures(finished) if line["kind"] == "validation"}
    _, best = checkpoint.restore_variables(finished, config=config, which="best")
    assert scores[best] == max(scores.values())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = step.place

    def poisoned(batch, mesh):
        poisoned.calls += 1
        return place({**batch, "image": batch["image"] * np.nan} if poisoned.calls == 11 else batch, mesh)

    poisoned.calls = 0
    monkeypatch.setattr(step, "place", poisoned)
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=3))
    with pytest.raises(InputError, match=r"step 11: .*not finite.*last good checkpoint is that of step 10"):
        loop.train(longer, tmp_path)
    assert checkpoint.open_checkpoints(tmp_path).latest_step() == 10
    assert figures(tmp_path)[-1]["loss"] == "nan"


def test_a_data_set_that_changed_is_refused_on_resume(config: Config, finished: Path) -> None:
    with pytest.raises(InputError, match=r"data set has changed.* 5 steps and has 4 now"):
        runs.note_start(runs.load(finished), steps_per_epoch=4)


def test_what_two_devices_saved_one_device_loads(config: Config, finished: Path) -> None:
    code = (
        "import sys, jax; from jaxdefect.training import checkpoint, runs; "
        "run = runs.load(sys.argv[1]); assert jax.local_device_count() == 1; "
        "variables, step = checkpoint.restore_variables(run.workdir, config=run.config, which='last'); "
        "print(step, float(abs(variables['params']['decision']['head']['kernel']).sum()))"
    )
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    step_text, total = done.stdout.split()
    expected = leaves(finished, config)["['params']['decision']['head']['kernel']"]
    assert step_text == "10"
    np.testing.assert_allclose(float(total), np.abs(expected).sum(), rtol=1e-6)


def batch_of(count: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    return {
        "image": rng.random((count, 64, 64, 1), np.float32),
        "mask": rng.random((count, 8, 8, 1), np.float32) * label[:, None, None, None].astype(np.float32),
        "weight": rng.random((count, 8, 8, 1), np.float32),
        "label": label.astype(np.float32),
        "has_mask": np.ones(count, np.float32),
        "id": np.array([f"s{i}" for i in range(count)]),
    }


def halves_of(batch: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    half = len(batch["label"]) // 2
    return [{key: value[part] for key, value in batch.items()} for part in (slice(half), slice(half, None))]


def first_stage(config: Config) -> state.Stage:
    return state.stages(config, steps_per_epoch=1)[0]


@functools.cache  # as tracing takes longer than a step
def step_of(config: Config, mesh: jax.sharding.Mesh) -> step.Step:
    return step.make_step(models.build(config.model), config, first_stage(config), mesh=mesh)


def run_steps(
    config: Config, batches: Sequence[dict[str, np.ndarray]], *, num_devices: int, start: state.TrainState | None = None
) -> tuple[state.TrainState, list[dict[str, float]]]:
    mesh = jax.sharding.Mesh(jax.local_devices()[:num_devices], ("data",))
    current = jax.device_put(
        start or state.initial_state(models.build(config.model), config, first_stage(config)),
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    )
    compiled = step_of(config, mesh)
    history = []
    for batch in batches:
        current, metrics = compiled(current, step.place(batch, mesh))
        history.append(jax.device_get(metrics))
    return current, history


@pytest.fixture
def convolutions_of_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that round alike for batches of any size.

    Whether Winograd's filtering is used depends on that size, and XLA rounds a sum as it fuses it with what follows.
    """
    monkeypatch.setattr(winograd, "_MOST_CHANNELS", 0)
    monkeypatch.setattr(few_channels, "_MOST_TERMS", 0)


@pytest.mark.usefixtures("convolutions_of_xla")
def test_two_devices_give_the_numbers_of_one(config: Config) -> None:
    assert jax.local_device_count() == 2
    assert [step.device_mesh(n).size for n in (1, 2, 3, 4)] == [1, 2, 1, 2]
    config = dataclasses.replace(config, optimizer=OptimizerConfig(name="sgd", learning_rate=0.01))
    batches = [batch_of(4, seed=number) for number in range(2)]
    _, one_history = run_steps(config, batches, num_devices=1)
    _, two_history = run_steps(config, batches, num_devices=2)
    # Sums over the batch run in another order, and the norms after the second step magnify that.
    for first, second, tolerance in zip(one_history, two_history, (1e-5, 1e-3), strict=True):
        for name, value in first.items():
            if name != "gradient_norm":
                np.testing.assert_allclose(second[name], value, rtol=tolerance, err_msg=name)
    # The weights after each step are the mean of those after its halves, from the same state on: computed on one device
    # as a whole batch, which XLA rounds otherwise, a ReLU or two may switch.
    current = jax.device_get(run_steps(config, [], num_devices=1)[0])
    for batch in batches:
        alone = [run_steps(config, [half], num_devices=1, start=current)[0].params for half in halves_of(batch)]
        current = jax.device_get(run_steps(config, [batch], num_devices=2, start=current)[0])
        expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *jax.device_get(alone))
        for first, second in zip(jax.tree.leaves(expected), jax.tree.leaves(current.params), strict=True):
            np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("convolutions_of_xla")
def test_two_devices_average_the_gradients_of_their_halves(config: Config) -> None:
    """Not those of one device on the whole: where rounding differs with the batch, a ReLU or two switch."""
    config = dataclasses.replace(config, optimizer=OptimizerConfig(name="sgd", learning_rate=1.0))
    whole = batch_of(4, seed=0)
    two, _ = run_steps(config, [whole], num_devices=2)
    alone = [jax.device_get(run_steps(config, [half], num_devices=1)[0].params) for half in halves_of(whole)]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *alone)
    for first, second in zip(jax.tree.leaves(expected), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)


def test_stages_train_their_own_part_only_on_two_devices_and_resumed_between_them(
    config: Config, tmp_path: Path
) -> None:
    training = dataclasses.replace(config.training, stages="two_stage", epochs=1, steps_per_epoch=1, ema_decay=0.5)
    config = dataclasses.replace(config, training=training)
    segmentation, decision = state.stages(config, steps_per_epoch=2)
    assert (segmentation.start, segmentation.end, decision.start, decision.end) == (0, 2, 2, 4)
    initial = state.initial_state(models.build(config.model), config, segmentation).params
    assert loop.train(config, tmp_path) == 0
    end = checkpoint.restore_variables(tmp_path, config=config, which="last")[0]["params"]
    checkpoints = checkpoint.open_checkpoints(tmp_path)
    checkpoints.manager.delete(2)
    checkpoints.close()
    middle, number = checkpoint.restore_variables(tmp_path, config=config, which="last")
    assert number == 1
    middle = middle["params"]
    assert changed(initial["segmentation"], middle["segmentation"])
    assert not changed(initial["decision"], middle["decision"])
    # Frozen at its averages: what it was before would move them.
    assert not changed(middle["segmentation"], end["segmentation"])
    assert changed(middle["decision"], end["decision"])
    assert loop.train(config, tmp_path) == 0
    assert not changed(checkpoint.restore_variables(tmp_path, config=config, which="last")[0]["params"], end)


def changed(first: dict, second: dict) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_parameters_must_match_the_pattern() -> None:
    params = {"a": {"kernel": np.zeros(1), "bias": np.zeros(1)}, "b": {"kernel": np.zeros(1)}}
    trained, rest = state.split_params(params, "a/.*")
    assert (sorted(trained), sorted(rest)) == (["a/bias", "a/kernel"], ["b/kernel"])
    assert state.merge_params(trained, rest) == params
    with pytest.raises(InputError, match=r"no parameter matches 'c/"):
        state.split_params(params, "c/.*")


@pytest.mark.parametrize(
    ("settings", "scores", "num_validations"),
    [
        ({"patience_epochs": 2}, [0.4, 0.9, 0.9, 0.9, 0.9], 4),
        # An epoch that was not validated says nothing; one without a score (no defect among the images) is saved too.
        ({"patience_epochs": 1, "validate_every_epochs": 2, "checkpoint_every_epochs": 9}, [0.9, None, None], 2),
    ],
    ids=["at its best, and no better since", "seldom validated"],
)
def test_training_stops_when_the_chosen_figure_no_longer_improves(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, int],
    scores: list[float | None],
    num_validations: int,
) -> None:
    values = iter(scores)
    training = dataclasses.replace(config.training, epochs=8, steps_per_epoch=1, **settings)
    stopping = dataclasses.replace(config, training=training)
    figures_of = loop.validation.make_validation

    def make(*arguments, **settings):
        validate = figures_of(*arguments, **settings)
        return lambda variables: ({**validate(variables)[0], "average_precision": next(values)}, [])

    monkeypatch.setattr(loop.validation, "make_validation", make)
    assert loop.train(stopping, tmp_path) == 0
    validated = [line["step"] for line in figures(tmp_path) if line["kind"] == "validation"]
    assert validated == [training.validate_every_epochs * (i + 1) for i in range(num_validations)]
    assert checkpoint.open_checkpoints(tmp_path).latest_step() == 4
    assert loop.train(stopping, tmp_path) == 0  # it is finished, and stays so
    assert checkpoint.open_checkpoints(tmp_path).latest_step() == 4
    assert checkpoint.restore_variables(tmp_path, config=stopping, which="best")[1] in (2, 3, 4)


def test_a_warm_up_that_does_not_end_within_a_stage_is_named_before_the_run_begins(
    config: Config, tmp_path: Path
) -> None:
    training = dataclasses.replace(config.training, epochs=3, steps_per_epoch=2)
    config = dataclasses.replace(config, training=training, optimizer=OptimizerConfig(warmup_steps=6))
    with pytest.raises(InputError, match=r"warmup_steps = 6: .*3 epochs of 2 steps.*lower it or train longer"):
        loop.train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()  # so that the command with another number begins the run
    assert not (tmp_path / "split.json").exists()
