"""Stride-1 convolution with a small kernel: XLA's own, and on a CPU what suits its size, for gradients above all."""

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_small(image: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Stride-1 SAME convolution: [B, H, W, I], kernel [k, k, I, O] with odd k -> [B, H, W, O].

    XLA's CPU backend computes the gradient of a kernel several times as slowly as the convolution. Two cores (Zen 4),
    both gradients, 3x3 with dilation 2: 32 -> 32 channels at 256x704 167 -> 62 ms, 64 -> 64 at 128x352 72 -> 36 ms, 5x5
    without it 224 -> 105 and 153 -> 79 ms (`winograd`); 3x3 with dilation 7, 64 -> 1024 at 32x88 69 -> 46 ms. The
    convolution itself gains with 5x5 kernels only, 50 -> 39 and 48 -> 26 ms, and goes so in inference.
    """
    directly = functools.partial(convolve_directly, dilation=dilation)
    side, *_, features = kernel.shape
    is_suited = side == 5 and image.dtype == jnp.float32 and isinstance(image.shape[0], int)  # not an export's symbol
    if is_suited and winograd.is_worthwhile(image.shape, features=features, dilation=dilation):
        on_cpu = functools.partial(winograd.convolve, dilation=dilation)
        return lax.platform_dependent(image, kernel, cpu=on_cpu, default=directly)
    return directly(image, kernel)


def _forward(image: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not by Winograd: SegDecNet's training step at 704x256 would take 14 % less time, but 110 MiB more for programs.
    return convolve_directly(image, kernel, dilation=dilation), (image, kernel)


def _backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, kernel = residuals
    side, _, channels, features = kernel.shape

    def directly(image: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(convolve_directly, dilation=dilation), image, kernel)[1](cotangent)

    def on_cpu(image: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        if winograd.is_worthwhile(image.shape, features=features, dilation=dilation):
            return winograd.gradients(image, kernel, cotangent, dilation=dilation)
        to_image, to_kernel = directly(image, cotangent)
        if features > 2 * channels:
            to_kernel = _by_product(winograd.wait_for(cotangent, image), cotangent, side=side, dilation=dilation)
        return to_image, to_kernel

    def cast(gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return gradients[0].astype(image.dtype), gradients[1].astype(kernel.dtype)

    return lax.platform_dependent(
        image, cotangent, cpu=lambda *arrays: cast(on_cpu(*arrays)), default=lambda *arrays: cast(directly(*arrays))
    )


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
