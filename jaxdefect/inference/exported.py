"""Exported runs: a network as one StableHLO file, all that is to be known of it in a sidecar, a predictor from both.

Nothing of the run is needed any more: neither its checkpoint nor its data, and no network is built.
`jaxdefect.interop.export` writes them; docs/export.md describes the sidecar.
"""

import hashlib
import json
import logging
import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import ensemble, four_stage
from jaxdefect.inference.tiles import check_tiling
from jaxdefect.types import InputError

SIDECAR_VERSION = 1
MODEL, CLASSIFIER = "model", "classifier"  # the graphs of an export, by name
STABLEHLO_SUFFIX = ".stablehlo"
_PLATFORMS = {"gpu": ("cuda", "rocm")}  # what a backend calls itself, and what an export calls it
_LOGGER = logging.getLogger(__name__)

Call = Callable[[Any], dict[str, jax.Array]]  # images [B, H, W, C] float32 -> outputs


def sidecar_path(graph: Path) -> Path:
    """Where the sidecar of an exported model lies."""
    return graph.with_name(f"{graph.name}.json")


def find(path: Path) -> Path | None:
    """The exported StableHLO graph that `path` means, itself or in that folder; None for another folder or nothing.

    Raises:
      InputError: a folder with an export in another format.
    """
    if path.is_file():
        return path
    graph = path / f"{MODEL}{STABLEHLO_SUFFIX}"
    if graph.is_file() or sidecar_path(graph).is_file():
        return graph
    others = sorted(other.name for other in path.glob(f"{MODEL}.*.json"))
    if others:
        raise InputError(
            f"{path}: holds {others[0].removesuffix('.json')}, which runs in its own runtime; for jaxdefect, export "
            "with --format=stablehlo"
        )
    return None


def load(
    predictor_class: Any,
    graph: Path,
    *,
    calibration: str | os.PathLike | None,
    is_calibrating: bool,
    has_classifier: bool,
) -> Any:
    """The predictor of an export.

    Args:
      predictor_class: `Predictor`.
      graph: the detector's StableHLO file; its sidecar lies beside it, and a classifier's graph too.
      calibration: a file that launch.calibrate wrote; None: what was exported.
      is_calibrating: do not warn of missing thresholds.
      has_classifier: load the classifier, too, if there is one.

    Raises:
      InputError: no StableHLO export; a file that is missing, broken, of a newer version, or not the one that the
        sidecar was written for; one for another platform; a calibration as `ensemble.check_joint` says, or in tiles
        that do not suit the network.
    """
    sidecar = read_sidecar(graph)
    weights_sha256 = sidecar.get("weights_sha256")
    try:
        config = config_lib.from_saved(sidecar["config"])
        own = sidecar["calibration"]
        own = None if own is None else calibrations.from_json(own)
        classes = tuple(sidecar["classes"])
        class_thresholds = tuple(map(float, sidecar["class_thresholds"]))
        pixel_thresholds = jnp.array(sidecar["class_pixel_thresholds"], jnp.float32)
        step, graphs = int(sidecar["checkpoint_step"]), dict(sidecar["graphs"])
        files = dict(graphs[MODEL]["files"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(graph, sidecar, error) from error
    where = sidecar_path(graph) if calibration is None else Path(calibration)
    if calibration is not None:
        own = calibrations.read(where)
        if classes:
            ensemble.check_joint(own, weights_sha256, where=where, workdir=graph)
    if own is None and not is_calibrating:
        _LOGGER.warning(
            "%s was exported without a calibration: the threshold is the model's default, %.6g.",
            graph,
            config.model.threshold,
        )
    elif own is not None and not classes and not is_calibrating:  # a joint one is checked above
        calibrations.warn_of_other_weights(own, graph, checkpoint_step=step, weights_sha256=weights_sha256)
    call = open_graph(graph, files)
    has_classifier = has_classifier and CLASSIFIER in graphs
    return predictor_class(
        config=config,
        variables=(),
        checkpoint_step=step,
        workdir=graph,
        calibration=own,
        forward=_joint(call, pixel_thresholds) if classes else jax.jit(lambda _, images: call(images)),
        classes=classes,
        class_thresholds=class_thresholds,
        classifier=_classifier(graph, graphs[CLASSIFIER], config) if has_classifier else None,
        tiling=None if own is None else check_tiling(own.tiling, config, where=where),
        weights_sha256=weights_sha256,
    )


def read_sidecar(graph: Path) -> dict[str, Any]:
    """What the sidecar of an exported StableHLO file says.

    Raises:
      InputError: not such a file; no sidecar, a broken one, or one of a newer version.
    """
    path = sidecar_path(graph)
    if graph.suffix != STABLEHLO_SUFFIX:
        raise InputError(
            f"{graph}: not an exported StableHLO file; give a run's directory, or a {MODEL}{STABLEHLO_SUFFIX} that "
            "launch.export wrote"
        )
    try:
        sidecar = json.loads(path.read_text())
        version = sidecar["sidecar_version"]
        is_newer = version > SIDECAR_VERSION
    except OSError as error:
        raise InputError(
            f"{path}: the sidecar of the export is missing ({error.strerror}); copy it, too, from where {graph.name} "
            "came from: it holds the thresholds"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not the sidecar of an export ({error}); export again") from error
    if is_newer:
        raise InputError(
            f"{path}: of version {version}, written{_by(sidecar)}; this jaxdefect reads up to version "
            f"{SIDECAR_VERSION}: install a newer one, or export again with this one"
        )
    return sidecar


def open_graph(graph: Path, files: Mapping[str, str]) -> Call:
    """An exported StableHLO file as a function.

    Args:
      graph: the file.
      files: the SHA-256 of each file of the graph, by name.

    Returns:
      images [B, H, W, C] float32 -> outputs, for any B, also where the graph was exported for a number of them.

    Raises:
      InputError: it is missing, not the one that was exported, of a newer JAX, or for another platform.
    """
    try:
        data = graph.read_bytes()
    except OSError as error:
        raise InputError(f"{graph}: cannot be read ({error.strerror}); copy it again") from error
    if hashlib.sha256(data).hexdigest() != files.get(graph.name):
        raise InputError(
            f"{graph}: not the file that the sidecar was written for (its SHA-256 differs); copy both again, or export "
            "again"
        )
    newest = jax.export.maximum_supported_calling_convention_version
    try:
        program = jax.export.deserialize(bytearray(data))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{graph}: this JAX, {jax.__version__}, cannot read it: {error}") from error
    if program.calling_convention_version > newest:
        raise InputError(f"{graph}: exported by a newer JAX; this one, {jax.__version__}, is too old: upgrade it")
    backend = jax.default_backend()
    if not {backend, *_PLATFORMS.get(backend, ())} & set(program.platforms):
        raise InputError(
            f"{graph}: exported for {', '.join(program.platforms)}, and this is {backend}; export with "
            "--platforms=… or run it on one of those (JAX_PLATFORMS=cpu)"
        )
    call, size = typing.cast(Call, program.call), program.in_avals[0].shape[0]
    return _of_any_number(call, size) if isinstance(size, int) else call


def _classifier(model: Path, entry: Mapping[str, Any], config: Config) -> four_stage.Classifier:
    call = open_graph(model.with_name(f"{CLASSIFIER}{STABLEHLO_SUFFIX}"), entry["files"])
    return four_stage.Classifier(
        settings=config.classifier,
        classes=tuple(entry["classes"]),
        variables=(),
        step=int(entry["checkpoint_step"]),
        forward=four_stage.compile_classifier(lambda _, pixels: call(pixels)),
    )


def _joint(call: Call, pixel_thresholds: jax.Array) -> Any:
    """An ensemble's forward. Its thresholds are no variables, which are spread over devices: an export runs on one."""
    forward = ensemble.compile_joint(lambda _, images: call(images))
    return lambda variables, images: forward((variables, pixel_thresholds), images)


def _of_any_number(call: Call, size: int) -> Call:
    """A program for `size` images at a time, for any number."""

    def in_batches(images: Any) -> dict[str, jax.Array]:
        count = images.shape[0]
        padded = jnp.pad(images, ((0, -count % size), (0, 0), (0, 0), (0, 0)))
        parts = [call(padded[start : start + size]) for start in range(0, padded.shape[0], size)]
        return {name: jnp.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    return in_batches


def _broken(graph: Path, sidecar: Mapping[str, Any], error: Exception) -> InputError:
    return InputError(f"{sidecar_path(graph)}: written{_by(sidecar)}, cannot be read here ({error}); export again")


def _by(sidecar: Mapping[str, Any]) -> str:
    versions = sidecar.get("versions")
    return f" by jaxdefect {versions.get('jaxdefect')}" if isinstance(versions, Mapping) else ""
