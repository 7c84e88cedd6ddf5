"""An ensemble of binary detectors, one per defect class, as one predictor.

Each member has thresholds of its own. Scores and maps are bent so that every member's threshold lies at 1/2 before the
largest is taken: the ensemble calls an image defective from 1/2 on, exactly where one of its members does.
"""

import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdefect import models
from jaxdefect.inference.calibration import Calibration
from jaxdefect.training import runs
from jaxdefect.types import InputError

_FOLDER = "members"
MEMBER_THRESHOLD = 0.5  # of a member's bent score


def member_directory(workdir: Path, name: str) -> Path:
    """Where the run of the member for class `name` lies."""
    return workdir / _FOLDER / urllib.parse.quote(name, safe="")


def member_classes(workdir: Path) -> tuple[str, ...]:
    """The classes that the ensemble in `workdir` has members for."""
    folders = sorted(path.name for path in (workdir / _FOLDER).glob("*") if path.is_dir())
    return tuple(urllib.parse.unquote(name) for name in folders)


def combine(predictor_class: Any, run: runs.Run, members: Mapping[str, Any]) -> Any:
    """The ensemble's predictor from those of its members, by class.

    Raises:
      InputError: no members.
    """
    if not members:
        raise InputError(f"{run.workdir}: an ensemble without members; let launch.train finish")
    parts = list(members.values())
    thresholds = jnp.array([member.threshold for member in parts])
    pixel_thresholds = jnp.array([member.pixel_threshold for member in parts])
    calibration = None
    if all(member.calibration is not None for member in parts):
        sources = {member.calibration.source for member in parts}
        calibration = Calibration(
            MEMBER_THRESHOLD,
            MEMBER_THRESHOLD,
            "train" if "train" in sources else "validation",
            parts[0].checkpoint_step,
        )
    return predictor_class(
        config=run.config,
        variables=(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(member.variables for member in parts)),
            thresholds,
            pixel_thresholds,
        ),
        checkpoint_step=parts[0].checkpoint_step,
        workdir=run.workdir,
        calibration=calibration,
        forward=_compile_forward(models.build(run.config.model).apply),
        classes=tuple(members),
    )


def _compile_forward(apply: Callable[..., Any]) -> Callable[..., Mapping[str, jax.Array]]:
    @jax.jit
    def forward(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        members, thresholds, pixel_thresholds = variables
        # One member after the other: no more memory than one needs, and one compiled network.
        outputs = jax.lax.map(lambda member: apply(member, images, train=False), members)
        scores = bend(jax.nn.sigmoid(outputs["decision"]), thresholds[:, None])
        maps = bend(outputs["probability"], pixel_thresholds[:, None, None, None])
        score = jnp.clip(jnp.max(scores, axis=0), 1e-30, 1 - 1e-7)
        return {
            "decision": jnp.log(score) - jnp.log1p(-score),
            "probability": jnp.max(maps, axis=0),
            "class_scores": scores.T,
        }

    return forward


def bend(score: jax.Array, threshold: jax.Array) -> jax.Array:
    """[0, 1] onto itself, piecewise linear and growing, with `threshold` at 1/2."""
    below = 0.5 * score / jnp.maximum(threshold, 1e-30)
    above = 0.5 + 0.5 * (score - threshold) / jnp.maximum(1.0 - threshold, 1e-30)
    return jnp.where(score >= threshold, above, below)
