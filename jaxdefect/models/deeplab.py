"""DeepLabv3+ with Xception-65, output stride 16, as the segmentation part under SegDecNet's decision network.

Chen et al. 2018 (DeepLabv3+; the aligned Xception of its figure 4), as Tabernik 2019 compares it: a single scale,
output reduced to 1/8. It has 41,049,697 parameters for gray input and one class, and 41,117,276 with the decision
network: the 41.1 M of the paper's table 2, which counts the decision network of the paper's own system, too. (As
published, for colour and 21 classes, the network alone has 41,055,413.)

Ours, where neither paper says it: no dropout before the logit; the features at 1/4 are reduced to 1/8 by averaging
2x2, and the logit is made from those. One departure: the norm of image pooling. Its map has a single pixel, of which
"feature" norm would leave nothing, so there only the norm's scale and bias are applied.

Train it in float32 when it starts from random weights: with bfloat16 the rounding grows along more than 100 norms, from
1 % after the first block to as large as the logits themselves (measured on noise; on a smooth image sooner).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.models.depthwise import convolve_depthwise
from jaxdefect.models.imagenet import convolve
from jaxdefect.models.layers import Conv, ConvNorm, Norm, normalize
from jaxdefect.models.unet import block_mean

_MIDDLE_UNITS = 16
_ATROUS_RATES = (6, 12, 18)
# Glorot's variance with the nine taps of one channel as fan: initializers count the channels as fan, too.
_DEPTHWISE_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-2, batch_axis=(-1,))


class Options(NamedTuple):
    """What all convolutions of the network have in common."""

    norm: Norm = "batch"
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_normal()
    dtype: jax.typing.DTypeLike = jnp.float32


class SeparableConv(nn.Module):
    """3x3 depthwise convolution, norm, 1x1 convolution, norm; `is_activated`: ReLU after both norms."""

    features: int
    options: Options
    stride: int = 1
    dilation: int = 1
    is_activated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm, kernel_init, dtype = self.options
        kernel = self.param("depthwise", _DEPTHWISE_INIT, (3, 3, 1, x.shape[-1]))
        x = convolve_depthwise(x.astype(dtype), kernel.astype(dtype), stride=self.stride, dilation=self.dilation)
        x = normalize(x, norm=norm, train=train, name="depthwise_norm")
        if self.is_activated:
            x = nn.relu(x)
        is_logit = not self.is_activated
        return ConvNorm(self.features, 1, 1, norm, kernel_init, dtype, is_logit, name="pointwise")(x, train=train)


class StridedConv(nn.Module):
    """Convolution padded by kernel // 2 on every side, and norm: [B, H, W, I] -> [B, H/stride, W/stride, features]."""

    features: int
    kernel: int
    stride: int
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm, kernel_init, dtype = self.options
        kernel = self.param("kernel", kernel_init, (self.kernel, self.kernel, x.shape[-1], self.features))
        margin = (self.kernel // 2, self.kernel // 2)
        x = convolve(x.astype(dtype), kernel.astype(dtype), stride=self.stride, padding=(margin, margin))
        return normalize(x, norm=norm, train=train)


class XceptionBlock(nn.Module):
    """Three times (ReLU, separable convolution), the last with the stride, beside a 1x1 shortcut of the same stride.

    Returns the sum, and the output of the second separable convolution, which the decoder uses.
    """

    channels: tuple[int, int, int]
    stride: int
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        shortcut = StridedConv(self.channels[2], 1, self.stride, self.options, name="shortcut")(x, train=train)
        for number, features in enumerate(self.channels, start=1):
            second = x
            stride = self.stride if number == 3 else 1
            x = SeparableConv(features, self.options, stride, name=f"conv{number}")(nn.relu(x), train=train)
        return x + shortcut, second


class MiddleUnit(nn.Module):
    """A residual unit of the middle flow, which keeps shape and channels; with the signature that `nn.scan` wants."""

    options: Options
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        residual = x
        for number in (1, 2, 3):
            conv = SeparableConv(x.shape[-1], self.options, name=f"conv{number}")
            residual = conv(nn.relu(residual), train=self.train)
        return x + residual, None


class Xception(nn.Module):
    """Xception-65: image [B, H, W, C] -> features [B, H/16, W/16, 2048], low-level features [B, H/4, W/4, 256]."""

    options: Options

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        options = self.options
        x = nn.relu(StridedConv(32, 3, 2, options, name="stem1")(image, train=train))
        x = ConvNorm(64, 3, 1, *options, name="stem2")(x, train=train)
        x, _ = XceptionBlock((128, 128, 128), 2, options, name="entry1")(x, train=train)
        x, low_level = XceptionBlock((256, 256, 256), 2, options, name="entry2")(x, train=train)
        x, _ = XceptionBlock((728, 728, 728), 2, options, name="entry3")(x, train=train)
        # One compiled unit, its parameters stacked along a first axis of 16: sixteen copies would take as many times
        # longer to compile.
        middle = nn.scan(
            MiddleUnit,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=_MIDDLE_UNITS,
        )
        x, _ = middle(options, train, name="middle")(x, None)
        x, _ = XceptionBlock((728, 1024, 1024), 1, options, name="exit1")(x, train=train)
        for number, features in enumerate((1536, 1536, 2048), start=1):
            conv = SeparableConv(features, options, dilation=2, is_activated=True, name=f"exit2_conv{number}")
            x = conv(x, train=train)
        return x, low_level


class ImagePooling(nn.Module):
    """Global mean, 1x1 convolution, scale and bias (or batch norm), ReLU, the same everywhere: [B, h, w, C] -> 256."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm, kernel_init, dtype = self.options
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(dtype)
        kernel = self.param("kernel", kernel_init, (1, 1, x.shape[-1], 256))
        pooled = pooled @ kernel[0, 0].astype(dtype)
        if norm == "batch":
            pooled = normalize(pooled, norm=norm, train=train)
        else:
            scale = self.param("scale", nn.initializers.ones, (256,))
            bias = self.param("bias", nn.initializers.zeros, (256,))
            pooled = pooled * scale.astype(dtype) + bias.astype(dtype)
        pooled = nn.relu(pooled).astype(jnp.float32)  # so that the gradient is summed over all pixels in float32
        return jnp.broadcast_to(pooled, (*x.shape[:3], 256)).astype(dtype)


class DeepLabSegmentation(nn.Module):
    """Image [B, H, W, C] -> features [B, H/8, W/8, 256], logit map [B, H/8, W/8, 1]; H, W multiples of 16."""

    norm: Norm = "batch"
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_normal()
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        options = Options(self.norm, self.kernel_init, self.dtype)
        x, low_level = Xception(options, name="xception")(image.astype(self.dtype), train=train)
        branches = [
            ImagePooling(options, name="pooling")(x, train=train),
            ConvNorm(256, 1, 1, *options, name="atrous_1x1")(x, train=train),
        ]
        for rate in _ATROUS_RATES:
            branch = SeparableConv(256, options, dilation=rate, is_activated=True, name=f"atrous_rate{rate}")
            branches.append(branch(x, train=train))
        x = ConvNorm(256, 1, 1, *options, name="projection")(jnp.concatenate(branches, axis=-1), train=train)
        low_level = ConvNorm(48, 1, 1, *options, name="low_level")(low_level, train=train)
        x = jax.image.resize(x, (*low_level.shape[:3], 256), "bilinear")
        x = jnp.concatenate([x, low_level], axis=-1)
        for number in (1, 2):
            x = SeparableConv(256, options, is_activated=True, name=f"decoder_conv{number}")(x, train=train)
        features = block_mean(x, 2)
        # The convolution is linear: the logit of the averaged features is the average of the logits at 1/4.
        logit = Conv(1, 1, kernel_init=self.kernel_init, name="logit")(features.astype(jnp.float32))
        return features, logit
