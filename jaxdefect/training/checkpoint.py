"""Checkpoints: the only file that imports Orbax.

A checkpoint has two parts: "variables", what evaluation and prediction use (averaged weights where there are any), and
"training", what only a resumed training needs. Kept are the last two and the best on the validation images.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers as policies

from jaxdefect import models
from jaxdefect.config import Config
from jaxdefect.training.state import TrainState, evaluation_variables
from jaxdefect.types import InputError

METRIC = "score"  # higher is better; what `config.training.select_by` names
_FOLDER = "checkpoints"
_MOST_AT_ONCE = 4  # the last two, the best, and the one being written


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; saving goes on in the background and a checkpoint appears only when whole."""

    manager: ocp.CheckpointManager

    def latest_step(self) -> int | None:
        """The last step saved, None where there is none."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, *, metrics: Mapping[str, float] | None) -> None:
        """Starts saving; `metrics` holds the validation score when this step has been validated."""
        # Orbax wants a figure for every checkpoint; one that was not validated must never be the best.
        metrics = dict(metrics) if metrics else {METRIC: -math.inf}
        training = {"stage_step": state.stage_step, "optimizer": state.optimizer, "balance": state.balance}
        if state.ema_params is not None:
            training["params"] = state.params
        parts = ocp.args.Composite(
            variables=ocp.args.StandardSave(evaluation_variables(state)), training=ocp.args.StandardSave(training)
        )
        self.manager.save(step, args=parts, metrics=metrics, force=True)

    def restore(self, step: int, template: TrainState) -> TrainState:
        """The state saved at `step`; `template` is a fresh one of the same stage.

        Raises:
          InputError: it is of another architecture, or damaged.
        """
        with _readable(self.manager, step):
            _check_architecture(self.manager, step, evaluation_variables(template), Path(self.manager.directory).parent)
            return self._restore(step, template)

    def _restore(self, step: int, template: TrainState) -> TrainState:
        training = {"stage_step": template.stage_step, "optimizer": template.optimizer, "balance": template.balance}
        if template.ema_params is not None:
            training["params"] = template.params
        parts = ocp.args.Composite(
            variables=ocp.args.StandardRestore(_abstract(evaluation_variables(template))),
            training=ocp.args.StandardRestore(_abstract(training)),
        )
        restored = self.manager.restore(step, args=parts)
        variables, training = restored["variables"], restored["training"]
        has_average = template.ema_params is not None
        return TrainState(
            stage_step=training["stage_step"],
            params=training["params"] if has_average else variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            optimizer=training["optimizer"],
            balance=training["balance"],
            ema_params=variables["params"] if has_average else None,
        )

    def close(self) -> None:
        """Waits until all is written."""
        self.manager.wait_until_finished()
        self.manager.close()


def open_checkpoints(workdir: Path, *, create: bool = True) -> Checkpoints:
    """The checkpoints under a run's directory.

    Raises:
      InputError: the figures that one of them was judged by cannot be read.
    """

    def score(metrics: Mapping[str, float]) -> float:
        return metrics[METRIC]

    options = ocp.CheckpointManagerOptions(
        best_fn=score,
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(2),
                policies.BestN(get_metric_fn=score, n=1),
            ]
        ),
        cleanup_tmp_directories=create,
        create=create,
    )
    handlers = {name: ocp.StandardCheckpointHandler() for name in ("variables", "training")}
    folder = (workdir / _FOLDER).absolute()
    with _damage_reported(folder, "copy it again, or move the checkpoint in it away whose metrics are no JSON file"):
        return Checkpoints(ocp.CheckpointManager(folder, options=options, item_handlers=handlers))


def restore_variables(workdir: Path, *, config: Config, which: str | int | None = None) -> tuple[dict[str, Any], int]:
    """The variables for evaluation, and the step that they come from.

    Args:
      workdir: a run's directory.
      config: the run's config.
      which: "best" (on the validation images; the last where none was validated), "last", a step, or None:
        `config.training.select`.

    Raises:
      InputError: no such checkpoint, or one of another architecture, or a damaged one.
    """
    which = config.training.select if which is None else which
    if not (workdir / _FOLDER).is_dir():
        raise InputError(f"{workdir}: holds no checkpoint; train first: python -m launch.train --workdir={workdir} ...")
    checkpoints = open_checkpoints(workdir, create=False)
    try:
        step = _find_step(checkpoints.manager, which, workdir)
        wanted = template(models.build(config.model), config)
        parts = ocp.args.Composite(variables=ocp.args.StandardRestore(_abstract(wanted)))
        with _readable(checkpoints.manager, step):
            _check_architecture(checkpoints.manager, step, wanted, workdir)
            return checkpoints.manager.restore(step, args=parts)["variables"], step
    finally:
        checkpoints.close()


def weights_sha256(variables: Mapping[str, Any]) -> str:
    """What tells weights from others, whatever run and step they come from: of all names and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def num_bytes_needed(workdir: Path, *, module: nn.Module, config: Config) -> int:
    """An upper estimate of the disk space that the run's checkpoints will still take."""
    copies = 1 + bool(config.training.ema_decay) + {"momentum": 1, "adam": 2, "adamw": 2}.get(config.optimizer.name, 0)
    one = copies * sum(4 * leaf.size for leaf in jax.tree.leaves(template(module, config)))
    folder = workdir / _FOLDER
    num_present = len(list(folder.iterdir())) if folder.is_dir() else 0
    return max(1, _MOST_AT_ONCE - num_present) * one


def _find_step(manager: ocp.CheckpointManager, which: str | int, workdir: Path) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise InputError(f"{workdir / _FOLDER}: holds no finished checkpoint; let the training run on")
    if which == "last":
        return steps[-1]
    if which == "best":
        return max(steps, key=lambda step: ((manager.metrics(step) or {}).get(METRIC, -math.inf), step))
    if not str(which).isdigit() or int(which) not in steps:
        raise InputError(f"checkpoint {which!r} of {workdir}: choose best, last or one of the steps {steps}")
    return int(which)


@contextlib.contextmanager
def _readable(manager: ocp.CheckpointManager, step: int) -> Iterator[None]:
    """Turns what Orbax raises of a damaged checkpoint into an InputError."""
    others = [other for other in manager.all_steps() if other != step]
    otherwise = f"move this folder away, and step {max(others)} takes its place" if others else "train anew"
    with _damage_reported(Path(manager.directory) / str(step), f"copy it again, or {otherwise}"):
        yield


@contextlib.contextmanager
def _damage_reported(folder: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError, jax.errors.JaxRuntimeError):  # the last when a device's memory ends
        raise
    except Exception as error:  # of damaged files Orbax raises anything, `Exception` itself included
        reason = str(error).partition("\n")[0].partition(" See full")[0][:160]
        raise InputError(f"{folder}: cannot be read ({type(error).__name__}: {reason}); {advice}") from error


def _check_architecture(manager: ocp.CheckpointManager, step: int, template: Any, workdir: Path) -> None:
    metadata: Any = manager.item_metadata(step)["variables"]
    if metadata is None:
        raise FileNotFoundError("no metadata of its variables")
    have, want = _shapes(metadata.tree), _shapes(template)
    if have != want:
        lines = [
            f"  {path}: checkpoint {have.get(path, 'lacks it')}, config wants {want.get(path, 'none')}"
            for path in sorted(have.keys() | want.keys())
            if have.get(path) != want.get(path)
        ]
        raise InputError(
            f"{workdir}: checkpoint {step} is of another architecture than the config's model; {len(lines)} parameters "
            "differ:\n" + "\n".join(lines[:10])
        )


def is_fresh(workdir: Path) -> bool:
    """Whether the run has no checkpoint yet."""
    folder = workdir / _FOLDER
    return not folder.is_dir() or not any(folder.iterdir())


def template(module: nn.Module, config: Config) -> dict[str, Any]:
    """The variables' shapes and types."""
    return jax.eval_shape(lambda: models.init(module, num_channels=config.data.num_channels, seed=0))


def _shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def _abstract(tree: Any) -> Any:
    """Shapes and types to restore to; on one device where the tree does not say, whatever devices they came from."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or device)

    return jax.tree.map(leaf, tree)
