"""U-Net with a MobileNetV2 encoder, one binary network per defect type (the reed-straw system)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import UNetMobileNetV2Config, check_image_size
from jaxdefect.models.imagenet import ConvBatchNorm, normalize_input
from jaxdefect.models.layers import Conv, score_logit
from jaxdefect.models.mobilenet_v2 import Encoder
from jaxdefect.models.precision import array_dtype, with_precision

_CHANNELS = (256, 128, 64, 32, 16)  # of the decoder's blocks, from 1/16 of the image's size up to all of it
_KERNEL_INIT = nn.initializers.he_uniform()  # segmentation_models.pytorch's, of the decoder


class DecoderBlock(nn.Module):
    """Nearest-neighbour doubling, the encoder's features of that size beside it, two 3x3 convolutions.

    [B, h, w, I] and [B, 2h, 2w, S] (or None, at the image's own size) -> [B, 2h, 2w, features].
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None, *, train: bool) -> jax.Array:
        conv1, conv2 = (
            ConvBatchNorm(self.features, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=name)
            for name in ("conv1", "conv2")
        )
        return conv2(conv1(skip, doubled=x, train=train), train=train)


class UNetMobileNetV2(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> the segmentation contract of `jaxdefect.models` at the image's own size.

    The network of segmentation_models.pytorch's `Unet("mobilenet_v2")`. No layer is trained for the decision: the
    score is that of the probability map (`config.score`).

    Raises:
      InputError: H or W is not a multiple of 32, or below 64.
    """

    config: UNetMobileNetV2Config

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        config = self.config
        check_image_size(image.shape[1], image.shape[2], step=config.size_step)
        dtype = array_dtype(config.dtype)
        x = normalize_input(image, config.input_norm, is_pretrained=bool(config.pretrained))
        *skips, x = Encoder(config.padding, dtype, name="encoder")(x, train=train)
        for number, (features, skip) in enumerate(zip(_CHANNELS, [*reversed(skips), None], strict=True), start=1):
            x = DecoderBlock(features, dtype, name=f"decoder{number}")(x, skip, train=train)
        head = Conv(1, 3, kernel_init=nn.initializers.xavier_uniform(), dtype=dtype, name="head")
        logit_map = head(x).astype(jnp.float32)
        probability = nn.sigmoid(logit_map[..., 0])
        return {
            "segmentation": logit_map,
            "probability": probability,
            "decision": score_logit(probability, config.score, logit=logit_map[..., 0]),
        }
