"""Gradients of a small convolution with a quarter of the arithmetic: Winograd's filtering (Lavin & Gray 2016)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_TILE = 4  # places of the image along each axis that are taken together
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # where polynomials are evaluated; infinity is one more
_STRIP_BYTES = 4 * 2**20  # of transformed image and cotangent at once: what stays in a processor's cache

# Measured: more channels make the products' sums larger than the cache, and too few places do not pay for them.
_MOST_CHANNELS = 640  # of image and cotangent together
_PLACES_PER_CHANNEL = 10
_MOST_PADDING = 1.3  # times the places that the maps have


def is_worthwhile(shape: tuple[int, ...], *, features: int, dilation: int) -> bool:
    """Whether XLA's gradient is slower on a CPU, of an image [B, H, W, I] and so many features."""
    batch, height, width, channels = shape
    places = batch * height * width
    padded = batch * math.prod(_num_tiles(size, dilation) * _TILE * dilation for size in (height, width))
    is_large = padded >= _PLACES_PER_CHANNEL * (channels + features)
    return is_large and padded <= _MOST_PADDING * places and channels + features <= _MOST_CHANNELS


def wait_for(cotangent: jax.Array, value: jax.Array) -> jax.Array:
    """The value, to be used in a gradient once the cotangent is there: of the value's shape, whatever the cotangent's.

    XLA makes what a gradient does with other arrays, as copies of the image, in the forward pass already, and keeps it.
    It ignores barriers, but cannot know that this cotangent is no NaN, which would make the gradient NaN too. A
    training step of the steel detector at 704x256 has 294 MiB of temporaries instead of 350.
    """
    return jnp.where(jnp.isnan(cotangent.ravel()[0]), jnp.nan, value)


def _num_tiles(size: int, dilation: int) -> int:
    return -(-size // (_TILE * dilation))


def gradients(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, *, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a stride-1 SAME convolution, on a CPU faster than XLA's, that of the kernel nearer to the exact one.

    A tile of 4x4 places and all side x side taps take (side + 3)^2 products instead of 16 side^2. Both gradients need
    the cotangent that the tile's taps see, transformed alike. That is done strip by strip, so that what the products
    read is in the cache.

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O], k 3 or 5.
      cotangent: [B, H, W, O].
      dilation: of the kernel.

    Returns:
      [B, H, W, I] and [k, k, I, O], float32 (float64 of float64).
    """
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    (batch, height, width, channels), (side, *_, features) = image.shape, kernel.shape
    taps, tile, window = _transforms(side)
    num_points, reach = side + _TILE - 1, side // 2 * dilation
    # Rows and columns fall into `dilation` interleaved maps, each cut into tiles; the windows on the cotangent overlap.
    # Only strips take the shape for that: at dilation 1 XLA would copy a whole map into it.
    rows, columns = _num_tiles(height, dilation), _num_tiles(width, dilation)
    missing = rows * _TILE * dilation - height, columns * _TILE * dilation - width
    zero = wait_for(cotangent, jnp.zeros((), dtype))
    image = jnp.pad(wait_for(cotangent, image), ((0, 0), *((0, size) for size in missing), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), *((reach, reach + size) for size in missing), (0, 0)))
    matrix = taps.astype(dtype)
    # The cotangent meets the kernel turned over.
    at_points = jnp.einsum(
        "bj,ai,ijco->baoc", matrix, matrix, kernel[::-1, ::-1].astype(dtype), precision=lax.Precision.HIGHEST
    ).reshape(num_points**2, features, channels)

    row_bytes = num_points**2 * columns * dilation**2 * (channels + features) * dtype.itemsize
    num_rows = _largest_divisor(rows, _STRIP_BYTES // row_bytes)
    num_images = _largest_divisor(batch, _STRIP_BYTES // (rows * row_bytes)) if num_rows == rows else 1

    def transform(strip: jax.Array, matrix: np.ndarray) -> jax.Array:
        strip = _to_points(strip.astype(dtype), matrix, num_tiles=num_rows, axis=1)
        return _to_points(strip, matrix, num_tiles=columns, axis=4).reshape(num_points**2, -1, strip.shape[-1])

    def add_strip(index: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        to_image, products = carry
        row = index * num_images * num_rows

        def strip(maps: jax.Array, size: int) -> jax.Array:
            start = (row // rows, row % rows * _TILE * dilation, 0, 0)
            strip = lax.dynamic_slice(maps, start, (num_images, size * dilation, *maps.shape[2:]))
            return strip.reshape(num_images, size, dilation, -1, dilation, maps.shape[-1])

        tiles = transform(strip(image, num_rows * _TILE), tile)
        windows = transform(strip(cotangent, num_rows * _TILE + side - 1), window)
        products += lax.dot_general(tiles, windows, (((1,), (1,)), ((0,), (0,))))
        values = jnp.matmul(windows, at_points)
        values = values.reshape(num_points, num_points, num_images, num_rows, dilation, columns, dilation, channels)
        values = _from_points(_from_points(values, tile, axis=5), tile, axis=2).reshape(1, *to_image.shape[1:])
        return lax.dynamic_update_slice_in_dim(to_image, values, index, 0), products

    num_strips = batch * rows // (num_images * num_rows)
    to_image = jnp.full((num_strips, num_images * num_rows * _TILE * dilation, *image.shape[2:]), zero)
    products = jnp.full((num_points**2, channels, features), zero)
    to_image, products = lax.fori_loop(0, num_strips, add_strip, (to_image, products))
    to_image = to_image.reshape(batch, height + missing[0], width + missing[1], channels)[:, :height, :width]
    products = products.reshape(num_points, num_points, channels, features)  # columns' points first
    to_kernel = jnp.einsum("bj,ai,baco->ijco", matrix, matrix, products, precision=lax.Precision.HIGHEST)
    return to_image, to_kernel[::-1, ::-1]


def _transforms(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Toom and Cook's matrices, of as many rows as points, float64.

    Returns:
      Of the taps [n, side], of a tile [n, 4], and of the window that all taps of a tile see [n, n], n = side + 3.
    """
    num_points = side + _TILE - 1
    points = np.array(_POINTS[: num_points - 1])

    def evaluate(num_coefficients: int) -> np.ndarray:
        at_infinity = np.eye(num_coefficients)[-1:]
        return np.concatenate([np.vander(points, num_coefficients, increasing=True), at_infinity])

    window = np.linalg.inv(evaluate(num_points)).T
    # Coefficients of at most 1; those that are 0 but for rounding would cost additions.
    scale = np.abs(window).max(axis=1, keepdims=True)
    return evaluate(side) * scale, evaluate(_TILE), np.round(window / scale, 12)


def _to_points(maps: jax.Array, matrix: np.ndarray, *, num_tiles: int, axis: int) -> jax.Array:
    """Transforms tiles, or the windows that begin with them, along an axis: points first, tiles in the axis' place."""
    points = []
    for row in matrix:
        terms = [
            float(factor) * lax.slice_in_dim(maps, place, place + _TILE * (num_tiles - 1) + 1, _TILE, axis)
            for place, factor in enumerate(row)
            if factor != 0
        ]
        points.append(functools.reduce(jnp.add, terms))
    return jnp.stack(points)


def _from_points(values: jax.Array, matrix: np.ndarray, *, axis: int) -> jax.Array:
    """From points, the first axis, to the places of each tile, behind the axis of tiles (which was the next one)."""
    places = []
    for column in matrix.T:
        terms = [float(factor) * value for factor, value in zip(column, values, strict=True) if factor != 0]
        places.append(functools.reduce(jnp.add, terms))
    return jnp.stack(places, axis=axis)


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most a limit, or 1."""
    return max((divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= limit), default=1)
