"""Stride-1 SAME convolution, in the way that suits its size and the device; all ways give the same numbers.

Accelerators take XLA's own. On a CPU that is slow for 1x1 kernels (`pointwise`), large ones (`large_kernel`), 3x3 and
5x5 ones (`small_kernel`), for few features (`convolve_by_one_product`) and for few channels (`few_channels` where the
sums are short, else `convolve_in_pairs`).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.models import large_kernel, winograd
from jaxdefect.models.few_channels import convolve_few, has_few_channels
from jaxdefect.models.pointwise import convolve_pointwise
from jaxdefect.models.small_kernel import convolve_small, has_winograd
from jaxdefect.models.xla import convolve_directly


def convolve(
    image: jax.Array, kernel: jax.Array, *, dilation: int = 1, kernel_spectrum: jax.Array | None = None
) -> jax.Array:
    """Stride-1 SAME convolution of a kernel of any odd size.

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O].
      dilation: of the kernel.
      kernel_spectrum: of a large kernel, if it is known.

    Returns:
      [B, H, W, O].
    """
    side, _, channels, features = kernel.shape
    if kernel_spectrum is not None and dilation == 1:
        return large_kernel.convolve_by_spectrum(image, kernel_spectrum, side=side)
    if side == 1:
        return convolve_pointwise(image, kernel)
    directly = functools.partial(convolve_directly, dilation=dilation)
    if has_few_channels(image, kernel):
        margin = side // 2 * dilation
        return convolve_few(image, kernel, padding=((margin, margin), (margin, margin)), dilation=dilation)
    suits_pairs = dilation == 1 and channels <= 8 and features <= 16 and image.shape[2] % 2 == 0
    if side**2 * features <= channels:
        on_cpu = functools.partial(convolve_by_one_product, dilation=dilation)
    elif side <= 5 and (has_winograd(image, kernel, dilation=dilation) or not suits_pairs):
        return convolve_small(image, kernel, dilation)
    elif dilation == 1 and large_kernel.is_large(kernel):
        on_cpu = large_kernel.convolve_on_cpu
    elif suits_pairs:
        on_cpu = convolve_in_pairs
    else:
        return directly(image, kernel)
    return lax.platform_dependent(image, kernel, cpu=on_cpu, default=directly)


def convolve_then(image: jax.Array, kernel: jax.Array, then: winograd.Then) -> jax.Array:
    """`then` of `convolve`, for what takes each pixel by itself, in inference.

    Where a CPU convolves strip by strip, what follows is done while the strip is in its caches, and the map of many
    features is never written: [B, H, W, I], [k, k, I, O] and [..., O] -> [..., P] give [B, H, W, P].
    """

    def otherwise(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return then(convolve(image, kernel))

    if not has_winograd(image, kernel, dilation=1):
        return otherwise(image, kernel)
    on_cpu = functools.partial(winograd.convolve, dilation=1, then=then)
    return lax.platform_dependent(image, kernel, cpu=on_cpu, default=otherwise)


def convolve_by_one_product(image: jax.Array, kernel: jax.Array, *, dilation: int = 1) -> jax.Array:
    """`convolve` for few features: every pixel's product with all taps at once, then a sum of shifted maps."""
    side, _, channels, features = kernel.shape
    batch, height, width, _ = image.shape
    products = jnp.matmul(
        image.reshape(-1, channels),
        kernel.transpose(2, 0, 1, 3).reshape(channels, -1),
        preferred_element_type=jnp.float32,
    ).reshape(batch, height, width, side, side, features)
    margin = dilation * (side // 2)
    padded = jnp.pad(products, ((0, 0), (margin, margin), (margin, margin), (0, 0), (0, 0), (0, 0)))
    shifts = [
        padded[:, i * dilation : i * dilation + height, j * dilation : j * dilation + width, i, j]
        for i in range(side)
        for j in range(side)
    ]
    return sum(shifts[1:], start=shifts[0]).astype(image.dtype)


def convolve_in_pairs(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve` for few channels and features and an even width, two columns computed as one of twice the channels.

    A quarter more arithmetic for a 5x5 kernel, but a CPU's vectors are full: 8 -> 16 channels on a map of 88x32 with
    its gradients 1.8 -> 0.5 ms (two cores).
    """
    side, _, channels, features = kernel.shape
    batch, height, width, _ = image.shape
    reach = -(-(side // 2) // 2)  # pairs on either side
    before = 2 * reach - side // 2
    after = 2 * (2 * reach + 1) - before - side
    shifted = [jnp.pad(kernel, ((0, 0), (before + i, after - i), (0, 0), (0, 0))) for i in (0, 1)]
    of_pairs = jnp.stack(shifted, axis=3).reshape(side, -1, 2 * channels, 2 * features)
    pairs = image.reshape(batch, height, width // 2, 2 * channels)
    return convolve_directly(pairs, of_pairs).reshape(batch, height, width, features)
