"""A small convolution and its gradients with a quarter of the arithmetic: Winograd's filtering (Lavin & Gray 2016)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_TILE = 4  # places of the image along each axis that are taken together
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # where polynomials are evaluated; infinity is one more
_POINT_BYTES = 2**17  # of a strip's image and partner at one point: what stays in a processor's cache
_LEAST_GROUPS = 16  # of points with products of their own: XLA's CPU backend runs products side by side from nine on

# Measured: more channels make the products' sums larger than the cache, and too few places do not pay for them.
_MOST_CHANNELS = 640  # of image and cotangent together
_PLACES_PER_CHANNEL = 10
_MOST_PADDING = 1.3  # times the places that the maps have


def is_worthwhile(shape: tuple[int, ...], *, features: int, dilation: int) -> bool:
    """Whether XLA is slower on a CPU, for an image [B, H, W, I] and so many features."""
    batch, height, width, channels = shape
    places = batch * height * width
    padded = batch * math.prod(_num_tiles(size, dilation) * _TILE * dilation for size in (height, width))
    is_large = padded >= _PLACES_PER_CHANNEL * (channels + features)
    return is_large and padded <= _MOST_PADDING * places and channels + features <= _MOST_CHANNELS


def wait_for(other: jax.Array, value: jax.Array) -> jax.Array:
    """The value, to be used once another array is there, of any shape.

    XLA makes what needs no other array as early as it can and keeps it: for gradients copies of the image, in the
    forward pass already. It ignores barriers, but does not see that nothing is above infinity. A training step of the
    steel detector at 704x256 has 187 MiB of temporaries instead of 309.
    """
    return jnp.where(other.ravel()[0] > jnp.inf, jnp.ones((), value.dtype), value)


def _num_tiles(size: int, dilation: int) -> int:
    return -(-size // (_TILE * dilation))


def convolve(image: jax.Array, kernel: jax.Array, *, dilation: int) -> jax.Array:
    """Stride-1 SAME convolution: [B, H, W, I], kernel [k, k, I, O], k 3 or 5 -> [B, H, W, O] float32 (or float64).

    A tile of 4x4 places and all k x k taps take (k + 3)^2 products instead of 16 k^2. Relative error about 1e-5.
    """
    return _by_strips(image, kernel, None, dilation=dilation)[0]


def gradients(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, *, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a stride-1 SAME convolution, that of the kernel nearer to the exact one than XLA's.

    The image's is the cotangent's convolution with the kernel turned over, and the kernel's needs what that makes of
    the cotangent.

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O], k 3 or 5.
      cotangent: [B, H, W, O].
      dilation: of the kernel.

    Returns:
      [B, H, W, I] and [k, k, I, O], float32 (float64 of float64).
    """
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    to_image, products = _by_strips(cotangent, turned, wait_for(cotangent, image), dilation=dilation)
    taps = _transforms(len(kernel))[0].astype(to_image.dtype)
    products = jnp.concatenate(products).reshape(len(taps), len(taps), *kernel.shape[2:])  # columns' points first
    to_kernel = jnp.einsum("bj,ai,baco->ijco", taps, taps, products, precision=lax.Precision.HIGHEST)
    return to_image, to_kernel[::-1, ::-1]


def _by_strips(
    image: jax.Array, kernel: jax.Array, partner: jax.Array | None, *, dilation: int
) -> tuple[jax.Array, list[jax.Array]]:
    """Convolves, and adds up the products of a partner's tiles with what the taps see from them.

    Strip by strip, so that what the products read is in the cache.

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O].
      partner: [B, H, W, O], or None.
      dilation: of the kernel.

    Returns:
      [B, H, W, O], and for every group of points [n, O, I] (none without a partner).
    """
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    (batch, height, width, channels), (side, *_, features) = image.shape, kernel.shape
    taps, tile, window = _transforms(side)
    reach = side // 2 * dilation
    # Rows and columns fall into `dilation` interleaved maps, each cut into tiles; the windows on the image overlap.
    # Only strips take the shape for that: at dilation 1 XLA would copy a whole map into it.
    rows, columns = _num_tiles(height, dilation), _num_tiles(width, dilation)
    missing = rows * _TILE * dilation - height, columns * _TILE * dilation - width
    padded = jnp.pad(image, ((0, 0), *((reach, reach + size) for size in missing), (0, 0)))
    zero = wait_for(image, jnp.zeros((), dtype))
    at_points = jnp.einsum(
        "bj,ai,ijco->baco", *[taps.astype(dtype)] * 2, kernel.astype(dtype), precision=lax.Precision.HIGHEST
    )
    # Gradients gain nothing from groups below a column's points, which only make the program larger.
    group_size = _largest_divisor(len(taps), len(taps) ** 2 // _LEAST_GROUPS) if partner is None else len(taps)
    at_points = at_points.reshape(-1, group_size, channels, features)
    products = []
    if partner is not None:
        partner = jnp.pad(partner, ((0, 0), *((0, size) for size in missing), (0, 0)))
        products = [jnp.full((len(group), features, channels), zero) for group in at_points]

    row_bytes = columns * dilation**2 * (channels + features) * dtype.itemsize
    num_rows = _largest_divisor(rows, _POINT_BYTES // row_bytes)
    num_images = _largest_divisor(batch, _POINT_BYTES // (rows * row_bytes)) if num_rows == rows else 1

    def add_strip(index: jax.Array, carry: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
        result, products = carry
        row = index * num_images * num_rows

        def points(maps: jax.Array, matrix: np.ndarray) -> list[jax.Array]:
            size = num_rows * _TILE + matrix.shape[1] - _TILE
            start = (row // rows, row % rows * _TILE * dilation, 0, 0)
            strip = lax.dynamic_slice(maps, start, (num_images, size * dilation, *maps.shape[2:]))
            strip = strip.reshape(num_images, size, dilation, -1, dilation, maps.shape[-1])
            return _to_points(strip.astype(dtype), matrix, num_tiles=(num_rows, columns), group_size=group_size)

        windows = points(padded, window)
        if partner is not None:
            pairs = zip(products, points(partner, tile), windows, strict=True)
            products = [
                product + lax.dot_general(tiles, seen, (((1,), (1,)), ((0,), (0,)))) for product, tiles, seen in pairs
            ]
        values = [
            jnp.matmul(seen, factors).reshape(-1, num_images, num_rows, dilation, columns, dilation, features)
            for seen, factors in zip(windows, at_points, strict=True)
        ]
        strip = _from_points(values, tile).reshape(1, *result.shape[1:])
        return lax.dynamic_update_slice_in_dim(result, strip, index, 0), products

    num_strips = batch * rows // (num_images * num_rows)
    result = jnp.full((num_strips, num_images * num_rows * _TILE * dilation, width + missing[1], features), zero)
    result, products = lax.fori_loop(0, num_strips, add_strip, (result, products))
    result = result.reshape(batch, height + missing[0], width + missing[1], features)[:, :height, :width]
    return result, products


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


def _to_points(strip: jax.Array, matrix: np.ndarray, *, num_tiles: tuple[int, int], group_size: int) -> list[jax.Array]:
    """Transforms a strip's tiles, or the windows that begin with them.

    Args:
      strip: [B, H, dilation, W, dilation, I].
      matrix: [points, size of a tile or window].
      num_tiles: along H and W.
      group_size: of the points of the rows.

    Returns:
      For every point of the columns, for every group of points of the rows: [group_size, tiles, I].
    """
    rows = _evaluate(strip, matrix, num_tiles=num_tiles[0], axis=1)
    groups = [jnp.stack(rows[i : i + group_size]) for i in range(0, len(rows), group_size)]
    columns = [_evaluate(group, matrix, num_tiles=num_tiles[1], axis=4) for group in groups]
    return [group.reshape(group_size, -1, strip.shape[-1]) for point in zip(*columns, strict=True) for group in point]


def _evaluate(maps: jax.Array, matrix: np.ndarray, *, num_tiles: int, axis: int) -> list[jax.Array]:
    """Along an axis, which keeps one place for a tile: for every point an array."""

    def places(first: int) -> jax.Array:
        return lax.slice_in_dim(maps, first, first + _TILE * (num_tiles - 1) + 1, _TILE, axis)

    return [_weighted_sum(row, [places(first) for first in range(len(row))]) for row in matrix]


def _from_points(values: list[jax.Array], matrix: np.ndarray) -> jax.Array:
    """Of each group of points [n, B, rows, dilation, columns, dilation, O], in the order of `_to_points`.

    Returns [B, rows, 4, dilation, columns, 4, dilation, O].
    """
    num_groups = len(matrix) // len(values[0])
    rows = []
    for group in range(num_groups):
        columns = [_weighted_sum(factors, values[group::num_groups]) for factors in matrix.T]
        rows.extend(jnp.stack(columns, axis=5))
    return jnp.stack([_weighted_sum(factors, rows) for factors in matrix.T], axis=2)


def _weighted_sum(factors: np.ndarray, terms: list[jax.Array]) -> jax.Array:
    products = [float(factor) * term for factor, term in zip(factors, terms, strict=True) if factor != 0]
    return functools.reduce(jnp.add, products)


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most a limit, or 1."""
    return max((divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= limit), default=1)
