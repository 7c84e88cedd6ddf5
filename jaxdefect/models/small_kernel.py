"""Stride-1 convolution with a small kernel: XLA's own, and on a CPU a gradient of the kernel that suits its size."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.models import winograd


def convolve_directly(image: jax.Array, kernel: jax.Array, *, dilation: int = 1) -> jax.Array:
    """Stride-1 SAME convolution as XLA does it: [B, H, W, I], kernel [k, k, I, O] with odd k -> [B, H, W, O]."""
    return lax.conv_general_dilated(
        image,
        kernel,
        (1, 1),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def wait_for(cotangent: jax.Array, image: jax.Array) -> jax.Array:
    """The image [B, H, W, I], to be used once the cotangent [B, H, W, O] is there, for the gradient of a kernel.

    XLA would make all copies of the image that a gradient needs in the forward pass already, and keep them. It ignores
    barriers, but cannot know that this cotangent is no NaN, which would make the gradient NaN too. A training step of
    the steel detector at 704x256 has 291 MiB of temporaries instead of 479.
    """
    return jnp.where(jnp.isnan(cotangent[0, 0, 0, 0]), jnp.nan, image)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_small(image: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Stride-1 SAME convolution: [B, H, W, I], kernel [k, k, I, O] with odd k -> [B, H, W, O].

    XLA's CPU backend computes the gradient of a kernel several times as slowly as the convolution. Two cores (Zen 4),
    3x3 with dilation 2: 32 -> 32 channels at 256x704 101 -> 32 ms, 64 -> 64 at 128x352 46 -> 18 ms, 5x5 without it
    132 -> 56 and at 64x176 24 -> 11 ms (`winograd`); 3x3 with dilation 7, 64 -> 1024 at 32x88 28 -> 18 ms.
    """
    return convolve_directly(image, kernel, dilation=dilation)


def _forward(image: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_directly(image, kernel, dilation=dilation), (image, kernel)


def _backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, kernel = residuals
    (to_image,) = jax.vjp(lambda image: convolve_directly(image, kernel, dilation=dilation), image)[1](cotangent)

    def directly(image: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: convolve_directly(image, kernel, dilation=dilation), kernel)[1](cotangent)[0]

    def on_cpu(image: jax.Array, cotangent: jax.Array) -> jax.Array:
        side, _, channels, features = kernel.shape
        image = wait_for(cotangent, image)
        if winograd.is_worthwhile(image.shape, features=features, dilation=dilation):
            return winograd.kernel_gradient(image, cotangent, side=side, dilation=dilation)
        if features > 2 * channels:
            return _by_product(image, cotangent, side=side, dilation=dilation)
        return directly(image, cotangent)

    to_kernel = lax.platform_dependent(image, cotangent, cpu=on_cpu, default=directly)
    return to_image, to_kernel.astype(kernel.dtype)


convolve_small.defvjp(_forward, _backward)


def _by_product(image: jax.Array, cotangent: jax.Array, *, side: int, dilation: int) -> jax.Array:
    """Of the image all shifts, for cotangents of so many channels that copies of them cost more."""
    _, height, width, channels = image.shape
    features, margin = cotangent.shape[-1], side // 2 * dilation
    image = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifts = [i * dilation for i in range(side)]
    images = [image[:, i : i + height, j : j + width] for i in shifts for j in shifts]
    flat = jnp.concatenate(images, axis=-1).reshape(-1, side**2 * channels), cotangent.reshape(-1, features)
    places = ((0,), (0,))
    product = lax.dot_general(*flat, (places, ((), ())), preferred_element_type=jnp.float32)
    return product.reshape(side, side, channels, features)
