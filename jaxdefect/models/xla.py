"""XLA's own convolution, when a CPU shares it among its cores, and what keeps XLA there from computing too early."""

import functools
import os

import jax
import jax.numpy as jnp
from jax import lax

Sides = tuple[tuple[int, int], tuple[int, int]]  # before and after, of rows and of columns


def convolve_directly(
    image: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1, padding: Sides | None = None
) -> jax.Array:
    """Convolution as XLA does it: [B, H, W, I], kernel [k, k, I, O] -> [B, h, w, O].

    A kernel [k, k, 1, I] is depthwise. `padding` None: half the (dilated) kernel on every side.
    """
    rows, columns = (side // 2 * dilation for side in kernel.shape[:2])
    halves = (rows, rows), (columns, columns)
    padding = halves if padding is None else padding
    is_odd = all(side % 2 == 1 for side in kernel.shape[:2])
    if dilation > 1 and stride == 1 and padding == halves and is_odd:
        return _convolve_dilated(image, kernel, dilation)
    return _convolve(image, kernel, stride, dilation, padding)


def _convolve(image: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: Sides) -> jax.Array:
    return lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=image.shape[-1] // kernel.shape[2],
    )


def _same(image: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    rows, columns = (side // 2 * dilation for side in kernel.shape[:2])
    return _convolve(image, kernel, 1, dilation, ((rows, rows), (columns, columns)))


_convolve_dilated = jax.custom_vjp(_same, nondiff_argnums=(2,))


def _backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, kernel = residuals
    (to_image,) = jax.vjp(lambda image: _same(image, kernel, dilation), image)[1](cotangent)

    def derived(image: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: _same(image, kernel, dilation), kernel)[1](cotangent)[0]

    ours = functools.partial(dilated_kernel_gradient, dilation=dilation)
    return to_image, lax.platform_dependent(image, kernel, cotangent, cpu=derived, default=ours)


_convolve_dilated.defvjp(lambda image, kernel, dilation: (_same(image, kernel, dilation), (image, kernel)), _backward)


def dilated_kernel_gradient(image: jax.Array, kernel: jax.Array, cotangent: jax.Array, *, dilation: int) -> jax.Array:
    """The kernel's gradient of a dilated convolution, by that of one without dilation: shape and type of the kernel.

    cuDNN has one for gradients, but XLA does not see it in the derived form: it is a convolution with strides whose
    kernel is the whole map. Places that lie `dilation` apart become a map of their own (space to batch).

    Args:
      image: [B, H, W, I].
      kernel: [k, k, I, O], odd k.
      cotangent: [B, H, W, O].
      dilation: of the kernel.
    """

    def parted(maps: jax.Array) -> jax.Array:
        batch, height, width, channels = maps.shape
        rows, columns = -(-height // dilation), -(-width // dilation)
        edges = ((0, 0), (0, rows * dilation - height), (0, columns * dilation - width), (0, 0))
        maps = jnp.pad(maps, edges).reshape(batch, rows, dilation, columns, dilation, channels)
        return maps.transpose(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels)

    maps = parted(image)
    return jax.vjp(lambda kernel: _same(maps, kernel, 1), kernel)[1](parted(cotangent))[0]


def uses_all_cores(width: int, features: int, products: int) -> bool:
    """Whether XLA's CPU backend computes a convolution on several cores.

    Args:
      width: of the result.
      features: of the result.
      products: of one value, the kernel's taps times the channels.
    """
    return _places_of_a_part(width, features, products) < width


def busiest_share(width: int) -> float:
    """What the busiest core has of the 3x3 convolutions of the largest maps, with 32 channels; as `uses_all_cores`."""
    part, num_cores = _places_of_a_part(width, features=32, products=9 * 32), len(os.sched_getaffinity(0))
    places = [min(part, width - start) for start in range(0, width, part)]
    return max(sum(places[core::num_cores]) for core in range(num_cores)) / width


def _places_of_a_part(width: int, features: int, products: int) -> int:
    """Cores share the parts of a row, not the rows; a part is doubled until it is work enough, and may be a whole row.

    The constants are YNNPACK's, by which XLA convolves (JAX 0.10), and were confirmed by the processor's time of 13
    layers.
    """
    part, least = 16, min(width, 64) * min(features, 64)
    while part < width and (part * features < least or (part + features) * min(products, 1024) < 2**16):
        part *= 2
    return part


def wait_for(other: jax.Array, value: jax.Array) -> jax.Array:
    """The value, to be used once another array is there, of any shape; not on accelerators, which need no help.

    XLA makes what needs no other array as early as it can and keeps it: for gradients copies of the image, in the
    forward pass already. It ignores barriers, but does not see that nothing is above infinity. A training step of the
    steel detector at 704x256 has 187 MiB of temporaries instead of 309. For a GPU its plan is as good without, and
    devices that share a batch would wait for each other.
    """

    def waiting(other: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where(other.ravel()[0] > jnp.inf, jnp.ones((), value.dtype), value)

    return lax.platform_dependent(other, value, cpu=waiting, default=lambda other, value: value)
