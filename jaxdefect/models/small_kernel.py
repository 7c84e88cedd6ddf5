"""Stride-1 convolution with a small kernel: XLA's own, and on a CPU what suits its size, for gradients above all."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.models import winograd
from jaxdefect.models.xla import convolve_directly, wait_for

_MANY_PLACES = 2**15  # of all maps of a batch


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_small(image: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Stride-1 SAME convolution: [B, H, W, I], kernel [k, k, I, O] with odd k -> [B, H, W, O].

    On a CPU by `winograd` where that is faster, and the gradients of kernels with many features as matrix products.
    """
    directly = functools.partial(convolve_directly, dilation=dilation)
    if not has_winograd(image, kernel, dilation=dilation):
        return directly(image, kernel)
    on_cpu = functools.partial(winograd.convolve, dilation=dilation)
    return lax.platform_dependent(image, kernel, cpu=on_cpu, default=directly)


def has_winograd(image: jax.Array, kernel: jax.Array, *, dilation: int) -> bool:
    """Whether `winograd` convolves faster on a CPU; not for an export's symbol for a batch."""
    side, *_, features = kernel.shape
    return isinstance(image.shape[0], int) and winograd.is_worthwhile(
        image.shape, side=side, features=features, dilation=dilation, is_forward=True
    )


_Residuals = tuple[jax.Array, jax.Array]


def _forward(image: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, _Residuals]:
    # 5x5 kernels take larger programs, for which PyTorch's memory leaves room where it saves the most time only.
    has_room = len(kernel) == 3 or math.prod(image.shape[:3]) >= _MANY_PLACES
    convolve = convolve_small if has_room else convolve_directly
    return convolve(image, kernel, dilation=dilation), (image, kernel)


def _backward(dilation: int, residuals: _Residuals, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    image, kernel = residuals
    channels, features = kernel.shape[2:]

    def directly(image: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(convolve_directly, dilation=dilation), image, kernel)[1](cotangent)

    def on_cpu(image: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        if winograd.is_worthwhile(image.shape, side=len(kernel), features=features, dilation=dilation):
            return winograd.gradients(image, kernel, cotangent, dilation=dilation)
        if features > 2 * channels:
            return _by_products(wait_for(cotangent, image), kernel, cotangent, dilation=dilation)
        return directly(image, cotangent)

    def cast(gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return gradients[0].astype(image.dtype), gradients[1].astype(kernel.dtype)

    return lax.platform_dependent(
        image, cotangent, cpu=lambda *arrays: cast(on_cpu(*arrays)), default=lambda *arrays: cast(directly(*arrays))
    )


convolve_small.defvjp(_forward, _backward)


def _by_products(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, *, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Both gradients for cotangents of so many channels that shifted copies of them would cost more than the image's.

    The kernel's is one product with all shifts of the image; the image's, a sum of shifts of one product with all taps.
    """
    (side, _, channels, features), (batch, height, width, _) = kernel.shape, image.shape
    margin, taps = side // 2 * dilation, [(i, j) for i in range(side) for j in range(side)]
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    flat = cotangent.reshape(-1, features)

    def shifted(maps: jax.Array, i: int, j: int) -> jax.Array:
        return maps[:, i * dilation : i * dilation + height, j * dilation : j * dilation + width]

    padded = jnp.pad(image, around)
    images = jnp.concatenate([shifted(padded, i, j) for i, j in taps], axis=-1).reshape(-1, side**2 * channels)
    to_kernel = lax.dot_general(images, flat, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    contract_features = (((1,), (1,)), ((), ()))
    product = lax.dot_general(
        flat, kernel.reshape(-1, features), contract_features, preferred_element_type=jnp.float32
    ).reshape(batch, height, width, -1)
    padded = jnp.pad(product, around)
    to_image = [
        shifted(padded[..., number * channels : (number + 1) * channels], side - 1 - i, side - 1 - j)
        for number, (i, j) in enumerate(taps)
    ]
    return functools.reduce(jnp.add, to_image), to_kernel.reshape(kernel.shape)
