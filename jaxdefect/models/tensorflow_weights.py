"""MobileNetV2 weights from TensorFlow: Keras' ImageNet files, and convolutions with folded batch norms."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdefect.models.imagenet import NORM_EPSILON
from jaxdefect.models.mobilenet_v2 import BLOCKS
from jaxdefect.models.weights import AS_IS, Entry, Layout, Shape
from jaxdefect.types import InputError

_KERAS_EPSILON = 1e-3  # of Keras' batch norms in this network
# [height, width, C, 1] there, [height, width, 1, C] here
_KERAS_DEPTHWISE = Layout(
    lambda shape: (shape[0], shape[1], shape[3], shape[2]), lambda tensor: tensor.transpose(0, 1, 3, 2)
)
# The variance that gives, with the epsilon here, the factor that the stored one gives with Keras' epsilon.
_KERAS_VARIANCE = Layout(
    lambda shape: shape, lambda tensor: tensor.astype(np.float64) + (_KERAS_EPSILON - NORM_EPSILON)
)
# [out, height, width, in] there, [height, width, in, out] here
_FOLDED_CONVOLUTION = Layout(lambda shape: (shape[3], *shape[:3]), lambda tensor: tensor.transpose(1, 2, 3, 0))
# [1, height, width, C] there, [height, width, 1, C] here
_FOLDED_DEPTHWISE = Layout(lambda shape: (shape[2], *shape[:2], shape[3]), lambda tensor: tensor.transpose(1, 2, 0, 3))
# [out, 1, 1, in] there, [in, out] here
_FOLDED_LINEAR = Layout(lambda shape: (shape[1], 1, 1, shape[0]), lambda tensor: tensor[:, 0, 0].T)

_KERAS_HEAD = "predictions"


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a Keras weight file (.h5) of MobileNetV2, named as in `keras_entries`.

    As Keras itself does, this goes by the order of the layers in the file: their names differ between releases. A layer
    beyond those of the network keeps the file's name.

    Raises:
      InputError: h5py is not installed, or the file is not a Keras weight file.
    """
    try:
        import h5py  # pyright: ignore[reportMissingImports]  # not a dependency
    except ImportError as error:
        raise InputError(f"{path}: to read it, install h5py: pip install h5py") from error
    try:
        with h5py.File(path, "r") as file:
            layers = list(_keras_layers(file))
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: not a readable Keras weight file ({error}); is the download complete?") from error
    names = [*(name for _, *pair in _keras_convolutions() for name in pair), _KERAS_HEAD]
    names += [name for name, _ in layers[len(names) :]]
    return {
        f"{name}/{kind}": tensor
        for name, (_, tensors) in zip(names, layers, strict=False)
        for kind, tensor in tensors.items()
    }


def _keras_layers(file: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(name, its tensors by kind: "kernel", "gamma"...) of each layer that has tensors, in order."""
    for layer in file.attrs["layer_names"]:
        group = file[_text(layer)]
        weights = [_text(name) for name in group.attrs["weight_names"]]
        if weights:
            yield _text(layer), {name.split("/")[-1].split(":")[0]: np.asarray(group[name]) for name in weights}


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _keras_convolutions() -> Iterator[tuple[str, str, str]]:
    """(path here, name of the convolution, name of its batch norm), in order."""
    yield "encoder/stem", "Conv1", "bn_Conv1"
    for number, (expansion, _, _) in enumerate(BLOCKS):
        prefix = f"block_{number}" if number else "expanded_conv"
        for part in ("expand", "depthwise", "project")[0 if expansion > 1 else 1 :]:
            yield f"encoder/block{number + 1}/{part}", f"{prefix}_{part}", f"{prefix}_{part}_BN"
    yield "encoder/last", "Conv_1", "Conv_1_bn"


def keras_entries() -> dict[str, Entry]:
    """Keras' `MobileNetV2(alpha=1.0)`, with its last layer."""
    entries = {}
    for path, conv, norm in _keras_convolutions():
        is_depthwise = path.endswith("depthwise")
        kernel = "depthwise_kernel" if is_depthwise else "kernel"
        entries |= {
            f"{conv}/{kernel}": Entry(f"params/{path}/kernel", _KERAS_DEPTHWISE if is_depthwise else AS_IS),
            f"{norm}/gamma": Entry(f"params/{path}/norm/scale", AS_IS),
            f"{norm}/beta": Entry(f"params/{path}/norm/bias", AS_IS),
            f"{norm}/moving_mean": Entry(f"batch_stats/{path}/norm/mean", AS_IS),
            f"{norm}/moving_variance": Entry(f"batch_stats/{path}/norm/var", _KERAS_VARIANCE),
        }
    return entries | {
        f"{_KERAS_HEAD}/kernel": Entry("params/head/kernel", AS_IS),
        f"{_KERAS_HEAD}/bias": Entry("params/head/bias", AS_IS),
    }


def read_folded(path: Path) -> dict[str, np.ndarray]:
    """The tensors of an .npz file, named as in `folded_entries`.

    Raises:
      InputError: not a readable .npz file of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npz file of plain arrays ({error})") from error


def folded_entries() -> dict[str, Entry]:
    """MobileNetV2 as a chain of convolutions with bias, batch norms folded in, as in a TensorFlow Lite model.

    `00_CONV_2D_w`, `00_CONV_2D_b`, `01_DEPTHWISE_CONV_2D_w`... in the order of the network; the last layer too is a
    convolution. A bias becomes the norm's; the rest of the norm is `folded_constants`.
    """
    entries = {}
    for number, (path, _, _) in enumerate(_keras_convolutions()):
        is_depthwise = path.endswith("depthwise")
        name = f"{number:02d}_{'DEPTHWISE_' if is_depthwise else ''}CONV_2D"
        layout = _FOLDED_DEPTHWISE if is_depthwise else _FOLDED_CONVOLUTION
        entries |= {
            f"{name}_w": Entry(f"params/{path}/kernel", layout),
            f"{name}_b": Entry(f"params/{path}/norm/bias", AS_IS),
        }
    last = f"{len(entries) // 2:02d}_CONV_2D"
    return entries | {
        f"{last}_w": Entry("params/head/kernel", _FOLDED_LINEAR),
        f"{last}_b": Entry("params/head/bias", AS_IS),
    }


def folded_constants(wanted: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """What makes the encoder's batch norms add their bias and nothing else, by path, for variables of these shapes."""
    values = {"scale": 1.0, "mean": 0.0, "var": 1 - NORM_EPSILON}
    constants = {}
    for path, shape in wanted.items():
        _, part, *_, kind = path.split("/")
        if part == "encoder" and kind in values:
            constants[path] = np.full(shape, values[kind], np.float32)
    return constants
