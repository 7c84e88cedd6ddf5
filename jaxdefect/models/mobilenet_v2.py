"""MobileNetV2 at width 1.0 (Sandler et al. 2018), as torchvision has it: a classifier, and an encoder for a U-Net."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import MobileNetV2Config, check_image_size
from jaxdefect.models.imagenet import ConvBatchNorm, Padding, normalize_input
from jaxdefect.models.precision import array_dtype, with_precision

# Table 2 of the paper: expansion t, channels c, repetitions n, stride s of the first.
_SEQUENCES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
BLOCKS = tuple(  # expansion, channels, stride
    (expansion, channels, stride if i == 0 else 1)
    for expansion, channels, repetitions, stride in _SEQUENCES
    for i in range(repetitions)
)
NUM_FEATURES = 1280
_SKIPS = (1, 3, 6, 13)  # the last block at each of 1/2, 1/4, 1/8, 1/16


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection: [B, H, W, I] -> [B, H/stride, W/stride, features].

    Around it a shortcut where the shapes agree; without expansion (factor 1) it starts at the depthwise convolution.
    """

    expansion: int
    features: int
    stride: int
    padding: Padding
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shortcut, hidden = x, self.expansion * x.shape[-1]
        if self.expansion > 1:
            x = ConvBatchNorm(hidden, kernel=1, activation=nn.relu6, dtype=self.dtype, name="expand")(x, train=train)
        x = ConvBatchNorm(
            hidden,
            stride=self.stride,
            padding=self.padding,
            is_depthwise=True,
            activation=nn.relu6,
            dtype=self.dtype,
            name="depthwise",
        )(x, train=train)
        x = ConvBatchNorm(self.features, kernel=1, activation=None, dtype=self.dtype, name="project")(x, train=train)
        return x + shortcut if x.shape == shortcut.shape else x


class Encoder(nn.Module):
    """Normalised image [B, H, W, C] -> its features at 1/2, 1/4, 1/8, 1/16, 1/32: 16, 24, 32, 96, 1280 channels."""

    padding: Padding
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
        x = ConvBatchNorm(32, stride=2, padding=self.padding, activation=nn.relu6, dtype=self.dtype, name="stem")(
            x, train=train
        )
        skips = []
        for number, (expansion, features, stride) in enumerate(BLOCKS, start=1):
            x = InvertedResidual(expansion, features, stride, self.padding, self.dtype, name=f"block{number}")(
                x, train=train
            )
            if number in _SKIPS:
                skips.append(x)
        x = ConvBatchNorm(NUM_FEATURES, kernel=1, activation=nn.relu6, dtype=self.dtype, name="last")(x, train=train)
        return (*skips, x)


class MobileNetV2(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> {"classes": logits [B, config.num_classes] float32}.

    Without the dropout before the last layer: the models of this library draw no random numbers.

    Raises:
      InputError: H or W is not a multiple of 32, or below 64.
    """

    config: MobileNetV2Config

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        config = self.config
        check_image_size(image.shape[1], image.shape[2], step=config.size_step)
        x = normalize_input(image, config.input_norm, is_pretrained=bool(config.pretrained))
        *_, x = Encoder(config.padding, array_dtype(config.dtype), name="encoder")(x, train=train)
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        head = nn.Dense(config.num_classes, kernel_init=nn.initializers.normal(0.01), name="head")
        return {"classes": head(pooled)}
