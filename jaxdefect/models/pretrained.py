"""Starting from published ImageNet weights: a local file, named in the model's config, into the model's variables."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxdefect.model_config import MobileNetV2Config, ModelConfig, ResNetConfig, UNetMobileNetV2Config
from jaxdefect.models import mobilenet_v2, tensorflow_weights, torch_names, weights
from jaxdefect.models.imagenet import NORM_EPSILON, NORMALIZED
from jaxdefect.models.weights import Entry, Shape
from jaxdefect.types import InputError

PretrainedConfig = ResNetConfig | MobileNetV2Config | UNetMobileNetV2Config

_TORCH = (".pth", ".pt", ".safetensors")
_TENSORFLOW = (".h5", ".npz")
_IMAGENET_CLASSES = 1000
_TORCH_URL = "https://download.pytorch.org/models/"
_TORCH_FILES = {
    "resnet18": ("resnet18-f37072fd.pth",),
    "resnet34": ("resnet34-b627a593.pth",),
    "resnet50": ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
    "resnet101": ("resnet101-63fe2227.pth", "resnet101-cd907fc2.pth"),
    "resnet152": ("resnet152-394f9c45.pth", "resnet152-f82ba261.pth"),
    "mobilenet_v2": ("mobilenet_v2-b0353104.pth", "mobilenet_v2-7ebf99e0.pth"),
}
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
_KERAS_FILES = (
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
)
# How the networks that these files come from see their input.
_TORCH_SETTINGS = {"padding": "torch", "input_norm": "imagenet"}
_TENSORFLOW_SETTINGS = {"padding": "tensorflow", "input_norm": "symmetric"}
_HEAD_KERNEL, _HEAD_BIAS = "params/head/kernel", "params/head/bias"
_FOLDED_VARIANCE = np.float32(1 - NORM_EPSILON)  # with the epsilon, exactly 1


class _Release(NamedTuple):
    """A file's tensors, where each belongs, and by path what else the variables need."""

    tensors: Mapping[str, np.ndarray]
    entries: Mapping[str, Entry]
    constants: Mapping[str, np.ndarray]


def load_pretrained(config: ModelConfig, variables: dict[str, Any], *, setting: str = "config.model") -> dict[str, Any]:
    """The variables with those that the file `config.pretrained` holds taken from it; as they are where none is named.

    A U-Net takes the encoder. A classifier takes everything; its last layer only if the file's has as many classes, it
    stays as it was initialised otherwise.

    Accepted are torchvision's weights (`.pth`, `.pt`: needs torch; `.safetensors`: needs safetensors) of the same
    network, and for a MobileNetV2 also Keras' (`.h5`, with or without the top; needs h5py) and a chain of convolutions
    with folded batch norms (`.npz`; see `tensorflow_weights.folded_entries`, and `unfold_norms` before training on).

    Args:
      config: of the module.
      variables: of the module, as initialised: not stacked, and for three input channels or, as the module repeats a
        gray image where weights are named, one.
      setting: where the config stands, for errors.

    Returns:
      New variables of the same structure, float32.

    Raises:
      InputError: the file is missing (the text names the official one), unreadable or of another kind; tensors that
        are missing, unknown, misshapen or not numbers (all of them are named); settings under which the weights would
        see other input than they were trained with.
    """
    if not isinstance(config, PretrainedConfig) or not config.pretrained:
        return variables
    path, where = Path(config.pretrained), f"{setting}.pretrained = {config.pretrained!r}"
    _check_file(config, path, where)
    _check_settings(config, where, setting)
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(variables, sep="/"))
    wanted = {name: tuple(leaf.shape) for name, leaf in flat.items()}
    release = _read(config, path, wanted)
    head = {name: wanted[name] for name in (_HEAD_KERNEL, _HEAD_BIAS) if not isinstance(config, UNetMobileNetV2Config)}
    file_head = _head_shapes(release, num_features=head[_HEAD_KERNEL][0] if head else mobilenet_v2.NUM_FEATURES)
    taken = weights.take(
        release.tensors, release.entries, {**wanted, **file_head}, source=where, architecture=_network(config)
    )
    if file_head != head:
        taken = {name: value for name, value in taken.items() if name not in file_head}
    return traverse_util.unflatten_dict({**flat, **taken, **release.constants}, sep="/")


def unfold_norms(module: nn.Module, variables: dict[str, Any], image: jax.Array) -> dict[str, Any]:
    """Gives batch norms that were folded into their convolutions something to normalise, for training on.

    A folded norm adds its bias and nothing else. In training it would divide by its batch's deviation all the same, and
    what the network has learned would be lost. Here each such norm gets the mean m and the variance v of its own input
    over `image`, the scale sqrt(v + eps) and the bias b + m: in evaluation the network is the same function, in
    training nearly so. Other norms stay as they are.

    Args:
      module: of the variables.
      variables: as `load_pretrained` returns them.
      image: [B, H, W, C] float32 in [0, 1], some training images.

    Returns:
      New variables of the same structure, float32.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(variables, sep="/"))
    suffix = "/var"
    names = [
        path.removeprefix("batch_stats/").removesuffix(suffix)
        for path, value in flat.items()
        if path.startswith("batch_stats/") and path.endswith(suffix) and (np.asarray(value) == _FOLDED_VARIANCE).all()
    ]
    if not names:
        return variables

    @jax.jit
    def statistics(variables: dict[str, Any], image: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        _, state = module.apply(variables, image, train=False, mutable=["intermediates"])
        outputs: dict[str, Any] = dict(traverse_util.flatten_dict(state["intermediates"], sep="/"))
        result = {}
        for name in names:
            output = outputs[f"{name.rpartition('/')[0]}/{NORMALIZED}"][0].astype(jnp.float32)
            result[name] = (jnp.mean(output, axis=(0, 1, 2)), jnp.var(output, axis=(0, 1, 2)))
        return result

    for name, (mean, variance) in statistics(variables, image).items():
        bias = flat[f"params/{name}/bias"]
        flat[f"params/{name}/scale"] = jnp.sqrt(variance + NORM_EPSILON)
        flat[f"params/{name}/bias"] = mean  # of the output: the input's mean and the bias
        flat[f"batch_stats/{name}/mean"] = mean - bias
        flat[f"batch_stats/{name}/var"] = variance
    return traverse_util.unflatten_dict(flat, sep="/")


def _network(config: PretrainedConfig) -> str:
    """What torchvision calls the network, or the U-Net's encoder."""
    return f"resnet{config.depth}" if isinstance(config, ResNetConfig) else "mobilenet_v2"


def _check_file(config: PretrainedConfig, path: Path, where: str) -> None:
    suffixes = _TORCH if isinstance(config, ResNetConfig) else (*_TORCH, *_TENSORFLOW)
    if path.suffix not in suffixes:
        raise InputError(
            f"{where}: weights of a {_network(config)} are read from files that end in {_any_of(suffixes)}"
        )
    if path.is_file():
        return
    torch_files = _any_of(_TORCH_URL + name for name in _TORCH_FILES[_network(config)])
    text = f"torchvision's {torch_files} (with {_settings_text(_TORCH_SETTINGS, config)})"
    if not isinstance(config, ResNetConfig):
        keras_files = _any_of(_KERAS_URL + name for name in _KERAS_FILES)
        text += f", or Keras' {keras_files} (with {_settings_text(_TENSORFLOW_SETTINGS, config)})"
    raise InputError(f"{where}: there is no such file. Download {text} and put it at {path.absolute()}")


def _check_settings(config: PretrainedConfig, where: str, setting: str) -> None:
    settings = _TORCH_SETTINGS if config.pretrained.endswith(_TORCH) else _TENSORFLOW_SETTINGS
    for name, wanted in settings.items():
        if getattr(config, name, wanted) != wanted:
            raise InputError(
                f"{setting}.{name} = {getattr(config, name)!r}: the weights of {where} were trained with "
                f"{_settings_text(settings, config)}; set {setting}.{name} = {wanted!r}"
            )


def _settings_text(settings: Mapping[str, str], config: PretrainedConfig) -> str:
    return " and ".join(f"{name} {value!r}" for name, value in settings.items() if hasattr(config, name))


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(names)


def _read(config: PretrainedConfig, path: Path, wanted: Mapping[str, Shape]) -> _Release:
    if path.suffix == ".npz":
        return _Release(
            tensorflow_weights.read_folded(path),
            tensorflow_weights.folded_entries(),
            tensorflow_weights.folded_constants(wanted),
        )
    if path.suffix == ".h5":
        tensors, entries = tensorflow_weights.read_keras(path), tensorflow_weights.keras_entries()
        head = {name for name, entry in entries.items() if entry.path in (_HEAD_KERNEL, _HEAD_BIAS)}
        if not head & tensors.keys():  # one of Keras' files without the top
            entries = {name: entry for name, entry in entries.items() if name not in head}
        return _Release(tensors, entries, {})
    entries = torch_names.resnet(config.depth) if isinstance(config, ResNetConfig) else torch_names.mobilenet_v2()
    return _Release(torch_names.without_counters(weights.read_tensors(path), entries), entries, {})


def _head_shapes(release: _Release, *, num_features: int) -> dict[str, Shape]:
    """What the variables of the file's last layer would have: as many classes as its bias shows (or 1000)."""
    names = {entry.path: name for name, entry in release.entries.items()}
    if _HEAD_BIAS not in names:
        return {}
    bias = release.tensors.get(names[_HEAD_BIAS])
    num_classes = bias.shape[0] if bias is not None and bias.ndim == 1 else _IMAGENET_CLASSES
    return {_HEAD_KERNEL: (num_features, num_classes), _HEAD_BIAS: (num_classes,)}
