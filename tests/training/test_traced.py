"""A traced step on disk: the same numbers without tracing, and traced anew wherever another would come out."""

import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdefect
from jaxdefect.training import step, traced
from jaxdefect.training.state import TrainState

RATE = 0.25


@pytest.fixture
def traces() -> list[int]:
    return []


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the folder was set before the import."""
    monkeypatch.setattr(traced, "_AT_IMPORT", traced._surroundings())


@pytest.fixture
def start(traces: list[int]) -> Callable[..., None]:
    """Starts a process's training, as far as a step goes: three steps."""
    mesh = step.device_mesh(2)

    def run(*about: object) -> None:
        def one(state: TrainState, batch: step.Arrays) -> tuple[TrainState, step.Metrics]:
            traces.append(1)
            params = {"a": state.params["a"] - RATE * batch["image"].mean(axis=0)}
            return state._replace(stage_step=state.stage_step + 1, params=params), {"loss": batch["image"].sum()}

        kept = traced.keep(jax.jit(one, donate_argnums=0), about)
        params = {"a": jnp.arange(3.0)}
        state = step.replicate(TrainState(jnp.zeros((), jnp.int32), params, {}, (), (), None), mesh)
        batch = step.place({"image": np.float32([[1, 2, 3], [3, 4, 5]]), "id": ["a", "b"]}, mesh)
        for _ in range(3):
            before = state
            state, metrics = kept(state, batch)
            assert before.params["a"].is_deleted()
            assert metrics["loss"] == 18
        assert state.stage_step == 3
        assert state.params["a"].sharding.device_set == set(mesh.devices.flat)
        np.testing.assert_array_equal(state.params["a"], [0 - 0.75 * 2, 1 - 0.75 * 3, 2 - 0.75 * 4])

    return run


def test_is_traced_once_for_all_starts_and_anew_where_something_changed(
    start: Callable[..., None], traces: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(traced.FOLDER, str(tmp_path / "kept"))
    start("config")
    start("config")
    assert len(traces) == 1
    start("another config")
    assert len(traces) == 2
    with jax.default_matmul_precision("highest"):
        start("config")
    assert len(traces) == 3
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    start("config")
    assert len(traces) == 4
    start("config")
    assert len(traces) == 4
    with monkeypatch.context() as patch:
        patch.setattr(traced, "_MAX_FILES", 2)
        start("a third config")
    assert len(traces) == 5
    assert len(list((tmp_path / "kept").iterdir())) == 2
    with jax.debug_nans(True):
        assert traced.keep(len, ()) is len


def test_edited_code_is_another_step_and_what_was_imported_before_an_edit_is_not_kept(
    start: Callable[..., None], traces: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(traced.FOLDER, str(tmp_path / "kept"))
    (package := tmp_path / "package").mkdir()
    monkeypatch.setattr(jaxdefect, "__file__", str(package / "__init__.py"))
    assert traced._surroundings() is None  # no code in files
    code = package / "losses.py"
    code.write_text("# as imported")
    monkeypatch.setattr(traced, "_AT_IMPORT", traced._surroundings())
    code.write_text("# edited")
    start("config")  # an edit while it read its images
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr(traced, "_AT_IMPORT", traced._surroundings())
    start("config")
    start("config")
    assert len(traces) == 2
    (library := tmp_path / "library").mkdir()
    (library / "__init__.py").write_text("")
    monkeypatch.setattr(optax, "__file__", str(library / "__init__.py"))
    monkeypatch.setattr(traced, "_AT_IMPORT", traced._surroundings())
    start("config")
    assert len(traces) == 3


def test_a_step_follows_an_array_that_jax_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on the first device, where the others are on two."""
    monkeypatch.setenv(traced.FOLDER, str(tmp_path))

    def one(state: TrainState, batch: step.Arrays) -> tuple[TrainState, step.Metrics]:
        return state._replace(stage_step=state.stage_step + 1), {"loss": batch["image"].sum()}

    kept = traced.keep(jax.jit(one, donate_argnums=0), ())
    state = TrainState(jnp.zeros((), jnp.int32), {}, {}, (), (), None)
    state, metrics = kept(state, step.place({"image": np.ones((2, 1), np.float32)}, step.device_mesh(2)))
    assert (state.stage_step, metrics["loss"]) == (1, 2)


def test_what_jax_cannot_export_is_compiled_as_it_is(
    start: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(traced.FOLDER, str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("a custom call without a stable form")

    monkeypatch.setattr(jax.export, "export", refuse)
    with caplog.at_level(logging.WARNING):
        start("config")
    assert "cannot be kept: a custom call without a stable form" in caplog.text


def test_inputs_of_another_shape_have_a_program_of_their_own(
    traces: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the last steps of an epoch do, where several are one call."""
    monkeypatch.setenv(traced.FOLDER, str(tmp_path))

    def one(state: TrainState, places: jax.Array, number: jax.Array) -> tuple[TrainState, step.Metrics]:
        traces.append(1)
        return state._replace(stage_step=state.stage_step + number), {"loss": places.sum()}

    for _ in range(2):
        kept = traced.keep(jax.jit(one, donate_argnums=0), ())
        state = TrainState(jnp.zeros((), jnp.int32), {}, {}, (), (), None)
        for number, places in enumerate(([1, 2], [3], [4, 5])):
            state, metrics = kept(state, np.array(places, np.int32), np.int32(number))
            assert metrics["loss"] == sum(places)
        assert state.stage_step == 0 + 1 + 2
    assert len(traces) == 2


def test_is_not_kept_unasked_and_a_folder_that_cannot_be_written_costs_only_time(
    start: Callable[..., None],
    traces: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv(traced.FOLDER, raising=False)
    assert traced.keep(len, ()) is len
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(traced.FOLDER, str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        start("config")
    assert len(traces) == 1
    assert "cannot be kept: " in caplog.text
    monkeypatch.setenv(traced.FOLDER, str(tmp_path / "kept"))
    monkeypatch.setattr(Path, "replace", lambda *_: Path("/nowhere/at all").stat())
    start("config")
    assert list((tmp_path / "kept").iterdir()) == []
