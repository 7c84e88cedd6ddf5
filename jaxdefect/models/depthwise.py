"""Depthwise convolution: XLA's own on accelerators; on a CPU a sum over the kernel's taps, which is much faster."""

import functools
import typing

import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.models.xla import Sides, convolve_directly


def convolve_depthwise(
    image: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1, padding: Sides | None = None
) -> jax.Array:
    """Each channel with its own kernel: image [B, H, W, C], kernel [k, k, 1, C] -> [B, h, w, C], in image's type.

    `padding` None: half the (dilated) kernel on every side. Products are summed in float32.
    """
    margin = dilation * (kernel.shape[0] // 2)
    settings = {
        "stride": stride,
        "dilation": dilation,
        "padding": ((margin, margin), (margin, margin)) if padding is None else padding,
    }
    return lax.platform_dependent(
        image,
        kernel,
        cpu=functools.partial(convolve_by_taps, **settings),
        default=functools.partial(convolve_directly, **settings),
    )


def convolve_by_taps(image: jax.Array, kernel: jax.Array, *, stride: int, dilation: int, padding: Sides) -> jax.Array:
    """`convolve_depthwise` as one shifted product per tap, added up.

    XLA's CPU backend computes grouped convolutions and their gradients without vector instructions. On [4, 64, 64, 96]
    with stride 2 and two cores, this takes 0.8 ms instead of 18, its gradients 3 ms instead of 205.
    """
    return typing.cast(jax.Array, _convolve(image, kernel, stride, dilation, padding))


def _sum_taps(image: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: Sides) -> jax.Array:
    seen = taps(image, kernel.shape[0], stride, dilation, padding)
    products = [pixels.astype(jnp.float32) * kernel[i, j, 0].astype(jnp.float32) for i, j, pixels in seen]
    return functools.reduce(jnp.add, products).astype(image.dtype)


_convolve = jax.custom_vjp(_sum_taps, nondiff_argnums=(2, 3, 4))


def taps(image: jax.Array, side: int, stride: int, dilation: int, padding: Sides) -> list[tuple[int, int, jax.Array]]:
    """(row, column, the pixels [B, h, w, C] that this tap of the kernel sees)."""
    padded = jnp.pad(image, ((0, 0), *padding, (0, 0)))
    height, width = (length - dilation * (side - 1) for length in padded.shape[1:3])
    return [
        (i, j, padded[:, i * dilation : i * dilation + height : stride, j * dilation : j * dilation + width : stride])
        for i in range(side)
        for j in range(side)
    ]


def _forward(
    image: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: Sides
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_taps(image, kernel, stride, dilation, padding), (image, kernel)


def _backward(
    stride: int, dilation: int, padding: Sides, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, kernel = saved
    side = kernel.shape[0]
    sums = [
        jnp.sum(pixels * cotangent, axis=(0, 1, 2), dtype=jnp.float32)
        for _, _, pixels in taps(image, side, stride, dilation, padding)
    ]
    # The image's gradient: the cotangent, its pixels moved apart by the stride, under the flipped kernel.
    edges, reach = [], dilation * (side - 1)
    for axis in (1, 2):
        before = reach - padding[axis - 1][0]
        length = (cotangent.shape[axis] - 1) * stride + 1
        edges.append((before, image.shape[axis] + reach - before - length, stride - 1))
    spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    spread = lax.optimization_barrier(spread)  # computed once, not again for every tap
    gradient = _sum_taps(spread, kernel[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))
    return gradient, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)
