"""Linen modules, one file per architecture, behind one contract.

`module.apply(variables, image, train=...)` maps images [B, H, W, C] float32 in [0, 1] to a dict with "segmentation"
(logit map [B, h, w, 1]) and "decision" (logit [B]). `variables` holds "params" and, with batch norm, "batch_stats".
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdefect.config import SegDecConfig
from jaxdefect.models.segdec import SegDec

ARCHITECTURES = {"segdec": SegDec}


def build(config: SegDecConfig) -> nn.Module:
    """The module that `config.architecture` names."""
    return ARCHITECTURES[config.architecture](config)


def init(module: nn.Module, *, num_channels: int, seed: int) -> dict[str, Any]:
    """Initial variables of a module, float32; independent of the image size."""
    return dict(jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 64, 64, num_channels))))
