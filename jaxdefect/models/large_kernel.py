"""Stride-1 convolution with a large kernel on a CPU, two ways that give the numbers of XLA's.

SegDecNet's 15x15 kernel, 64 -> 1024 channels, is two thirds of its arithmetic. `convolve_by_rows` is as fast as XLA's
own forward and three times as fast backward, which serves small maps; `convolve_by_spectrum` needs a thirtieth of the
arithmetic, but for the kernel's spectrum, which inference computes once and training at every step. Measurements:
`python -m benchmarks.large_kernel`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax

SPECTRA = "spectra"  # the collection of variables that holds them
_LARGE = 9  # the side from which on a kernel is large
_LARGEST_TILE = 48  # its spectrum takes 630 MB for SegDecNet's kernel
# What a convolution costs on a CPU, fitted to measurements of SegDecNet's kernel at maps from 8x8 to 176x64. The unit
# is one frequency of one tile.
_READING = 12  # a known spectrum, per frequency; 4 by its time, the rest for its memory
_TRANSFORMING = 35  # a spectrum's computation and its gradient's, per frequency
_ROWS = 0.36  # the sum of row products, per pixel and tap


def convolve_on_cpu(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1 SAME convolution: [B, H, W, I], kernel [k, k, I, O] with odd k -> [B, H, W, O].

    By rows, or by the kernel's spectrum where the map is large enough to be worth its computation.
    """
    side, (batch, height, width, _) = kernel.shape[0], image.shape
    batch = batch if isinstance(batch, int) else 1  # an export's may be a symbol
    tile, cost = _best_tile(height, width, batch=batch, side=side, per_frequency=_TRANSFORMING)
    if image.dtype == jnp.float64 or _ROWS * side**2 * batch * height * width < cost:
        return convolve_by_rows(image, kernel)
    return convolve_by_spectrum(image, spectrum(kernel.astype(jnp.float32), tile=tile), side=side)


def _best_tile(height: int, width: int, *, batch: int, side: int, per_frequency: float) -> tuple[int, float]:
    """The side of the tiles, even, that makes `convolve_by_spectrum` of maps cheapest, and what it costs then."""

    def cost(tile: int) -> float:
        step = tile - side + 1
        return tile**2 * (batch * -(-height // step) * -(-width // step) + per_frequency)

    best = min(range(side + 3, max(_LARGEST_TILE, side + 3) + 1, 2), key=cost)
    return best, cost(best)


def convolve_by_rows(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve_on_cpu` as a sum over kernel rows of one matrix product each; its gradients are matrix products too."""
    side, _, channels, features = kernel.shape
    batch, height, width, _ = image.shape
    padding = side // 2
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = jnp.concatenate([padded[:, :, j : j + width] for j in range(side)], axis=-1)
    result = jnp.zeros((batch * height * width, features), jnp.float32)
    for i, row in enumerate(lax.split(kernel, (1,) * side)):  # whose gradient is put together without sums
        columns = rows[:, i : i + height].reshape(-1, side * channels)
        row = row.reshape(side * channels, features)
        result += jnp.matmul(columns, row, preferred_element_type=jnp.float32)
    return result.astype(image.dtype).reshape(batch, height, width, features)


def is_large(kernel: Any) -> bool:
    """Whether an array [k, k, I, O] is the kernel of such a convolution; not a depthwise one's."""
    return kernel.ndim == 4 and kernel.shape[0] == kernel.shape[1] >= _LARGE and kernel.shape[2] > 1


def with_spectra(variables: Mapping[str, Any], *, map_size: tuple[int, int]) -> dict[str, Any]:
    """The variables of a module, and the spectra of its large kernels in a collection of their own, SPECTRA.

    `map_size`: height and width of what these kernels are convolved with; tiles are chosen for it, any size works.
    """
    params: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables["params"])
    spectra = {
        path: spectrum(kernel, tile=_best_tile(*map_size, batch=1, side=kernel.shape[0], per_frequency=_READING)[0])
        for path, kernel in params.items()
        if is_large(kernel)
    }
    return {**variables, SPECTRA: traverse_util.unflatten_dict(spectra)} if spectra else dict(variables)


@functools.partial(jax.jit, static_argnames="tile")
def spectrum(kernel: jax.Array, *, tile: int) -> jax.Array:
    """The two-dimensional Fourier transform of a kernel [k, k, I, O], for `convolve_by_spectrum`.

    Args:
      kernel: float32, k odd.
      tile: side of the image's tiles, even, above k.

    Returns:
      [tile / 2 + 1, tile, 2 I, O] float32: rows' frequencies (of a real signal: half of them), columns' frequencies,
      and of every channel the real part, then of every channel the imaginary one.
    """
    side, _, channels, features = kernel.shape
    halves, numbers = tile // 2 + 1, channels * features
    by_rows = _transform(_real_transform(side, tile), kernel.reshape(side, side * numbers))
    both = _transform(_complex_transform(side, tile), by_rows.reshape(halves, 2 * side, numbers))
    return both.reshape(halves, tile, 2 * channels, features)


def convolve_by_spectrum(image: jax.Array, kernel_spectrum: jax.Array, *, side: int) -> jax.Array:
    """`convolve_on_cpu` for a kernel of odd side `side` whose `spectrum` is given: overlap-save in tiles.

    The image is cut into overlapping tiles, each transformed, multiplied at every frequency (a matrix product over the
    channels), and transformed back; what wraps around is thrown away. Transforms are matrix products, which a CPU
    does at full speed and which have gradients. Relative error about 1e-6.
    """
    batch, height, width, channels = image.shape
    halves, tile, _, features = kernel_spectrum.shape
    step = tile - side + 1
    rows, columns, margin = -(-height // step), -(-width // step), side // 2
    padded = jnp.pad(
        image.astype(jnp.float32),
        ((0, 0), (margin, rows * step + margin - height), (margin, columns * step + margin - width), (0, 0)),
    )
    strips = jnp.stack([padded[:, i * step : i * step + tile] for i in range(rows)])
    tiles = jnp.stack([strips[:, :, :, j * step : j * step + tile] for j in range(columns)])
    count = columns * rows * batch
    # [tile, tile, count * channels], transformed like the kernel: [halves, tile, 2, count, channels].
    tiles = tiles.reshape(count, tile, tile, channels).transpose(1, 2, 0, 3)
    by_rows = _transform(_real_transform(tile, tile), tiles.reshape(tile, -1)).reshape(halves, 2 * tile, -1)
    both = _transform(_complex_transform(tile, tile), by_rows).reshape(halves, tile, 2, count, channels)
    # A correlation multiplies by the conjugate, (a + b i) (c - d i) = (a c + b d) + (b c - a d) i: both parts in one
    # product of real matrices, [a, b] and [b, -a] with [c, d].
    real, imaginary = both[:, :, 0], both[:, :, 1]
    parts = jnp.concatenate(
        [jnp.concatenate([real, imaginary], axis=-1), jnp.concatenate([imaginary, -real], axis=-1)], axis=-2
    )
    product = jnp.matmul(parts, kernel_spectrum).reshape(halves, 2 * tile, count * features)
    by_rows = _transform(_inverse_complex_transform(step, tile), product)
    result = _transform(_inverse_real_transform(step, tile), by_rows.reshape(2 * halves, step * count * features))
    result = result.reshape(step, step, columns, rows, batch, features).transpose(4, 3, 0, 2, 1, 5)
    result = result.reshape(batch, rows * step, columns * step, features)
    return result[:, :height, :width].astype(image.dtype)


def _transform(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    """matrix [m, n] @ values [..., n, k] -> [..., m, k], and its gradient likewise.

    The derived gradient first copies the cotangent into another order, which costs as much as the product.
    """

    @jax.custom_vjp
    def transform(values: jax.Array) -> jax.Array:
        return _multiply(matrix, values)

    transform.defvjp(
        lambda values: (_multiply(matrix, values), None), lambda _, cotangent: (_multiply(matrix.T, cotangent),)
    )
    return transform(values)


def _multiply(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    batch = values.shape[:-2]
    return jnp.matmul(jnp.broadcast_to(matrix, (*batch, *matrix.shape)), values)


def _angles(length: int, tile: int, num_frequencies: int) -> np.ndarray:
    return 2 * np.pi * np.outer(np.arange(num_frequencies), np.arange(length)) / tile


def _real_transform(length: int, tile: int) -> np.ndarray:
    """[2 * (tile / 2 + 1), length]: of `length` real numbers; for every frequency the real and the imaginary part."""
    angles = _angles(length, tile, tile // 2 + 1)
    return np.stack([np.cos(angles), -np.sin(angles)], axis=1).reshape(-1, length).astype(np.float32)


def _complex_transform(length: int, tile: int) -> np.ndarray:
    """[2 * tile, 2 * length]: of complex numbers given as all real and then all imaginary parts."""
    angles = _angles(length, tile, tile)
    cosine, sine = np.cos(angles), np.sin(angles)
    real, imaginary = np.concatenate([cosine, sine], axis=1), np.concatenate([-sine, cosine], axis=1)
    return np.stack([real, imaginary], axis=1).reshape(2 * tile, -1).astype(np.float32)


def _inverse_complex_transform(length: int, tile: int) -> np.ndarray:
    """[2 * length, 2 * tile]: the first `length` complex numbers (real parts, then imaginary ones) of a transform."""
    angles = _angles(length, tile, tile).T
    cosine, sine = np.cos(angles) / tile, np.sin(angles) / tile
    real, imaginary = np.stack([cosine, -sine], axis=2), np.stack([sine, cosine], axis=2)
    return np.concatenate([real, imaginary]).reshape(2 * length, -1).astype(np.float32)


def _inverse_real_transform(length: int, tile: int) -> np.ndarray:
    """[length, 2 * (tile / 2 + 1)]: the first `length` real numbers of a transform given as its first half."""
    angles = _angles(length, tile, tile // 2 + 1).T
    weight = np.full(tile // 2 + 1, 2.0 / tile)  # a real signal's other half is the conjugate of this one
    weight[[0, -1]] = 1.0 / tile
    both = np.stack([np.cos(angles) * weight, -np.sin(angles) * weight], axis=2)
    return both.reshape(length, -1).astype(np.float32)
