"""SegDecNet: a segmentation network at 1/8 resolution and a decision network on top of it.

Three published systems are options of this one module:
- Tabernik et al. 2019, two-stage: `decision_input="relu"`, `initializer="normal"`.
- Božič et al. 2021, joint: the defaults; the code they published: `num_first_convs=1, norm="feature_official"`.
- Bi et al. 2022, steel: `kernels="atrous", attention=True`.
Tabernik's comparison puts U-Net or DeepLabv3+ under the same decision network (`segmentation="unet"` or "deeplab"); of
the options above, those that shape SegDecNet's own segmentation network then have no effect.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import SegDecConfig, check_image_size
from jaxdefect.models.deeplab import DeepLabSegmentation
from jaxdefect.models.layers import ConvNorm, SqueezeExcitation, global_max, max_pool
from jaxdefect.models.precision import array_dtype, with_precision
from jaxdefect.models.unet import UNetSegmentation


def kernel_init(initializer: Literal["xavier_normal", "normal"]) -> nn.initializers.Initializer:
    """How kernels start: Glorot's normal distribution, or one with standard deviation 0.01 (Tabernik 2019)."""
    return nn.initializers.normal(0.01) if initializer == "normal" else nn.initializers.xavier_normal()


def _global_mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2))


class Encoder(nn.Module):
    """SegDecNet's segmentation network without its last 1x1 (Tabernik 2019, table 1), also of background suppression.

    Image [B, H, W, C] -> features [B, H/8, W/8, 1024], and what stands before each pooling: at H, H/2 and H/4.
    """

    config: SegDecConfig

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        config = self.config
        is_atrous, dtype, init = config.kernels == "atrous", array_dtype(config.dtype), kernel_init(config.initializer)
        kernel, dilation = (3, 2) if is_atrous else (5, 1)
        x = image.astype(dtype)
        number, skips = 0, []
        for features, num_convs in ((32, config.num_first_convs), (64, 3), (64, 4)):
            for _ in range(num_convs):
                number += 1
                x = ConvNorm(features, kernel, dilation, config.norm, init, dtype, name=f"conv{number}")(x, train=train)
                if config.attention and features == 64:
                    x = SqueezeExcitation(config.attention_reduction, dtype, name=f"attention{number}")(x)
            skips.append(x)
            x = max_pool(x)
        kernel, dilation = (3, 7) if is_atrous else (15, 1)
        x = ConvNorm(1024, kernel, dilation, config.norm, init, dtype, name=f"conv{number + 1}")(x, train=train)
        return x, skips


class Segmentation(nn.Module):
    """Image [B, H, W, C] -> features [B, H/8, W/8, 1024] and logit map [B, H/8, W/8, 1] (Tabernik 2019, table 1)."""

    config: SegDecConfig

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        nn.share_scope(self, self.encoder)  # its parameters stand beside the logit's, as in released checkpoints

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        config = self.config
        x, _ = self.encoder(image, train=train)
        dtype, init = array_dtype(config.dtype), kernel_init(config.initializer)
        # Its norm's bias is trained in the published code too, which meant to fix it at 0 (nn.Parameter undoes that).
        return x, ConvNorm(1, 1, 1, config.norm, init, dtype, is_logit=True, name="logit")(x, train=train)


class Decision(nn.Module):
    """Features and logit map of the segmentation network -> decision logit [B] (Tabernik 2019, section 3.2)."""

    config: SegDecConfig

    @nn.compact
    def __call__(self, features: jax.Array, logit_map: jax.Array, *, train: bool) -> jax.Array:
        config = self.config
        kernel, dilation = (3, 2) if config.kernels == "atrous" else (5, 1)
        dtype, init = array_dtype(config.dtype), kernel_init(config.initializer)
        if config.decision_input == "relu":
            logit_map = nn.relu(logit_map)
        x = jnp.concatenate([max_pool(features), max_pool(logit_map)], axis=-1)  # pooled first: a quarter of the copy
        for number, channels in enumerate((8, 16, 32), start=1):
            x = max_pool(x) if number > 1 else x
            x = ConvNorm(channels, kernel, dilation, config.norm, init, dtype, name=f"conv{number}")(x, train=train)
        x, logit_map = x.astype(jnp.float32), logit_map.astype(jnp.float32)
        pooled = [pool(y) for y in (x, logit_map) for pool in (global_max, _global_mean)]
        return nn.Dense(1, kernel_init=init, name="head")(jnp.concatenate(pooled, axis=-1))[:, 0]


class SegDec(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> the contract of `jaxdefect.models`, at 1/8 of its size.

    Raises:
      InputError: H or W is not a multiple of 8 (16 with "unet" or "deeplab"), or below 64.
    """

    config: SegDecConfig

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        check_image_size(image.shape[1], image.shape[2], step=self.config.size_step)
        features, logit_map = self._segmentation()(image, train=train)
        inputs = (features, logit_map)
        if self.config.stop_gradient:
            inputs = jax.lax.stop_gradient(inputs)
        decision = Decision(self.config, name="decision")(*inputs, train=train)
        logit_map = logit_map.astype(jnp.float32)
        return {"segmentation": logit_map, "probability": nn.sigmoid(logit_map[..., 0]), "decision": decision}

    def _segmentation(self) -> Segmentation | UNetSegmentation | DeepLabSegmentation:
        """The part under the decision network, always under the one name that training stages look for."""
        config, name = self.config, "segmentation"
        if config.segmentation == "segdec":
            return Segmentation(config, name=name)
        options = {
            "norm": config.norm,
            "kernel_init": kernel_init(config.initializer),
            "dtype": array_dtype(config.dtype),
        }
        part = {"unet": UNetSegmentation, "deeplab": DeepLabSegmentation}[config.segmentation]
        return part(**options, name=name)
