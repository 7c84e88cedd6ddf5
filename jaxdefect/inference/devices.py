"""The local devices: a copy of the weights on each, and batches divided among them, scaled there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "batch"


def spread(variables: Any) -> Any:
    """The same variables with a copy on every local device; as they are where there is only one."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return variables
    return jax.device_put(variables, NamedSharding(Mesh(np.array(devices), (_AXIS,)), PartitionSpec()))


def num_devices(variables: Any) -> int:
    """How many devices hold the variables."""
    mesh = _mesh(variables)
    return 1 if mesh is None else mesh.size


def place(images: np.ndarray, variables: Any) -> jax.Array | np.ndarray:
    """A batch [B, ...] divided among the devices that hold the variables; B is a multiple of their number."""
    mesh = _mesh(variables)
    return images if mesh is None else jax.device_put(images, NamedSharding(mesh, PartitionSpec(_AXIS)))


def to_unit_range(images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """`images.to_unit_range` on the device, to the last bit but one: a byte per value is less to send than float32."""
    return images if images.dtype == jnp.float32 else _divide_by_largest(images)


@jax.jit
def _divide_by_largest(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max


def _mesh(variables: Any) -> Mesh | None:
    leaf = next(iter(jax.tree.leaves(variables)), None)
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None
