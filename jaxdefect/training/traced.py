"""Traced training steps, kept on disk so that the next start of a run need not trace them anew.

JAX keeps compiled programs, but finds them by what it has traced, and tracing a step takes longer than reading its
program (steel detector, two cores: 4 s of a start's 12). What is kept is known by all that tracing sees: the code of
this package and of the libraries, their versions and settings, the config, the shapes. Functions that a program puts
into the package while it runs are not seen, so nothing is kept unless FOLDER is set before this module is imported, as
launchers do; one that puts some in has to clear it.
"""

import contextlib
import hashlib
import logging
import os
import platform
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import cv2
import flax
import jax
import jaxlib
import numpy as np
import optax

import jaxdefect
from jaxdefect.training.state import TrainState
from jaxdefect.training.step import Metrics

FOLDER = "JAXDEFECT_TRACED_DIR"  # the environment variable that names it
_LIBRARIES = (jax, flax, optax)  # whose code is traced
# For finding errors: they want the step as it is written, traced and, perhaps, called operation by operation.
_DEBUGGING = ("jax_debug_nans", "jax_debug_infs", "jax_disable_jit", "jax_check_tracer_leaks")
_MAX_FILES = 64  # of some 0.4 MB; the oldest go
_LOGGER = logging.getLogger(__name__)
AnyStep = TypeVar("AnyStep", bound=Callable[..., tuple[TrainState, Metrics]])


def keep(step: AnyStep, about: Sequence[Any], *, first: tuple[TrainState, Sequence[Any]] | None = None) -> AnyStep:
    """A compiled step that gives what `step` does, the state donated, traced at most once for all processes.

    Args:
      step: compiled, (state, ...) -> (state, metrics); what follows the state are arrays, or dicts of arrays.
      about: all that it was made of besides this package's code; known by their `repr`.
      first: the first call's state and other arguments, or their shapes with shardings: what is kept for them is read
        from now on, in a thread, as that takes seconds in which something else can be done.

    Returns:
      `step` itself where nothing is kept.
    """
    folder, settings = os.environ.get(FOLDER), jax.config.values
    is_wanted = settings["jax_enable_compilation_cache"] and not any(settings[name] for name in _DEBUGGING)
    if not folder or not is_wanted or _AT_IMPORT is None:
        return step
    programs: dict[tuple[tuple[int, ...], ...], Callable[..., Any]] = {}

    def program(structure: Any, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        of_inputs = tuple(map(np.shape, jax.tree.leaves(arguments[1:])))
        if of_inputs not in programs:
            shapes = jax.tree.map(_shape_of, arguments)
            programs[of_inputs] = _program(step, structure, shapes, _path(structure, shapes, about, Path(folder)))
        return programs[of_inputs]

    def run(state: TrainState, *inputs: Any) -> tuple[TrainState, Metrics]:
        if reader is not None:
            reader.join()
        leaves, structure = jax.tree.flatten(state)
        leaves, metrics = program(structure, (leaves, *inputs))(leaves, *inputs)
        return jax.tree.unflatten(structure, leaves), metrics

    reader = None
    if first is not None:
        leaves, structure = jax.tree.flatten(first[0])
        shapes = jax.tree.map(_shape_of, (leaves, *first[1]))
        if _path(structure, shapes, about, Path(folder)).exists():
            reader = threading.Thread(target=program, args=(structure, shapes))
            reader.start()
    return cast(AnyStep, run)


def _path(structure: Any, shapes: Any, about: Sequence[Any], folder: Path) -> Path:
    """The file of the step for such arguments."""
    everything = (_AT_IMPORT, jax.config.values, jax.export.default_export_platform(), str(structure), shapes, *about)
    return folder / f"step-{hashlib.sha256(repr(everything).encode()).hexdigest()}"


def _program(step: Callable[..., Any], structure: Any, shapes: Any, path: Path) -> Callable[..., Any]:
    """The step, compiled, as a function of the state's leaves and its inputs: from the file if it can be."""

    def flat(leaves: list[jax.Array], *inputs: Any) -> tuple[list[jax.Array], Metrics]:
        state, metrics = step(jax.tree.unflatten(structure, leaves), *inputs)
        return jax.tree.leaves(state), metrics

    try:
        exported = _read(path)
        if exported is None:
            exported = jax.export.export(jax.jit(flat), platforms=[jax.export.default_export_platform()])(*shapes)
            _write(path, bytes(exported.serialize()))
        program = jax.jit(exported.call, donate_argnums=0)
        program.lower(*shapes).compile()
    except (NotImplementedError, ValueError) as error:
        # JAX can compile some programs that it cannot export; where the step itself is wrong, it fails again.
        _LOGGER.warning("the traced step cannot be kept: %s", error)
        return jax.jit(flat, donate_argnums=0)
    return program


def _shape_of(array: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if isinstance(array, jax.ShapeDtypeStruct):
        return array
    # Without a sharding where JAX may still choose it: asked for, the place where the array happens to be is an order.
    sharding = array.sharding if isinstance(array, jax.Array) and array.committed else None
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _surroundings() -> tuple[str, ...] | None:
    """What of the code a step follows from: this package's, the libraries' files (which somebody may have edited, their
    version unchanged), and the versions of what makes constants; None where the code is not in files.
    """
    code, files = hashlib.sha256(), hashlib.sha256()
    paths = sorted(Path(jaxdefect.__file__).parent.rglob("*.py"))
    if not paths:
        return None
    for path in paths:
        code.update(path.read_bytes())
    for library in _LIBRARIES:
        for path in sorted(Path(str(library.__file__)).parent.rglob("*.py")):
            status = path.stat()
            files.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    modules = (*_LIBRARIES, jaxlib, np, cv2)
    return code.hexdigest(), files.hexdigest(), platform.python_version(), *(module.__version__ for module in modules)


# When the code is imported, and not when the step is made: what is edited in between is not in the step.
_AT_IMPORT = _surroundings() if os.environ.get(FOLDER) else None


def _read(path: Path) -> jax.export.Exported | None:
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    digest, content = kept[:32], kept[32:]
    if not content or hashlib.sha256(content).digest() != digest:
        return None
    return jax.export.deserialize(bytearray(content))


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a start that cannot keep its step only traces it anew."""
    if _surroundings() != _AT_IMPORT:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
        temporary.replace(path)
    except OSError as error:
        _LOGGER.warning("%s: the traced step cannot be kept: %s", path.parent, error.strerror)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError):  # another start may do the same at this moment
        for old in sorted(path.parent.glob("step-*"), key=lambda file: file.stat().st_mtime)[:-_MAX_FILES]:
            old.unlink(missing_ok=True)
