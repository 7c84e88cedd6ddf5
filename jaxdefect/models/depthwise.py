"""Depthwise convolution: XLA's own on accelerators; on a CPU a sum over the kernel's taps, which is much faster."""

import functools
import typing

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after, of rows and of columns


def convolve_depthwise(image: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Each channel with its own kernel: image [B, H, W, C], kernel [k, k, 1, C] -> [B, h, w, C], in image's type."""
    return lax.platform_dependent(
        image,
        kernel,
        cpu=functools.partial(convolve_by_taps, stride=stride, padding=padding),
        default=functools.partial(convolve_directly, stride=stride, padding=padding),
    )


def convolve_directly(image: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """`convolve_depthwise` as XLA does it."""
    return lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=image.shape[-1],
    )


def convolve_by_taps(image: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """`convolve_depthwise` as one shifted product per tap, added up.

    XLA's CPU backend computes grouped convolutions and their gradients without vector instructions. On [4, 64, 64, 96]
    with stride 2 and two cores, this takes 0.8 ms instead of 18, its gradients 3 ms instead of 205.
    """
    return typing.cast(jax.Array, _convolve(image, kernel, stride, padding))


def _sum_taps(image: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    taps = _taps(image, kernel.shape[0], stride, padding)
    return functools.reduce(jnp.add, [pixels * kernel[i, j, 0] for i, j, pixels in taps])


_convolve = jax.custom_vjp(_sum_taps, nondiff_argnums=(2, 3))


def _taps(image: jax.Array, side: int, stride: int, padding: Padding) -> list[tuple[int, int, jax.Array]]:
    """(row, column, the pixels [B, h, w, C] that this tap of the kernel sees)."""
    padded = jnp.pad(image, ((0, 0), *padding, (0, 0)))
    last_row, last_column = padded.shape[1] - side, padded.shape[2] - side
    return [
        (i, j, padded[:, i : i + last_row + 1 : stride, j : j + last_column + 1 : stride])
        for i in range(side)
        for j in range(side)
    ]


def _forward(
    image: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_taps(image, kernel, stride, padding), (image, kernel)


def _backward(
    stride: int, padding: Padding, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, kernel = saved
    side = kernel.shape[0]
    sums = [
        jnp.sum(pixels * cotangent, axis=(0, 1, 2), dtype=jnp.float32)
        for _, _, pixels in _taps(image, side, stride, padding)
    ]
    # The image's gradient: the cotangent, its pixels moved apart by the stride, under the flipped kernel.
    edges = []
    for axis in (1, 2):
        before = side - 1 - padding[axis - 1][0]
        length = (cotangent.shape[axis] - 1) * stride + 1
        edges.append((before, image.shape[axis] + side - 1 - before - length, stride - 1))
    spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    spread = lax.optimization_barrier(spread)  # computed once, not again for every tap
    gradient = _sum_taps(spread, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))
    return gradient, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)
