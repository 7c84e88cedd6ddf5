"""One-stage detector with dual background suppression (Sensors 2020, 20, 1829): an encoder-decoder, nothing to decide.

The encoder is SegDecNet's. Ours, where the paper is silent: the transposed convolutions are 2x2 with a bias and no
norm; the 1x1 convolutions have a bias and no norm, as a normalised map of a good image could not be low everywhere.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import BackgroundSuppressionConfig, SegDecConfig, check_image_size
from jaxdefect.models.layers import Conv, ConvNorm, score_logit
from jaxdefect.models.precision import array_dtype, with_precision
from jaxdefect.models.segdec import Encoder, kernel_init
from jaxdefect.models.unet import UpConvolution


def suppress(f1: jax.Array, coarse: jax.Array) -> jax.Array:
    """Fine suppression F = sigmoid(coarse) * sigmoid(f1)^3, any shape (equation 4)."""
    return nn.sigmoid(coarse) * nn.sigmoid(f1) ** 3


def suppressed_logit(f1: jax.Array, coarse: jax.Array) -> jax.Array:
    """The logit of `suppress`, without cancellation: any shape, finite with finite gradients for finite inputs.

    The odds against F are (1 + u)(1 + v)^3 - 1 with u = exp(-coarse), v = exp(-f1): a sum of positive terms once
    multiplied out, of which this is minus the logarithm.
    """
    f1_terms = jnp.stack([jnp.log(3.0) - f1, jnp.log(3.0) - 2.0 * f1, -3.0 * f1])
    terms = jnp.concatenate([-coarse[None], f1_terms, f1_terms - coarse])
    return -jax.nn.logsumexp(terms, axis=0)


class BackgroundSuppression(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> the contract of `jaxdefect.models`, at its size.

    "segmentation": f1, f2, f3 (from the finest stage), each under its own loss (deep supervision); with
    `supervision="stages_coarse"` also f1 + f2 + f3, with "stages_fine" also the logit of F.
    "probability": F. "decision": of the mean of F, which is the paper's sum G over H * W (equation 5).

    Raises:
      InputError: H or W is not a multiple of 8, or below 64.
    """

    config: BackgroundSuppressionConfig

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        config, (batch, height, width, _) = self.config, image.shape
        check_image_size(height, width, step=config.size_step)
        dtype, init = array_dtype(config.dtype), kernel_init(config.initializer)
        encoder = SegDecConfig(norm=config.norm, initializer=config.initializer, dtype=config.dtype)
        x, skips = Encoder(encoder, name="encoder")(image, train=train)
        maps = []
        for level, features in zip((3, 2, 1), config.decoder_channels, strict=True):
            up = UpConvolution(features, None, init, dtype, name=f"stage{level}_transposed")
            x = jnp.concatenate([skips[level - 1], up(x, train=train)], axis=-1)
            for number in (1, 2):
                conv = ConvNorm(features, 5, 1, config.norm, init, dtype, name=f"stage{level}_conv{number}")
                x = conv(x, train=train)
            # Before the upsampling, where it costs less: a 1x1 convolution and an interpolation commute.
            logit = Conv(1, 1, kernel_init=init, name=f"stage{level}_logit")(x.astype(jnp.float32))
            maps.append(jax.image.resize(logit[..., 0], (batch, height, width), "bilinear"))
        f3, f2, f1 = maps
        coarse = f1 + f2 + f3
        supervised = [f1, f2, f3]
        if config.supervision == "stages_coarse":
            supervised.append(coarse)
        elif config.supervision == "stages_fine":
            supervised.append(suppressed_logit(f1, coarse))
        probability = suppress(f1, coarse)
        decision = score_logit(probability, config.score, logit=suppressed_logit(f1, coarse))
        return {"segmentation": jnp.stack(supervised, axis=-1), "probability": probability, "decision": decision}
