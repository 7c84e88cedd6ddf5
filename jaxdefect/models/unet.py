"""U-Net with 24 normalised convolutions: alone with a parameter-free decision, or under SegDecNet's decision network.

Tabernik 2019 (section 4.3) says: Ronneberger's U-Net, 24 convolutional layers, batch norm after each, output reduced by
8, 31.1 M parameters. Ronneberger's own has 23: ten 3x3 down to 1024 channels at 1/16, eight 3x3 and four 2x2 transposed
on the way up, one 1x1 of two classes. The widespread one-class version has 24: a 3x3 to the two maps, then a 1x1 to the
logit; that is the plan here. With 3x3 padded SAME it has 31,038,536 parameters for gray input, and 31,067,715 with the
decision network (of which the paper's table counts those of its own network, too): the published 31.1 M.

Ours, as the paper does not say it: the output is reduced to 1/8 by averaging the last maps over 8x8 pixels. This adds
no layer, so the weights are the same at both resolutions, and it is the network's counterpart of the averaged mask.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import UNetConfig, check_image_size
from jaxdefect.models.layers import ConvNorm, Norm, add_bias, max_pool, normalize, score_logit
from jaxdefect.models.precision import array_dtype, with_precision

_CHANNELS = (64, 128, 256, 512)  # at full resolution, 1/2, 1/4, 1/8
_BOTTOM_CHANNELS = 1024  # at 1/16


def block_mean(x: jax.Array, side: int) -> jax.Array:
    """Means over side x side blocks, summed in float32: [B, H, W, C] -> [B, H/side, W/side, C]."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // side, side, width // side, side, channels)
    return jnp.mean(blocks, axis=(2, 4), dtype=jnp.float32).astype(x.dtype)


class UpConvolution(nn.Module):
    """2x2 transposed convolution with stride 2: [B, H, W, I] -> [B, 2 H, 2 W, features].

    Then norm and ReLU, or with `norm=None` a bias and nothing else.
    """

    features: int
    norm: Norm | None
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_normal()
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (2, 2, channels, self.features))
        # With kernel and stride alike no two taps meet: every pixel becomes a 2x2 block, by one matrix product.
        blocks = jnp.einsum("bhwi,uvio->bhuwvo", x.astype(self.dtype), kernel.astype(self.dtype))
        x = blocks.reshape(batch, 2 * height, 2 * width, self.features)
        if self.norm is None:
            return add_bias(x, self.param("bias", nn.initializers.zeros, (self.features,)))
        return nn.relu(normalize(x, norm=self.norm, train=train))


class UNetSegmentation(nn.Module):
    """Image [B, H, W, C] -> features [B, h, w, 64] and logit map [B, h, w, 1], h = H or H/8; H, W multiples of 16."""

    resolution: Literal["full", "eighth"] = "eighth"
    norm: Norm = "batch"
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_normal()
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        x = image.astype(self.dtype)
        skips = []
        for level, features in enumerate(_CHANNELS, start=1):
            x = self._convolve_twice(x, features, f"down{level}", train=train)
            skips.append(x)
            x = max_pool(x)
        x = self._convolve_twice(x, _BOTTOM_CHANNELS, "bottom", train=train)
        for level, features in reversed(list(enumerate(_CHANNELS, start=1))):
            up = UpConvolution(features, self.norm, self.kernel_init, self.dtype, name=f"up{level}_transposed")
            x = jnp.concatenate([skips.pop(), up(x, train=train)], axis=-1)
            x = self._convolve_twice(x, features, f"up{level}", train=train)
        classes = self._conv(2, 3, "classes")(x, train=train)
        logit = self._conv(1, 1, "logit", is_logit=True)(classes, train=train)
        return (block_mean(x, 8), block_mean(logit, 8)) if self.resolution == "eighth" else (x, logit)

    def _convolve_twice(self, x: jax.Array, features: int, name: str, *, train: bool) -> jax.Array:
        x = self._conv(features, 3, f"{name}_conv1")(x, train=train)
        return self._conv(features, 3, f"{name}_conv2")(x, train=train)

    def _conv(self, features: int, kernel: int, name: str, *, is_logit: bool = False) -> ConvNorm:
        return ConvNorm(features, kernel, 1, self.norm, self.kernel_init, self.dtype, is_logit, name=name)


class UNet(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> the contract of `jaxdefect.models`, at its size or 1/8 of it.

    The decision is the mean (or maximum) of the probability map: the baseline of the background-suppression paper.
    The segmentation's parameters have the same paths as in `SegDec` with `segmentation="unet"`.

    Raises:
      InputError: H or W is not a multiple of 16, or below 64.
    """

    config: UNetConfig

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        config = self.config
        check_image_size(image.shape[1], image.shape[2], step=config.size_step)
        part = UNetSegmentation(config.resolution, config.norm, dtype=array_dtype(config.dtype), name="segmentation")
        _, logit_map = part(image, train=train)
        logit_map = logit_map.astype(jnp.float32)
        probability = nn.sigmoid(logit_map[..., 0])
        decision = score_logit(probability, config.score, logit=logit_map[..., 0])
        return {"segmentation": logit_map, "probability": probability, "decision": decision}
