"""ResNet v1 (He et al. 2016), the classifier of the fourth stage of deep regression, as torchvision has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import ResNetConfig, check_image_size
from jaxdefect.models.imagenet import ConvBatchNorm, normalize_input
from jaxdefect.models.precision import array_dtype, with_precision

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_FIRST_BOTTLENECK_DEPTH = 50


def is_bottleneck(depth: int) -> bool:
    """Whether a network of this depth is made of blocks of three convolutions rather than two."""
    return depth >= _FIRST_BOTTLENECK_DEPTH


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, around a shortcut: [B, H, W, I] -> [B, h, w, O].

    O is `features`, for a bottleneck four times that. The stride is on the (first) 3x3 convolution.
    """

    features: int
    stride: int
    is_bottleneck: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features, stride = self.features, self.stride
        if self.is_bottleneck:
            convolutions = ((features, 1, 1), (features, 3, stride), (4 * features, 1, 1))
        else:
            convolutions = ((features, 3, stride), (features, 3, 1))
        shortcut = x
        for number, (outputs, kernel, step) in enumerate(convolutions, start=1):
            activation = nn.relu if number < len(convolutions) else None
            x = ConvBatchNorm(outputs, kernel, step, activation=activation, dtype=self.dtype, name=f"conv{number}")(
                x, train=train
            )
        if shortcut.shape != x.shape:
            shortcut = ConvBatchNorm(
                x.shape[-1], kernel=1, stride=stride, activation=None, dtype=self.dtype, name="shortcut"
            )(shortcut, train=train)
        return nn.relu(x + shortcut)


class ResNet(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> {"classes": logits [B, config.num_classes] float32}.

    Raises:
      InputError: H or W is not a multiple of 32, or below 64.
    """

    config: ResNetConfig

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        config = self.config
        check_image_size(image.shape[1], image.shape[2], step=config.size_step)
        dtype = array_dtype(config.dtype)
        x = normalize_input(image, config.input_norm, is_pretrained=bool(config.pretrained))
        x = ConvBatchNorm(64, kernel=7, stride=2, dtype=dtype, name="stem")(x, train=train)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        for stage, num_blocks in enumerate(STAGES[config.depth], start=1):
            for block in range(1, num_blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = Block(
                    features=32 * 2**stage,
                    stride=stride,
                    is_bottleneck=is_bottleneck(config.depth),
                    dtype=dtype,
                    name=f"stage{stage}_block{block}",
                )(x, train=train)
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        head_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        return {"classes": nn.Dense(config.num_classes, kernel_init=head_init, name="head")(pooled)}
