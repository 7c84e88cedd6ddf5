"""Losses as pure functions: one value per image."""

import jax
import jax.numpy as jnp
import optax

from jaxdefect.config import LossConfig


def segmentation_loss(outputs: jax.Array, mask: jax.Array, *, weight: jax.Array, config: LossConfig) -> jax.Array:
    """Weighted mean over the pixels of each image, summed over the maps that a network is trained on: [B].

    Args:
      outputs: [B, h, w, M]; logits, or with "l2" the values themselves. M is 1 but for deep supervision, where every
        map is compared with the one target.
      mask: [B, h, w, 1]: in [0, 1], or with "l2" the target values.
      weight: [B, h, w, 1], a factor per pixel; the mean divides by the number of pixels, not by the weights' sum.
      config: `segmentation`: "bce": cross-entropy with the (soft) mask y, its defect part times `positive_weight`
        (Božič 2021 with 1); "mse": (sigmoid(logit) - y)^2 (Bi 2022, eq. 3); "l2": (value - y)^2 (He & Liu 2020).
    """
    if config.segmentation == "bce":
        positive, negative = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
        pixels = -config.positive_weight * mask * positive - (1.0 - mask) * negative
    elif config.segmentation == "mse":
        pixels = jnp.square(jax.nn.sigmoid(outputs) - mask)
    else:
        pixels = jnp.square(outputs - mask)
    return jnp.sum(jnp.mean(weight * pixels, axis=(1, 2)), axis=-1)


def decision_loss(logit: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of the image's decision: logit [B], target [B] in [0, 1] -> [B]."""
    return optax.sigmoid_binary_cross_entropy(logit, target)


def class_loss(logits: jax.Array, class_id: jax.Array) -> jax.Array:
    """Cross-entropy of a classifier: logits [B, N], class_id [B] in 0..N-1 -> [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, class_id)
