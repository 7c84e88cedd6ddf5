"""Traced training steps, kept on disk so that the next start of a run need not trace them anew.

JAX keeps compiled programs, but finds them by what it has traced, and tracing a step takes longer than reading its
program (steel detector, two cores: 4 s of a start's 12). What is kept is known by all that tracing sees: the code of
this package, the libraries' versions and settings, the config, the shapes. Code put into the package while it runs is
not seen, so nothing is kept unless FOLDER is set, as launchers do.
"""

import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np

import jaxdefect
from jaxdefect.training.state import TrainState
from jaxdefect.training.step import Metrics

FOLDER = "JAXDEFECT_TRACED_DIR"  # the environment variable that names it
_LIBRARIES = ("jax", "jaxlib", "flax", "optax")
_MAX_FILES = 64  # of some 0.4 MB; the oldest go
_LOGGER = logging.getLogger(__name__)
AnyStep = TypeVar("AnyStep", bound=Callable[..., tuple[TrainState, Metrics]])


def keep(step: AnyStep, about: Sequence[Any]) -> AnyStep:
    """A compiled step that gives what `step` does, the state donated, traced at most once for all processes.

    Args:
      step: compiled, (state, ...) -> (state, metrics); what follows the state are arrays, or dicts of arrays.
      about: all that it was made of besides this package's code; known by their `repr`.

    Returns:
      `step` itself where nothing is kept.
    """
    folder = os.environ.get(FOLDER)
    if not folder or not jax.config.values["jax_enable_compilation_cache"]:
        return step
    programs: dict[tuple[tuple[int, ...], ...], Callable[..., Any]] = {}

    def run(state: TrainState, *inputs: Any) -> tuple[TrainState, Metrics]:
        leaves, structure = jax.tree.flatten(state)
        shapes = tuple(map(np.shape, jax.tree.leaves(inputs)))
        if shapes not in programs:
            exported = _exported(step, structure, jax.tree.map(_shape_of, (leaves, *inputs)), about, Path(folder))
            programs[shapes] = jax.jit(exported.call, donate_argnums=0)
        leaves, metrics = programs[shapes](leaves, *inputs)
        return jax.tree.unflatten(structure, leaves), metrics

    return cast(AnyStep, run)


def _shape_of(array: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=getattr(array, "sharding", None))


def _exported(
    step: Callable[..., Any], structure: Any, inputs: Any, about: Sequence[Any], folder: Path
) -> jax.export.Exported:
    """The step as a function of the state's leaves and its inputs: read from `folder`, or traced and written there."""
    where = jax.export.default_export_platform()
    everything = (_surroundings(), jax.config.values, where, str(structure), inputs, *about)
    path = folder / f"step-{hashlib.sha256(repr(everything).encode()).hexdigest()}"
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    digest, content = kept[:32], kept[32:]
    if content and hashlib.sha256(content).digest() == digest:
        return jax.export.deserialize(bytearray(content))

    def flat(leaves: list[jax.Array], *inputs: Any) -> tuple[list[jax.Array], Metrics]:
        state, metrics = step(jax.tree.unflatten(structure, leaves), *inputs)
        return jax.tree.leaves(state), metrics

    exported = jax.export.export(jax.jit(flat), platforms=[where])(*inputs)
    content = bytes(exported.serialize())
    _write(path, hashlib.sha256(content).digest() + content)
    return exported


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """The code of this package, as a hash, and the versions of what it calls."""
    code = hashlib.sha256()
    for path in sorted(Path(jaxdefect.__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest(), platform.python_version(), *map(importlib.metadata.version, _LIBRARIES)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a start that cannot keep its step only traces it anew."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
        for old in sorted(path.parent.glob("step-*"), key=lambda file: file.stat().st_mtime)[:-_MAX_FILES]:
            old.unlink(missing_ok=True)
    except OSError as error:
        _LOGGER.warning("%s: the traced step cannot be kept: %s", path.parent, error.strerror)
