"""What the ImageNet architectures share: how they see an image, and the convolution with batch norm."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdefect.model_config import InputNorm
from jaxdefect.models import convolution
from jaxdefect.models.depthwise import convolve_depthwise
from jaxdefect.models.doubled import convolve_doubled
from jaxdefect.models.few_channels import convolve_few, has_few_channels
from jaxdefect.models.layers import BatchNorm
from jaxdefect.models.pointwise import convolve_pointwise
from jaxdefect.models.xla import Sides, convolve_directly

# torchvision's normalisation of intensities in [0, 1]: red, green, blue.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
NORM_EPSILON = 1e-5  # torchvision's
NORM_MOMENTUM = 0.9  # torchvision's 0.1, as Flax counts it
# He et al. 2015, as torchvision initialises the convolutions of ResNet and MobileNetV2.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Padding = Literal["torch", "tensorflow"]
NORMALIZED = "normalized"  # what a fixed norm makes of the convolution, among the intermediates
_FEW_PIXELS = 16


def normalize_input(image: jax.Array, kind: InputNorm, *, is_pretrained: bool) -> jax.Array:
    """What the first convolution sees of an image [B, H, W, C] in [0, 1].

    Args:
      image: gray (C = 1) or colour (C = 3).
      kind: "none", "imagenet" or "symmetric" ([-1, 1]). For a gray image that stays gray, "imagenet" takes the means
        over its three channels.
      is_pretrained: the convolution has three channels of weights: a gray image is repeated.

    Returns:
      [B, H, W, C], or [B, H, W, 3] for a repeated gray image; float32.
    """
    image = image.astype(jnp.float32)
    if is_pretrained and image.shape[-1] == 1:
        image = jnp.repeat(image, 3, axis=-1)
    if kind == "symmetric":
        return 2 * image - 1
    if kind == "imagenet":
        mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
        if image.shape[-1] == 1:
            mean, deviation = mean.mean(keepdims=True), deviation.mean(keepdims=True)
        return (image - mean) / deviation
    return image


def convolve(image: jax.Array, kernel: jax.Array, *, stride: int, padding: Sides) -> jax.Array:
    """Convolution: image [B, H, W, I], kernel [k, k, I, O], padding of rows and of columns -> [B, h, w, O].

    XLA's CPU backend takes 0.4 s for a 3x3 kernel on a map of 2x2 with 512 channels, a matrix product 3 ms: on maps of
    few pixels it is one. Few channels are added up (`few_channels`).
    """
    directly = functools.partial(convolve_directly, stride=stride, padding=padding)
    (top, bottom), (left, right) = padding
    side, (height, width) = kernel.shape[0], image.shape[1:3]
    num_pixels = ((height + top + bottom - side) // stride + 1) * ((width + left + right - side) // stride + 1)
    if side == 1:
        return convolve_pointwise(image, kernel, stride=stride)
    if has_few_channels(image, kernel):
        return convolve_few(image, kernel, stride=stride, padding=padding)
    if num_pixels > _FEW_PIXELS:
        is_same = stride == 1 and all(margin == side // 2 for margin in (top, bottom, left, right))
        return convolution.convolve(image, kernel) if is_same else directly(image, kernel)
    by_product = functools.partial(convolve_by_product, stride=stride, padding=padding)
    return lax.platform_dependent(image, kernel, cpu=by_product, default=directly)


def convolve_by_product(image: jax.Array, kernel: jax.Array, *, stride: int, padding: Sides) -> jax.Array:
    """`convolve` as one matrix product with all that the kernel sees at each place side by side."""
    side, _, channels, features = kernel.shape
    padded = jnp.pad(image, ((0, 0), *padding, (0, 0)))
    last_row, last_column = padded.shape[1] - side, padded.shape[2] - side
    seen = jnp.concatenate(
        [
            padded[:, i : i + last_row + 1 : stride, j : j + last_column + 1 : stride]
            for i in range(side)
            for j in range(side)
        ],
        axis=-1,
    )
    flat = jnp.matmul(
        seen.reshape(-1, side * side * channels),
        kernel.reshape(-1, features),
        preferred_element_type=jnp.float32,
    )
    return flat.astype(image.dtype).reshape(*seen.shape[:3], features)


class ConvBatchNorm(nn.Module):
    """Convolution without bias, batch norm, activation: [B, H, W, I] -> [B, H/stride, W/stride, features].

    Called with `doubled` [B, H/2, W/2, D], its input are the features of that map, doubled, before those of `x`, which
    may then be None; for 3x3 kernels of stride 1.
    `padding` matters for strides above 1: "torch" pads half the kernel on every side, "tensorflow" as little as is
    needed, more of it below and to the right. `activation` None: none.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = "torch"
    is_depthwise: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    kernel_init: nn.initializers.Initializer = KERNEL_INIT
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | None, *, train: bool, doubled: jax.Array | None = None) -> jax.Array:
        num_doubled = 0 if doubled is None else doubled.shape[-1]
        num_inputs = num_doubled + (0 if x is None else 1 if self.is_depthwise else x.shape[-1])
        shape = (self.kernel, self.kernel, num_inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        is_fixed = not train and not self.is_initializing()
        if is_fixed:
            factor, shift = self._fixed_norm()
            # A GPU's convolutions add a bias for nothing, but they do not multiply.
            kernel = lax.platform_dependent(kernel, factor, cpu=lambda kernel, _: kernel, default=jnp.multiply)
        kernel = kernel.astype(self.dtype)
        parts = []
        if doubled is not None:
            parts.append(convolve_doubled(doubled.astype(self.dtype), kernel[:, :, :num_doubled]))
        if x is not None:
            parts.append(self._convolve(x.astype(self.dtype), kernel[:, :, num_doubled:]))
        convolved: jax.Array = sum(parts[1:], start=parts[0])
        if is_fixed:
            normalized = lax.platform_dependent(convolved, factor, shift, cpu=_scale_and_shift, default=_shift)
            self.sow("intermediates", NORMALIZED, normalized)  # for `pretrained.unfold_norms`
        else:
            norm = BatchNorm(NORM_EPSILON, NORM_MOMENTUM, self.dtype, name="norm")
            normalized = norm(convolved, train=train)
        return normalized if self.activation is None else self.activation(normalized)

    def _fixed_norm(self) -> tuple[jax.Array, jax.Array]:
        """What the batch norm multiplies by in inference and what it adds then, [features] each."""
        affine: Any = self.get_variable("params", "norm")
        moments: Any = self.get_variable("batch_stats", "norm")
        factor = affine["scale"] * lax.rsqrt(moments["var"] + NORM_EPSILON)
        return factor, affine["bias"] - moments["mean"] * factor

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        side, stride = self.kernel, self.stride
        if self.padding == "tensorflow":
            rows, columns = lax.padtype_to_pads(x.shape[1:3], (side, side), (stride, stride), "SAME")
        else:
            rows, columns = (side // 2, side // 2), (side // 2, side // 2)
        function = convolve_depthwise if self.is_depthwise else convolve
        return function(x, kernel, stride=stride, padding=(rows, columns))


def _scale_and_shift(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) * factor + shift).astype(x.dtype)


def _shift(x: jax.Array, _: jax.Array, shift: jax.Array) -> jax.Array:
    # In this type cuDNN adds it to its float32 sums; a cast before would be a program of its own.
    return x + shift.astype(x.dtype)
