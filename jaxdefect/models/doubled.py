"""3x3 convolution of a map that is doubled first, with less than half of the arithmetic."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.models.small_kernel import convolve_directly
from jaxdefect.models.winograd import wait_for


def convolve_doubled(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """SAME convolution of a map after nearest-neighbour doubling: [B, h, w, I], [3, 3, I, O] -> [B, 2h, 2w, O].

    Of the nine pixels that the kernel sees in the doubled map four at most differ, and which ones agree depends on the
    place's parity only. On a CPU the taps of those are therefore summed, for each of the four parities, and the map is
    convolved before it is doubled, by four kernels of 2x2: 16 products a pixel of the small map instead of 36. The
    gradient is that of a matrix product. For the five blocks of a decoder at 256x1248 together 64 -> 43 ms, and with
    the gradients 295 -> 188 ms (two cores).
    """
    return lax.platform_dependent(image, kernel, cpu=_by_parity, default=_directly)


def _directly(image: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolve_directly(jnp.repeat(jnp.repeat(image, 2, axis=1), 2, axis=2), kernel)


@jax.custom_vjp
def _by_parity(image: jax.Array, kernel: jax.Array) -> jax.Array:
    margins, layout = ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")
    return _interleave(lax.conv_general_dilated(image, _kernels(kernel), (1, 1), margins, dimension_numbers=layout))


def _by_product(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as a product, slower by itself but not in its gradient."""
    batch, height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = [padded[:, i : i + height + 1, j : j + width + 1] for i in (0, 1) for j in (0, 1)]
    flat = jnp.concatenate(seen, axis=-1).reshape(-1, 4 * channels)
    product = jnp.matmul(flat, _kernels(kernel).reshape(4 * channels, -1))
    return _interleave(product.reshape(batch, height + 1, width + 1, -1))


def _backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    image, kernel = residuals
    return jax.vjp(_by_product, wait_for(cotangent, image), kernel)[1](cotangent)


_by_parity.defvjp(lambda image, kernel: (_by_parity(image, kernel), (image, kernel)), _backward)


def _kernels(kernel: jax.Array) -> jax.Array:
    """[3, 3, I, O] -> [2, 2, I, 4 O]: for even rows and columns, even and odd, odd and even, odd and odd."""
    taps = [[_summed(row) for row in rows] for rows in _summed(kernel)]  # by parity, row, parity, column: [I, O]
    both = (0, 1)
    return jnp.stack(
        [
            jnp.stack([jnp.concatenate([taps[a][i][b][j] for a in both for b in both], axis=-1) for j in both])
            for i in both
        ]
    )


def _summed(taps: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Three taps along the first axis -> of even and of odd places the two on the map before it was doubled."""
    first, middle, last = taps[0], taps[1], taps[2]
    return (first, middle + last), (first + middle, last)


def _interleave(maps: jax.Array) -> jax.Array:
    """[B, h + 1, w + 1, 4 O], the parities side by side -> [B, 2h, 2w, O]: odd places are one further on."""
    batch, height, width = maps.shape[0], maps.shape[1] - 1, maps.shape[2] - 1
    maps = maps.reshape(batch, height + 1, width + 1, 2, 2, -1)
    rows = [
        jnp.stack([maps[:, i : i + height, j : j + width, i, j] for j in (0, 1)], axis=3)  # [B, h, w, 2, O]
        for i in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)
