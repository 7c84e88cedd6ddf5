"""Validation inside a training: image-level figures, and strips of image, annotation and map to look at."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxdefect import losses, overlay
from jaxdefect.config import Config
from jaxdefect.data import pipeline
from jaxdefect.metrics import image as image_metrics
from jaxdefect.training.step import place
from jaxdefect.types import Sample

_NUM_STRIPS = 4
_RANKING = ("average_precision", "roc_auc", "false_positives_at_full_recall")

Validate = Callable[[dict[str, Any]], tuple[dict[str, float | None], list[np.ndarray]]]


def make_validation(module: nn.Module, config: Config, samples: Sequence[Sample], *, mesh: Mesh) -> Validate:
    """Builds `validate(variables) -> (figures, strips)` over `samples`.

    Figures: average_precision, roc_auc, false_positives_at_full_recall (None with one class only, or when a decision is
    not finite), segmentation_loss over the images with masks (None without any), decision_loss.
    Strips: [H, W', 3] uint8 of the first positives and negatives.
    """
    batch_size = config.training.batch_size

    @jax.jit
    def forward(variables: dict[str, Any], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs = cast(dict[str, jax.Array], module.apply(variables, batch["image"], train=False))
        segmentation = losses.segmentation_loss(
            outputs["segmentation"], batch["mask"], weight=batch["weight"], kind=config.loss.segmentation
        )
        decision = losses.decision_loss(outputs["decision"], batch["label"])
        return {**outputs, "segmentation_loss": segmentation, "decision_loss": decision}

    chosen = [sample.id for label in (1, 0) for sample in [s for s in samples if s.label == label][: _NUM_STRIPS // 2]]

    def validate(variables: dict[str, Any]) -> tuple[dict[str, float | None], list[np.ndarray]]:
        rows: dict[str, list[np.ndarray]] = {}
        strips = {}
        for batch in pipeline.evaluation_batches(samples, config.data, batch_size=batch_size):
            count = len(batch["label"])
            outputs = jax.device_get(forward(variables, place(_pad(batch, batch_size), mesh)))
            for key in ("decision", "segmentation_loss", "decision_loss"):
                rows.setdefault(key, []).append(outputs[key][:count])
            for key in ("label", "has_mask"):
                rows.setdefault(key, []).append(batch[key])
            for i in range(count):
                if batch["id"][i] in chosen:
                    probability = _sigmoid(outputs["segmentation"][i, :, :, 0])
                    strips[batch["id"][i]] = overlay.validation_strip(
                        batch["image"][i], batch["mask"][i, :, :, 0], probability
                    )
        joined = {key: np.concatenate(parts) for key, parts in rows.items()}
        has_mask = joined["has_mask"] > 0
        ranking: dict[str, float | None] = dict.fromkeys(_RANKING)
        if np.isfinite(joined["decision"]).all():
            metrics = image_metrics.image_metrics(joined["label"], _sigmoid(joined["decision"]), threshold=0.5)
            ranking = {name: metrics[name] for name in _RANKING}
        figures = {
            **ranking,
            "segmentation_loss": float(np.mean(joined["segmentation_loss"][has_mask])) if has_mask.any() else None,
            "decision_loss": float(np.mean(joined["decision_loss"])),
        }
        return figures, [strips[id] for id in chosen]

    return validate


def _pad(batch: Any, size: int) -> dict[str, Any]:
    """Repeats the last element up to `size`, so that every batch has the compiled shape."""
    return {
        key: np.concatenate([value, np.repeat(value[-1:], size - len(value), axis=0)]) for key, value in batch.items()
    }


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """In float64, so that confident scores keep their order."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))
