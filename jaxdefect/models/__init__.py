"""Linen modules, one file per architecture, behind one contract.

`module.apply(variables, image, train=...)` maps images [B, H, W, C] float32 in [0, 1] to a dict of float32 arrays.
A segmentation network gives
- "segmentation" [B, h, w, M]: M maps that the loss compares with one target; logits, or values for a regression;
- "probability" [B, h, w] in [0, 1]: the map to look at and to threshold;
- "decision" [B]: the logit of the image's score, of trained layers or a function of the map (`layers.score_logit`);
a classifier gives "classes" [B, N]: logits, class 0 being "good" in a detector.
`variables` holds "params" and, with batch norm, "batch_stats".
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.model_config import ModelConfig
from jaxdefect.models.background_suppression import BackgroundSuppression
from jaxdefect.models.mobilenet_v2 import MobileNetV2
from jaxdefect.models.regression import Regression
from jaxdefect.models.resnet import ResNet
from jaxdefect.models.segdec import SegDec
from jaxdefect.models.unet import UNet
from jaxdefect.models.unet_mobilenet import UNetMobileNetV2

ARCHITECTURES = {
    "segdec": SegDec,
    "background_suppression": BackgroundSuppression,
    "regression": Regression,
    "unet": UNet,
    "unet_mobilenet_v2": UNetMobileNetV2,
    "resnet": ResNet,
    "mobilenet_v2": MobileNetV2,
}


def build(config: ModelConfig) -> nn.Module:
    """The module that `config.architecture` names."""
    return ARCHITECTURES[config.architecture](config)


def init(module: nn.Module, *, num_channels: int, seed: int) -> dict[str, Any]:
    """Initial variables of a module, float32; independent of the image size."""
    return dict(jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 64, 64, num_channels))))
