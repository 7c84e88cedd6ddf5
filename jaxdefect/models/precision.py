"""How exactly a network computes: what `dtype` of its configuration means.

"float32": on every device. "tf32": arrays are float32, but GPUs that have TensorFloat-32 round what is multiplied to
ten bits of mantissa, as JAX does by itself where nobody asks for more; elsewhere as "float32". "bfloat16": arrays
between layers are bfloat16, seven bits of mantissa. Parameters, losses, the feature norm's statistics and outputs are
float32 with all.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from jaxdefect.model_config import Dtype

_OF_PRODUCTS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "default"}


def array_dtype(dtype: Dtype) -> jnp.dtype:
    """Of the arrays between layers."""
    return jnp.dtype(jnp.bfloat16 if dtype == "bfloat16" else jnp.float32)


def products(dtype: Dtype) -> AbstractContextManager[None]:
    """Convolutions and matrix products that are traced inside are as exact as `dtype` says.

    The networks' own calls are; a gradient has to be traced inside, too.
    """
    return jax.default_matmul_precision(_OF_PRODUCTS[dtype])


def with_precision(call: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a module's `__call__` as exactly as its `config.dtype` says; stands above `nn.compact`."""

    @functools.wraps(call)
    def traced(self: Any, *arguments: Any, **settings: Any) -> Any:
        with products(self.config.dtype):
            return call(self, *arguments, **settings)

    return traced
