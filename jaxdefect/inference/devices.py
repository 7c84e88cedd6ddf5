"""The local devices: a copy of the weights on each, and batches divided among them, scaled there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect.data import images as host

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
    """`images.to_unit_range` on the device, to the bit: a byte per value is less to send than float32."""
    return images if images.dtype == jnp.float32 else _look_up(images)


@jax.jit
def _look_up(pixels: jax.Array) -> jax.Array:
    # XLA multiplies by the reciprocal instead of dividing, which rounds otherwise than NumPy.
    values = np.arange(np.iinfo(pixels.dtype).max + 1, dtype=pixels.dtype)
    return jnp.asarray(host.to_unit_range(values)).at[pixels].get(mode="promise_in_bounds")


def _mesh(variables: Any) -> Mesh | None:
    leaf = next(iter(jax.tree.leaves(variables)), None)
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None
