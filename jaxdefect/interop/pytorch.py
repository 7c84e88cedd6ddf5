"""Weights of published PyTorch implementations, as a module of this library and its variables."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxdefect import config, models
from jaxdefect.types import InputError

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a tensor is stored there, as against here: the published shape of a shape here, and the way from it."""

    published_shape: Callable[[Shape], Shape]
    convert: Callable[[np.ndarray], np.ndarray]


# [out, in, height, width] there, [height, width, in, out] here
CONVOLUTION = Layout(lambda shape: (shape[3], shape[2], *shape[:2]), lambda tensor: tensor.transpose(2, 3, 1, 0))
# [out, in] there, [in, out] here
LINEAR = Layout(lambda shape: shape[::-1], np.transpose)
# [1, C, 1, 1] there, [C] here
CHANNELS = Layout(lambda shape: (1, shape[0], 1, 1), np.ravel)
VECTOR = Layout(lambda shape: shape, np.asarray)


class Entry(NamedTuple):
    """Where a published tensor belongs ("params/segmentation/conv1/kernel") and how it is stored there."""

    path: str
    layout: Layout


class Architecture(NamedTuple):
    """A published implementation: its tensors by name, the weight that shows the channels, and the module here."""

    entries: Mapping[str, Entry]
    first_weight: str  # [out, in, height, width] of the convolution that sees the image
    build: Callable[..., nn.Module]  # of the options


def load(
    architecture: str, state_dict: Mapping[str, Any] | str | Path, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A module and its variables, float32, from the weights of a published PyTorch implementation.

    The number of input channels follows from the weights. Every tensor must be known and have its published shape:
    nothing is skipped and nothing is left at an initial value.

    Args:
      architecture: a key of `ARCHITECTURES`. "segdec_official": the code that Božič et al. published with "Mixed
        supervision for surface-defect detection" (2021).
      state_dict: tensors by name (anything that `numpy.asarray` takes, or torch tensors), or the path of such a file:
        `.safetensors` (needs the package safetensors), `.pt` or `.pth` (needs torch; no code in the file is run).
        Of a checkpoint that holds more, its "state_dict" is taken; a prefix "module." on every name is dropped.
      **options: of the architecture. "segdec_official": `dtype` and `stop_gradient`, as in `SegDecConfig`.

    Returns:
      The module, and its variables, ready for `module.apply(variables, image, train=False)`.

    Raises:
      InputError: an unknown architecture, a file that cannot be read, or tensors that are missing, unknown, misshapen
        or not numbers (all of them are named).
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture {architecture!r}: must be one of {', '.join(map(repr, ARCHITECTURES))}")
    published = ARCHITECTURES[architecture]
    source = str(state_dict) if isinstance(state_dict, str | Path) else "the state dict"
    found = _read(Path(state_dict)) if isinstance(state_dict, str | Path) else state_dict
    tensors = {name: _array(tensor) for name, tensor in _unwrap(found).items()}
    module = published.build(**options)
    wanted = _wanted_shapes(module, num_channels=_num_channels(tensors.get(published.first_weight)))
    problems = list(_problems(tensors, published.entries, wanted))
    if problems:
        raise InputError(
            f"{source}: {len(problems)} of its tensors do not fit the architecture {architecture!r}; is it another "
            "model's? Nothing was loaded.\n  " + "\n  ".join(problems)
        )
    variables = {
        entry.path: jnp.asarray(entry.layout.convert(tensors[name]), jnp.float32)
        for name, entry in published.entries.items()
    }
    return module, traverse_util.unflatten_dict(variables, sep="/")


def _read(path: Path) -> Mapping[str, Any]:
    readers = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise InputError(f"{path}: weights are read from files that end in {', '.join(readers)}")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    return readers[path.suffix](path)


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise InputError(f"{path}: to read it, install safetensors: pip install safetensors") from error
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); is the download complete?") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # not a dependency
    except ImportError as error:
        raise InputError(
            f"{path}: to read it, install torch (pip install torch), or convert the file where torch is installed: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each way in which a file can be broken or unsafe
        raise InputError(
            f"{path}: torch cannot load it as plain weights ({type(error).__name__}: {error}); save it again as "
            "torch.save(model.state_dict(), path)"
        ) from error


def _unwrap(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a checkpoint that holds more than them; the names without a prefix "module." (DataParallel's)."""
    if not isinstance(found, Mapping):
        raise InputError(
            f"the weights are a {type(found).__name__}; tensors by name are wanted: save model.state_dict(), not model"
        )
    if isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    prefix = "module."
    is_parallel = all(str(name).startswith(prefix) for name in found)
    return {str(name).removeprefix(prefix) if is_parallel else str(name): tensor for name, tensor in found.items()}


def _array(tensor: Any) -> np.ndarray:
    if hasattr(tensor, "detach"):  # torch: numpy refuses gradients, other devices and bfloat16
        tensor = tensor.detach().cpu().float()
    try:
        return np.asarray(tensor)
    except ValueError:  # lists of several lengths: no tensor, to be reported by its name
        return np.empty((), object)


def _num_channels(first_weight: np.ndarray | None) -> int:
    """Input channels that the first convolution shows; 1 where it is missing or misshapen, which is reported later."""
    return first_weight.shape[1] if first_weight is not None and first_weight.ndim == 4 else 1


def _wanted_shapes(module: nn.Module, *, num_channels: int) -> dict[str, Shape]:
    variables = jax.eval_shape(lambda: models.init(module, num_channels=num_channels, seed=0))
    leaves: dict[str, Any] = dict(traverse_util.flatten_dict(variables, sep="/"))
    return {path: leaf.shape for path, leaf in leaves.items()}


def _problems(
    tensors: Mapping[str, np.ndarray], entries: Mapping[str, Entry], wanted: Mapping[str, Shape]
) -> Iterator[str]:
    for name, entry in entries.items():
        shape = entry.layout.published_shape(wanted[entry.path])
        if name not in tensors:
            yield f"{name}: missing, wanted {list(shape)}"
        elif tensors[name].shape != shape:
            yield f"{name}: found {list(tensors[name].shape)}, wanted {list(shape)}"
        elif not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            yield f"{name}: found values of type {tensors[name].dtype}, wanted floating-point numbers"
    for name, tensor in tensors.items():
        if name not in entries:
            yield f"{name}: found {list(tensor.shape)}, unknown to this architecture"


def _conv_norm_entries(path: str, *, conv: str, norm: str) -> dict[str, Entry]:
    return {
        f"{conv}.weight": Entry(f"{path}/kernel", CONVOLUTION),
        f"{norm}.scale": Entry(f"{path}/norm/scale", CHANNELS),
        f"{norm}.bias": Entry(f"{path}/norm/bias", CHANNELS),
    }


def _segdec_official() -> Architecture:
    segmentation, decision = "params/segmentation", "params/decision"
    entries: dict[str, Entry] = {}
    # The numbers left out of these sequences are the poolings.
    for number, index in enumerate((0, 2, 3, 4, 6, 7, 8, 9, 11), start=1):
        name = f"volume.{index}"
        entries |= _conv_norm_entries(f"{segmentation}/conv{number}", conv=f"{name}.0", norm=f"{name}.1")
    entries |= _conv_norm_entries(f"{segmentation}/logit", conv="seg_mask.0", norm="seg_mask.1")
    for number, index in enumerate((1, 3, 5), start=1):
        name = f"extractor.{index}"
        entries |= _conv_norm_entries(f"{decision}/conv{number}", conv=f"{name}.0", norm=f"{name}.1")
    entries["fc.weight"] = Entry(f"{decision}/head/kernel", LINEAR)
    entries["fc.bias"] = Entry(f"{decision}/head/bias", VECTOR)

    def build(*, dtype: str = "float32", stop_gradient: bool = True) -> nn.Module:
        settings = {
            "num_first_convs": 1,
            "norm": "feature_official",
            "decision_input": "logit",
            "dtype": dtype,
            "stop_gradient": stop_gradient,
        }
        return models.build(config.from_dict({"model": settings}).model)

    return Architecture(entries, "volume.0.0.weight", build)


ARCHITECTURES: dict[str, Architecture] = {"segdec_official": _segdec_official()}
