"""Losses as pure functions: one value per image."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax


def segmentation_loss(
    logits: jax.Array, mask: jax.Array, *, weight: jax.Array, kind: Literal["bce", "mse"]
) -> jax.Array:
    """Weighted mean over the pixels of each image: [B].

    Args:
      logits: [B, h, w, 1].
      mask: [B, h, w, 1] in [0, 1].
      weight: [B, h, w, 1], a factor per pixel; the mean divides by the number of pixels, not by the weights' sum.
      kind: "bce": cross-entropy with the (soft) mask, Božič 2021; "mse": (sigmoid(logit) - mask)^2, Bi 2022, eq. 3.
    """
    if kind == "bce":
        pixels = optax.sigmoid_binary_cross_entropy(logits, mask)
    else:
        pixels = jnp.square(jax.nn.sigmoid(logits) - mask)
    return jnp.mean(weight * pixels, axis=(1, 2, 3))


def decision_loss(logit: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of the image's decision: logit [B], target [B] in [0, 1] -> [B]."""
    return optax.sigmoid_binary_cross_entropy(logit, target)
