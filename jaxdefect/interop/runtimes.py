"""The formats of an export: how a graph is written, and how its own runtime runs it."""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.export
import numpy as np

from jaxdefect.inference import exported
from jaxdefect.types import InputError

Format = Literal["stablehlo", "onnx", "openvino"]
Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # images [B, H, W, C] float32 -> outputs
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # of StableHLO files


class Network(NamedTuple):
    """What is exported: `function(variables, images [B, H, W, C] float32)` gives named float32 arrays.

    `variables` are NumPy arrays, which become constants of the graph. `image_shape`: H, W, C.
    """

    function: Callable[[Any, jax.Array], Mapping[str, jax.Array]]
    variables: Any
    image_shape: tuple[int, int, int]

    def __call__(self, images: jax.Array) -> Mapping[str, jax.Array]:
        """The outputs for these images."""
        return self.function(self.variables, images)


class Runtime(NamedTuple):
    """One format.

    `packages`: what must be installed, by import name. `write(network, path, batch, platforms)` writes the graph for
    `batch` images at a time (None: any number); `open(path)` is the graph in its runtime, on the CPU.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Network, Path, int | None, Sequence[str]], None]
    open: Callable[[Path], Run]


def check_installed(kind: Format) -> None:
    """Checks that what a format needs is there.

    Raises:
      InputError: packages are missing; it says how to install them.
    """
    missing = [name for name in RUNTIMES[kind].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format={kind} needs {' and '.join(missing)}, not installed here: pip install 'jaxdefect[export]' "
            "(in a clone: make setup EXTRAS=export)"
        )


def check_platforms(platforms: Sequence[str]) -> None:
    """Checks what a StableHLO file is to run on.

    Raises:
      InputError: an unknown platform; or the CPU, where the comparison runs, is not among them.
    """
    given = f"--platforms={','.join(platforms)}"
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise InputError(f"{given}: {unknown[0]!r} is none of {', '.join(PLATFORMS)}")
    if "cpu" not in platforms:
        raise InputError(f"{given}: the comparison with the original runs on the CPU; add cpu")


def versions(kind: Format) -> dict[str, str]:
    """The versions of the packages that write and run a format."""
    names = ("jax", "flax", *RUNTIMES[kind].packages)
    return {name: importlib.metadata.version(name) for name in names}


def _write_stablehlo(network: Network, path: Path, batch: int | None, platforms: Sequence[str]) -> None:
    size: Any = jax.export.symbolic_shape("batch")[0] if batch is None else batch
    images = jax.ShapeDtypeStruct((size, *network.image_shape), np.float32)
    program = jax.export.export(jax.jit(network.__call__), platforms=list(platforms))(images)
    path.write_bytes(program.serialize())


def _open_stablehlo(path: Path) -> Run:
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(program.call)
    return lambda images: jax.device_get(call(images))


def _write_onnx(network: Network, path: Path, batch: int | None, platforms: Sequence[str]) -> None:
    from jaxdefect.interop import onnx_graph, onnx_operators

    model = onnx_graph.convert(
        network, image_shape=network.image_shape, batch=batch, operators=onnx_operators.OPERATORS
    )
    path.write_bytes(model.SerializeToString())


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, map(np.asarray, session.run(names, {"image": images})), strict=True))


def _write_openvino(network: Network, path: Path, batch: int | None, platforms: Sequence[str]) -> None:
    openvino = _import_openvino()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Path(folder) / "graph.onnx"
        _write_onnx(network, source, batch, platforms)
        model = openvino.Core().read_model(os.fspath(source))
        openvino.save_model(model, os.fspath(path), compress_to_fp16=False)


def _open_openvino(path: Path) -> Run:
    # Where a CPU has bfloat16 instructions, OpenVINO would use them unasked.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = _import_openvino().Core().compile_model(os.fspath(path), "CPU", settings)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # A port has further names, of tensors that were merged into it.
        return {name: value for port, value in model(images).to_dict().items() for name in port.get_names()}

    return run


def _import_openvino() -> Any:
    """OpenVINO without its telemetry: importing it sends an event, from a process that it forks, which JAX cannot bear.

    Where the package for that is not installed OpenVINO does without, so it is not to be found.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return importlib.import_module("openvino")


RUNTIMES: dict[Format, Runtime] = {
    "stablehlo": Runtime(exported.STABLEHLO_SUFFIX, ("flatbuffers",), _write_stablehlo, _open_stablehlo),
    "onnx": Runtime(".onnx", ("onnx", "onnxruntime"), _write_onnx, _open_onnx),
    "openvino": Runtime(".xml", ("onnx", "openvino"), _write_openvino, _open_openvino),
}
