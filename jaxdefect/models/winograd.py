"""A small convolution and its gradients with a quarter of the arithmetic: Winograd's filtering (Lavin & Gray 2016)."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdefect import processor
from jaxdefect.models.xla import uses_all_cores, wait_for

_TILE = 4  # places of the image along each axis that are taken together
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # where polynomials are evaluated; infinity is one more
_ENOUGH_PRODUCTS = 16  # for two cores at once; more make the program larger
_POINT_BYTES = 2**17  # of a strip's image and partner at one point: what stays in a processor's cache
_LARGE_BYTES = 2**26  # of a map: so large that memory counts more than time

# Measured: more channels make the products' sums larger than the cache, and too few places do not pay for them; with
# few channels the transforms cost more than the products save, unless there are many taps and features.
_MOST_CHANNELS = 640  # of image and cotangent together
_PLACES_PER_CHANNEL = 10
_MANY_CHANNELS = 32  # of the image
_PRODUCTS_PER_VALUE = 96  # with fewer, of the convolution itself, for each value of image and result
_LEAST_PRODUCTS = 10**8  # and altogether
_MOST_PADDING = 1.3  # times the places that the maps have
# XLA's own convolutions lose more by narrow vectors: in the forward pass more channels and more padding pay there. By
# wide vectors those of 3x3 are as fast as matrix products, so that only what saves many products pays.
_NARROW_CHANNELS, _NARROW_PADDING = 1.75, 1.15  # times as many
_WIDE_PRODUCTS_PER_VALUE = 400


Then = Callable[[jax.Array], jax.Array]
_Carry = tuple[jax.Array, list[jax.Array], list[jax.Array]]  # result, sums of products, what they were made of


def is_worthwhile(shape: tuple[int, ...], *, side: int, features: int, dilation: int, is_forward: bool = False) -> bool:
    """Whether XLA is slower on a CPU, for an image [B, H, W, I] and a kernel [side, side, I, features].

    `is_forward`: for the value alone, not the gradients.
    """
    batch, height, width, channels = shape
    most_channels, most_padding = _MOST_CHANNELS, _MOST_PADDING
    if is_forward and processor.has_narrow_vectors():
        most_channels, most_padding = _NARROW_CHANNELS * most_channels, _NARROW_PADDING * most_padding
    places = batch * height * width
    padded = batch * math.prod(_num_tiles(size, dilation) * _TILE * dilation for size in (height, width))
    is_large = padded >= _PLACES_PER_CHANNEL * (channels + features)
    products = places * side**2 * channels * features
    per_value = products / (places * (channels + features))
    has_work = channels >= _MANY_CHANNELS or (per_value >= _PRODUCTS_PER_VALUE and products >= _LEAST_PRODUCTS)
    is_known = side in (3, 5) and channels + features <= most_channels
    if is_forward and side == 3 and per_value < _WIDE_PRODUCTS_PER_VALUE and processor.has_wide_vectors():
        has_work = has_work and not uses_all_cores(width, features, side**2 * channels)
    return is_known and is_large and has_work and padded <= most_padding * places


def _num_tiles(size: int, dilation: int) -> int:
    return -(-size // (_TILE * dilation))


def convolve(image: jax.Array, kernel: jax.Array, *, dilation: int, then: Then | None = None) -> jax.Array:
    """Stride-1 SAME convolution: [B, H, W, I], kernel [k, k, I, O], k 3 or 5 -> [B, H, W, O] of the image's type.

    A tile of 4x4 places and all k x k taps take (k + 3)^2 products instead of 16 k^2. Relative error about 1e-5;
    bfloat16 is computed in float32 and rounded.
    `then` takes the result, [..., O] -> [..., any number], strip by strip; of each place by itself.
    """
    finish = None if then is None else lambda strip: then(strip.astype(image.dtype))
    result, _, last = _by_strips(image, kernel, None, dilation=dilation, then=finish)
    # One element waits for all: it is written in place, where a whole array that waits would be written anew.
    first = (slice(0, 1),) * result.ndim
    result = lax.dynamic_update_slice(result, wait_for(last, result[first]), (0,) * result.ndim)
    return result.astype(image.dtype) if then is None else result


def gradients(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, *, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a stride-1 SAME convolution, that of the kernel nearer to the exact one than XLA's.

    The image's is the cotangent's convolution with the kernel flipped, and the kernel's needs what that makes of
    the cotangent.

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O], k 3 or 5.
      cotangent: [B, H, W, O].
      dilation: of the kernel.

    Returns:
      [B, H, W, I] and [k, k, I, O], float32 (float64 of float64).
    """
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    to_image, products, last = _by_strips(cotangent, flipped, wait_for(cotangent, image), dilation=dilation)
    of_points = _at_points(len(kernel))
    products = wait_for(last, jnp.stack(products)).reshape(len(of_points), -1)
    to_kernel = _multiply(of_points.T, products).reshape(kernel.shape)
    return to_image, to_kernel[::-1, ::-1]


def _by_strips(
    image: jax.Array, kernel: jax.Array, partner: jax.Array | None, *, dilation: int, then: Then | None = None
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """Convolves, and adds up the products of a partner's tiles with what the taps see from them.

    Strip by strip, so that what the products read is in the cache, two at once where one has few products: all are
    work for two cores.

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O].
      partner: [B, H, W, O], or None.
      dilation: of the kernel.
      then: of a strip of the result; None: nothing.

    Returns:
      [B, H, W, O], or what `then` makes of it; for every point of the columns [points of the rows, O, I] (none without
      a partner); and a number that has to be used, if only by `wait_for`, or XLA does the products one after the other.
    """
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    (batch, height, width, channels), (side, *_, features) = image.shape, kernel.shape
    taps, tile, window = _transforms(side)
    finish = then or (lambda strip: strip)
    finished = jax.eval_shape(finish, jax.ShapeDtypeStruct((1, 1, features), dtype))
    num_results = finished.shape[-1]
    num_together = 1 if len(taps) * (1 if partner is None else 2) >= _ENOUGH_PRODUCTS else 2
    cut = _cut(image.shape, features, dilation, itemsize=dtype.itemsize, in_pairs=num_together == 2)
    num_together = math.gcd(num_together, cut.num_strips)  # one, where their number is odd
    reach = side // 2 * dilation
    missing = cut.rows * _TILE * dilation - height, cut.columns * _TILE * dilation - width
    maps = [(jnp.pad(image.astype(dtype), ((0, 0), *((reach, reach + size) for size in missing), (0, 0))), window)]
    if partner is not None:
        maps.append((jnp.pad(partner.astype(dtype), ((0, 0), *((0, size) for size in missing), (0, 0))), tile))
    at_points = _multiply(_at_points(side), kernel.astype(dtype).reshape(side**2, -1))
    at_points = list(at_points.reshape(len(taps), len(taps), channels, features))

    def strips_at_points(index: jax.Array | int) -> list[list[list[jax.Array]]]:
        """Of every strip of a turn, of every map, for every point of the columns."""
        strips = range(num_together)
        return [[_strip_at_points(*pair, cut, index * num_together + i) for pair in maps] for i in strips]

    def add_strips(index: jax.Array, carry: _Carry) -> _Carry:
        result, products, _ = carry
        strips, held = [], strips_at_points(index)
        for windows, *tiles in held:
            for partners in tiles:
                pairs = zip(products, partners, windows, strict=True)
                contract_tiles = (((1,), (1,)), ((0,), (0,)))
                products = [total + lax.dot_general(*pair, contract_tiles) for total, *pair in pairs]
            values = [jnp.matmul(seen, factors) for seen, factors in zip(windows, at_points, strict=True)]
            shape = (len(taps), cut.num_images, cut.num_rows, dilation, cut.columns, dilation, features)
            strip = _from_points([value.reshape(shape) for value in values], tile)
            strips.append(finish(strip.reshape(*result.shape[1:-1], features)))
        result = lax.dynamic_update_slice_in_dim(result, jnp.stack(strips), index * num_together, 0)
        return result, products, jax.tree.leaves(held)

    # XLA lets arrays of a loop's body share memory, and a product waits until its own is free: one after the other, on
    # one core. What a loop carries on keeps its place, so the loop carries what the products read, if something uses it
    # afterwards. (The fill values differ, as XLA copies equal arrays.)
    #
    # The result's memory is filled while the map is padded; a large one's only then, when what the map is made of is
    # free: 5 of 325 ms for 70 of 274 MiB, in the steel detector's inference at 1408x512. (XLA makes a single element
    # without the padded map, but not the maximum of several on either side of its edge.)
    num_values = batch * (height + missing[0]) * (width + missing[1]) * num_results
    is_large = num_values * finished.dtype.itemsize >= _LARGE_BYTES
    edge = maps[0][0][0, : reach + 1, reach, 0]
    zero = wait_for(jnp.max(edge) if is_large else image, jnp.zeros((), dtype))
    tiles = cut.num_images * cut.num_rows * cut.columns * dilation**2
    shapes = [(len(taps), tiles, one.shape[-1]) for one, _ in maps for _ in taps] * num_together
    held = [jnp.full(shape, zero + i) for i, shape in enumerate(shapes)]
    products = [jnp.full((len(taps), features, channels), zero) for _ in taps] if partner is not None else []
    strip = cut.num_images * cut.num_rows * _TILE * dilation, width + missing[1], num_results
    result = jnp.full((cut.num_strips, *strip), zero, finished.dtype)
    result, products, held = lax.fori_loop(0, cut.num_strips // num_together, add_strips, (result, products, held))
    last = functools.reduce(jnp.maximum, [array.ravel()[0] for array in held])
    result = result.reshape(batch, height + missing[0], width + missing[1], num_results)[:, :height, :width]
    return result, products, last


class _Cut(NamedTuple):
    """How maps are cut: rows and columns fall into `dilation` interleaved maps, each cut into tiles."""

    rows: int  # of tiles, and columns of them
    columns: int
    num_rows: int  # of a strip
    num_images: int  # of a strip; more than one only if it has all their rows
    num_strips: int
    dilation: int


def _cut(shape: tuple[int, ...], features: int, dilation: int, *, itemsize: int, in_pairs: bool) -> _Cut:
    """Cuts maps [B, H, W, I] for a result of so many features, into an even number of strips if it can be."""
    batch, height, width, channels = shape
    rows, columns = _num_tiles(height, dilation), _num_tiles(width, dilation)
    row_bytes = columns * dilation**2 * (channels + features) * itemsize
    most_rows, most_images = rows, batch
    if in_pairs and batch % 2 == 0:
        most_images = batch // 2
    elif in_pairs and rows % 2 == 0:
        most_rows = rows // 2
    num_rows = _largest_divisor(most_rows, _POINT_BYTES // row_bytes)
    num_images = _largest_divisor(most_images, _POINT_BYTES // (rows * row_bytes)) if num_rows == rows else 1
    return _Cut(rows, columns, num_rows, num_images, batch * rows // (num_images * num_rows), dilation)


def _strip_at_points(maps: jax.Array, matrix: np.ndarray, cut: _Cut, index: jax.Array | int) -> list[jax.Array]:
    """For every point of the columns [points of the rows, tiles, I] of a strip of padded maps [B, H, W, I].

    Only strips are brought into the shape of interleaved maps: at dilation 1 XLA would copy a whole map into it.
    """
    row, dilation = index * cut.num_images * cut.num_rows, cut.dilation
    size = cut.num_rows * _TILE + matrix.shape[1] - _TILE  # windows overlap
    start = (row // cut.rows, row % cut.rows * _TILE * dilation, 0, 0)
    strip = lax.dynamic_slice(maps, start, (cut.num_images, size * dilation, *maps.shape[2:]))
    strip = strip.reshape(cut.num_images, size, dilation, -1, dilation, maps.shape[-1])
    return _to_points(strip, matrix, num_tiles=(cut.num_rows, cut.columns))


def _at_points(side: int) -> np.ndarray:
    """[points^2, side^2], what a kernel is multiplied with: columns' points, then rows' points; rows, then columns."""
    taps = _transforms(side)[0]
    return np.einsum("bj,ai->baij", taps, taps).reshape(-1, side**2)


def _multiply(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    return jnp.matmul(matrix.astype(values.dtype), values, precision=lax.Precision.HIGHEST)


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


def _to_points(strip: jax.Array, matrix: np.ndarray, *, num_tiles: tuple[int, int]) -> list[jax.Array]:
    """Transforms a strip's tiles, or the windows that begin with them.

    Args:
      strip: [B, H, dilation, W, dilation, I].
      matrix: [points, size of a tile or window].
      num_tiles: along H and W.

    Returns:
      For every point of the columns: [points of the rows, tiles, I].
    """
    rows = jnp.stack(_evaluate(strip, matrix, num_tiles=num_tiles[0], axis=1))
    columns = _evaluate(rows, matrix, num_tiles=num_tiles[1], axis=4)
    return [point.reshape(len(matrix), -1, strip.shape[-1]) for point in columns]


def _evaluate(maps: jax.Array, matrix: np.ndarray, *, num_tiles: int, axis: int) -> list[jax.Array]:
    """Along an axis, which keeps one place for a tile: for every point an array."""

    last = _TILE * (num_tiles - 1)
    places = [lax.slice_in_dim(maps, first, first + last + 1, _TILE, axis) for first in range(matrix.shape[1])]
    return [_weighted_sum(row, places) for row in matrix]


def _from_points(values: list[jax.Array], matrix: np.ndarray) -> jax.Array:
    """For every point of the columns [points of the rows, B, rows, dilation, columns, dilation, O].

    Returns [B, rows, 4, dilation, columns, 4, dilation, O].
    """
    rows = list(jnp.stack([_weighted_sum(factors, values) for factors in matrix.T], axis=5))
    return jnp.stack([_weighted_sum(factors, rows) for factors in matrix.T], axis=2)


def _weighted_sum(factors: np.ndarray, terms: list[jax.Array]) -> jax.Array:
    """By lax, not by operators: there are thousands of these, and each operator is a function that JAX traces."""
    products = [_times(factor, term) for factor, term in zip(factors, terms, strict=True) if factor != 0]
    return functools.reduce(lax.add, products)


def _times(factor: float, term: jax.Array) -> jax.Array:
    return term if factor == 1 else lax.mul(term, np.asarray(factor, term.dtype))


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most a limit, or 1."""
    return max((divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= limit), default=1)
