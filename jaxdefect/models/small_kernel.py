"""Stride-1 convolution with a small kernel: XLA's own, and with a kernel gradient of matrix products on a CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_STRIPS = 4  # of the image's rows: so much smaller are the copies


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

    XLA's CPU backend computes the gradient of a kernel several times as slowly as the convolution. Two cores, 3x3 with
    dilation 2: 32 -> 32 channels at 256x704 48 -> 21 ms, 64 -> 64 at 128x352 24 -> 16 ms; with dilation 7, 64 -> 1024
    at 32x88 21 -> 8 ms. 5x5 gains less time but memory: SegDecNet's training step at 704x256 has 463 MiB of temporaries
    instead of 523.
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

    def by_product(image: jax.Array, cotangent: jax.Array) -> jax.Array:
        side, _, channels, features = kernel.shape
        product = _by_strips if features <= 2 * channels else _at_once
        return product(wait_for(cotangent, image), cotangent, side=side, dilation=dilation)

    to_kernel = lax.platform_dependent(image, cotangent, cpu=by_product, default=directly)
    return to_image, to_kernel.astype(kernel.dtype)


convolve_small.defvjp(_forward, _backward)


def _by_strips(image: jax.Array, cotangent: jax.Array, *, side: int, dilation: int) -> jax.Array:
    """Of the image its shifts along the columns, of the cotangent those along the rows: their product has every tap."""
    height, width, margin = *image.shape[1:3], side // 2 * dilation
    image = jnp.pad(image, ((0, 0), (0, 0), (margin, margin), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (margin, margin), (0, 0), (0, 0)))
    shifts = [i * dilation for i in range(side)]
    step, products = -(-height // _STRIPS), []
    for top in range(0, height, step):
        rows = min(step, height - top)
        images = [image[:, top : top + rows, shift : shift + width] for shift in shifts]
        cotangents = [cotangent[:, top + shift : top + shift + rows] for shift in reversed(shifts)]
        products.append(_multiply(jnp.concatenate(images, axis=-1), jnp.concatenate(cotangents, axis=-1)))
    return sum(products[1:], start=products[0]).reshape(side, -1, side, cotangent.shape[-1]).transpose(2, 0, 1, 3)


def _at_once(image: jax.Array, cotangent: jax.Array, *, side: int, dilation: int) -> jax.Array:
    """Of the image all shifts, for cotangents of so many channels that copies of them cost more."""
    height, width, margin = *image.shape[1:3], side // 2 * dilation
    image = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifts = [i * dilation for i in range(side)]
    images = [image[:, i : i + height, j : j + width] for i in shifts for j in shifts]
    return _multiply(jnp.concatenate(images, axis=-1), cotangent).reshape(side, side, -1, cotangent.shape[-1])


def _multiply(image: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Sums over all places: [B, H, W, I] and [B, H, W, O] -> [I, O] float32."""
    places = ((0,), (0,))
    flat = image.reshape(-1, image.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    return lax.dot_general(*flat, (places, ((), ())), preferred_element_type=jnp.float32)
