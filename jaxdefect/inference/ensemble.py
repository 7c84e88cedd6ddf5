"""An ensemble of binary detectors, one per defect class, as one predictor.

Each member has thresholds of its own. Scores and maps are bent so that every member's threshold lies at 1/2 before the
largest is taken: the ensemble calls an image defective from 1/2 on, exactly where one of its members does. A joint
calibration decides of images by other thresholds of that largest score; classes and pixels are called as before.
"""

import dataclasses
import functools
import hashlib
import json
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdefect import models
from jaxdefect.inference.calibration import Calibration
from jaxdefect.training import runs
from jaxdefect.types import InputError

_FOLDER = "members"
THRESHOLD = 0.5  # of bent scores and maps, a member's and the ensemble's


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
      InputError: no members, one whose scores are calibrated, or such that are calibrated for different tiles.
    """
    if not members:
        raise InputError(f"{run.workdir}: an ensemble without members; let launch.train finish")
    parts = list(members.values())
    if len({member.tiling for member in parts}) > 1:
        raise InputError(
            f"{run.workdir}: its members are calibrated for images in different tiles; "
            f"`python -m launch.calibrate --workdir={run.workdir} [--tile=…]` calibrates all members alike"
        )
    calibration, sha256 = None, _sha256(members)
    if all(member.calibration is not None for member in parts):
        calibration = _calibration_of({name: member.calibration for name, member in members.items()}, run)
        calibration = dataclasses.replace(calibration, weights_sha256=sha256)
    stacked = _stack([member.variables for member in parts])
    return predictor_class(
        config=run.config,
        variables=(stacked, jnp.array([member.pixel_threshold for member in parts])),
        checkpoint_step=parts[0].checkpoint_step,
        workdir=run.workdir,
        calibration=calibration,
        forward=compile_forward(models.build(run.config.model).apply),
        classes=tuple(members),
        class_thresholds=tuple(member.threshold for member in parts),
        tiling=parts[0].tiling,
        weights_sha256=sha256,
    )


@jax.jit  # else each shape among the weights would be a program of its own
def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _sha256(members: Mapping[str, Any]) -> str:
    """The hash of all that the joined score follows from: the members' weights and thresholds."""
    parts = [
        (name, member.weights_sha256, float(member.threshold), float(member.pixel_threshold))
        for name, member in members.items()
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_joint(joint: Calibration, sha256: str | None, *, where: Path, workdir: Path) -> None:
    """Whether a joint calibration belongs to an ensemble.

    Args:
      joint: read from `where`.
      sha256: `weights_sha256` of the ensemble's predictor.
      where: its file.
      workdir: of the ensemble.

    Raises:
      InputError: it was chosen for other members, for other thresholds of theirs, or for no ensemble at all.
    """
    if sha256 is None or joint.weights_sha256 != sha256:
        raise InputError(
            f"{where}: not chosen for the joined score of {workdir}: its members, or their thresholds, are others. "
            "launch.calibrate --joint chooses one for them; without the file an image is defective where a member "
            "says so"
        )


def with_joint(predictor: Any, joint: Calibration, *, where: Path) -> Any:
    """The ensemble's predictor that decides of images by a joint calibration, whose notes gain the members'.

    Raises:
      InputError: as `check_joint`.
    """
    check_joint(joint, predictor.weights_sha256, where=where, workdir=predictor.workdir)
    of_members = () if predictor.calibration is None else predictor.calibration.notes
    return dataclasses.replace(predictor, calibration=dataclasses.replace(joint, notes=(*joint.notes, *of_members)))


def _calibration_of(members: Mapping[str, Calibration], run: runs.Run) -> Calibration:
    """That of the bent scores; what each member's was chosen by stands in the notes."""
    for name, own in members.items():
        if own.score_map is not None:
            raise InputError(
                f"{member_directory(run.workdir, name)}: calibrated scores, which an ensemble cannot join; "
                f"`python -m launch.calibrate --workdir={run.workdir}` calibrates all members anew, and with --joint "
                "--scores=… the joined score"
            )
    sources = {own.source for own in members.values()}
    notes = [
        f"Threshold of {name}: {own.threshold:.6g}, {own.policy}. {own.promise or ''}".rstrip()
        for name, own in members.items()
    ]
    return Calibration(
        THRESHOLD,
        THRESHOLD,
        source="train" if "train" in sources else sorted(sources)[0],
        checkpoint_step=next(iter(members.values())).checkpoint_step,
        policy=next(iter(members.values())).policy,
        tiling=next(iter(members.values())).tiling,
        notes=tuple(notes),
    )


def run_members(apply: Callable[..., Any], members: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Decision logits [B, K] and maps [B, K, h, w] of K members, their variables stacked along a first axis."""
    # One member after the other: no more memory than one needs, and one compiled network.
    outputs = jax.lax.map(lambda member: apply(member, images, train=False), members)
    return {name: jnp.moveaxis(outputs[name], 0, 1).astype(jnp.float32) for name in ("decision", "probability")}


@functools.lru_cache(maxsize=8)
def compile_forward(apply: Callable[..., Any]) -> Callable[..., Mapping[str, jax.Array]]:
    """`predictor.compile_forward` of all members: (their stacked variables, their pixel thresholds) -> outputs."""
    return compile_joint(functools.partial(run_members, apply))


def compile_joint(run: Callable[[Any, jax.Array], Mapping[str, jax.Array]]) -> Callable[..., Mapping[str, jax.Array]]:
    """`compile_forward` where `run(variables, images)` computes the members as `run_members` does."""

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        members, pixel_thresholds = variables
        outputs = run(members, images)
        maps = bend(outputs["probability"], pixel_thresholds[:, None, None])
        return {
            "decision": outputs["decision"],
            "probability": jnp.max(maps, axis=1),
            "class_probability": maps,
        }

    return forward


def bend(score: Any, threshold: Any) -> Any:
    """[0, 1] onto itself, piecewise linear and growing, with `threshold` at 1/2; NumPy or JAX arrays."""
    smallest = float(np.finfo(np.float32).tiny)
    below = 0.5 * score / (threshold + smallest)
    above = 0.5 + 0.5 * (score - threshold) / (1.0 - threshold + smallest)
    is_above = score >= threshold
    return is_above * above + (1 - is_above) * below
