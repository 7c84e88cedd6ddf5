"""The gradient of a small kernel with a quarter of the arithmetic: Winograd's minimal filtering (Lavin & Gray 2016)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_TILE = 4  # places of the cotangent along each axis that are taken together
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


def _num_tiles(size: int, dilation: int) -> int:
    return -(-size // (_TILE * dilation))


def kernel_gradient(image: jax.Array, cotangent: jax.Array, *, side: int, dilation: int) -> jax.Array:
    """Gradient of the kernel of a stride-1 SAME convolution, on a CPU faster than XLA's and nearer to the exact one.

    The sum over 4x4 places of the cotangent for all side x side taps takes (side + 3)^2 products instead of
    16 side^2. Image and cotangent are transformed strip by strip, so that what the products read is in the cache.

    Args:
      image: [B, H, W, I].
      cotangent: [B, H, W, O].
      side: of the kernel, 3 or 5.
      dilation: of the kernel.

    Returns:
      [side, side, I, O] float32 (float64 of float64).
    """
    batch, height, width, channels = image.shape
    features, num_points = cotangent.shape[-1], side + _TILE - 1
    to_taps, of_cotangent, of_image = _transforms(side)
    # Rows and columns fall into `dilation` interleaved maps, each cut into tiles, and those of the image overlap.
    rows, columns = (_num_tiles(size, dilation) for size in (height, width))
    margin = side // 2 * dilation
    missing = (rows * _TILE * dilation - height, columns * _TILE * dilation - width)
    image = jnp.pad(image, ((0, 0), *((margin, margin + size) for size in missing), (0, 0)))
    image = image.reshape(batch, -1, dilation, columns * _TILE + side - 1, dilation, channels)
    cotangent = jnp.pad(cotangent, ((0, 0), *((0, size) for size in missing), (0, 0)))
    cotangent = cotangent.reshape(batch, -1, dilation, columns * _TILE, dilation, features)

    dtype = jnp.promote_types(image.dtype, jnp.float32)
    row_bytes = num_points**2 * columns * dilation**2 * (channels + features) * dtype.itemsize
    num_images = _largest_divisor(batch, _STRIP_BYTES // row_bytes)
    num_rows = _largest_divisor(rows, _STRIP_BYTES // (num_images * row_bytes))

    def transform(strip: jax.Array, matrix: np.ndarray) -> jax.Array:
        strip = _along_axis(strip.astype(dtype), matrix, num_tiles=num_rows, axis=1)
        return _along_axis(strip, matrix, num_tiles=columns, axis=4).reshape(num_points**2, -1, strip.shape[-1])

    def add_strip(index: jax.Array, products: jax.Array) -> jax.Array:
        image_index, row = index // (rows // num_rows) * num_images, index % (rows // num_rows) * num_rows * _TILE

        def strip(maps: jax.Array, size: int) -> jax.Array:
            start = (image_index, row, 0, 0, 0, 0)
            return lax.dynamic_slice(maps, start, (num_images, size, *maps.shape[2:]))

        images = transform(strip(image, num_rows * _TILE + side - 1), of_image)
        cotangents = transform(strip(cotangent, num_rows * _TILE), of_cotangent)
        return products + lax.dot_general(images, cotangents, (((1,), (1,)), ((0,), (0,))))

    num_strips = (batch // num_images) * (rows // num_rows)
    products = lax.fori_loop(0, num_strips, add_strip, jnp.zeros((num_points**2, channels, features), dtype))
    products = products.reshape(num_points, num_points, channels, features)  # columns' points first
    matrix = to_taps.astype(dtype)
    return jnp.einsum("bj,ai,baco->ijco", matrix, matrix, products, precision=lax.Precision.HIGHEST)


def _transforms(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Toom and Cook's matrices, of as many rows as points, float64.

    Returns:
      Of the products to the taps [n, side], of a cotangent's tile [n, 4], and of an image's [n, n], n = side + 3.
    """
    num_points = side + _TILE - 1
    points = np.array(_POINTS[: num_points - 1])

    def evaluate(num_coefficients: int) -> np.ndarray:
        at_infinity = np.eye(num_coefficients)[-1:]
        return np.concatenate([np.vander(points, num_coefficients, increasing=True), at_infinity])

    of_image = np.linalg.inv(evaluate(num_points)).T
    # Coefficients of at most 1; those that are 0 but for rounding would cost additions.
    scale = np.abs(of_image).max(axis=1, keepdims=True)
    return evaluate(side) * scale, evaluate(_TILE), np.round(of_image / scale, 12)


def _along_axis(maps: jax.Array, matrix: np.ndarray, *, num_tiles: int, axis: int) -> jax.Array:
    """Each tile's transform along the axis, with points first and tiles in its place: [...] -> [n, ...]."""
    points = []
    for row in matrix:
        terms = [
            float(factor) * lax.slice_in_dim(maps, place, place + _TILE * (num_tiles - 1) + 1, _TILE, axis)
            for place, factor in enumerate(row)
            if factor != 0
        ]
        points.append(functools.reduce(jnp.add, terms))
    return jnp.stack(points)


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most a limit, or 1."""
    return max((divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= limit), default=1)
