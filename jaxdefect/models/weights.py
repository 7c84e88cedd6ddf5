"""Foreign weights: reading files, and checking every tensor's name, shape and type before any of them is taken."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdefect.types import InputError

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a tensor is stored there, as against here: the published shape of a shape here, and the way from it."""

    published_shape: Callable[[Shape], Shape]
    convert: Callable[[np.ndarray], np.ndarray]


# The same there and here.
AS_IS = Layout(lambda shape: shape, np.asarray)


class Entry(NamedTuple):
    """Where a published tensor belongs ("params/segmentation/conv1/kernel") and how it is stored there."""

    path: str
    layout: Layout


def read_tensors(weights: Mapping[str, Any] | str | Path) -> dict[str, np.ndarray]:
    """Tensors by name, of a PyTorch state dict or of a file of one.

    Args:
      weights: tensors by name (anything that `numpy.asarray` takes, or torch tensors), or the path of such a file:
        `.safetensors` (needs the package safetensors), `.pt` or `.pth` (needs torch; no code in the file is run).
        Of a checkpoint that holds more, its "state_dict" is taken; a prefix "module." on every name is dropped.

    Raises:
      InputError: a file that cannot be read, or something else than tensors by name.
    """
    found = _read(Path(weights)) if isinstance(weights, str | Path) else weights
    return {name: _array(tensor) for name, tensor in _unwrap(found).items()}


def take(
    tensors: Mapping[str, np.ndarray],
    entries: Mapping[str, Entry],
    wanted: Mapping[str, Shape],
    *,
    source: str,
    architecture: str,
) -> dict[str, jax.Array]:
    """The tensors as variables, float32, by path.

    Args:
      tensors: all that the file holds, by name.
      entries: where each belongs; every one of them must be there, and no other.
      wanted: the shape of each variable, by path.
      source: the file, for errors.
      architecture: for errors.

    Raises:
      InputError: tensors that are missing, unknown, misshapen or not numbers: all of them are named.
    """
    problems = list(_problems(tensors, entries, wanted))
    if problems:
        raise InputError(
            f"{source}: {len(problems)} of its tensors do not fit the architecture {architecture!r}; is it another "
            "model's? Nothing was loaded.\n  " + "\n  ".join(problems)
        )
    return {
        entry.path: jnp.asarray(entry.layout.convert(tensors[name]), jnp.float32) for name, entry in entries.items()
    }


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
