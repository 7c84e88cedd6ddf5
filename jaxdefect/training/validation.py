"""Validation inside a training: image-level figures, and strips of image, annotation and map to look at."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from scipy import special

from jaxdefect import models, overlay
from jaxdefect.config import Config, LossConfig
from jaxdefect.data import pipeline
from jaxdefect.metrics import image as image_metrics
from jaxdefect.model_config import SegDecConfig
from jaxdefect.training.step import loss_terms, place
from jaxdefect.types import MAX_SEVERITY, Sample, Targets

_NUM_STRIPS = 4
_RANKING = ("average_precision", "roc_auc", "false_positives_at_full_recall")

Figures = dict[str, float | None]
Validate = Callable[[dict[str, Any]], tuple[Figures, list[np.ndarray]]]


def make_validation(
    module: nn.Module, config: Config, samples: Sequence[Sample], *, targets: Targets, mesh: Mesh
) -> Validate:
    """Builds `validate(variables) -> (figures, strips)` over `samples`.

    Figures: average_precision, roc_auc, false_positives_at_full_recall (None with one class only, or when a decision is
    not finite), and the mean of every loss that the model has (segmentation_loss over the images with masks, None
    without any); of a classifier also its accuracy. A decision network that is not trained (`loss.decision_weight` 0)
    says nothing: there the map's maximum ranks the images.
    Strips: [H, W', 3] uint8 of the first positives and negatives; none of a classifier.
    """
    batch_size = config.training.batch_size
    is_ranked_by_map = isinstance(config.model, SegDecConfig) and config.loss.decision_weight == 0

    forward = _compile_forward(module, config.loss)
    chosen = [sample.id for label in (1, 0) for sample in [s for s in samples if s.label == label][: _NUM_STRIPS // 2]]

    def validate(variables: dict[str, Any]) -> tuple[Figures, list[np.ndarray]]:
        rows: dict[str, list[np.ndarray]] = {}
        strips = {}
        batches = pipeline.evaluation_batches(samples, config.data, targets=targets, batch_size=batch_size)
        for batch in batches:
            count = len(batch["label"])
            padded = {key: pipeline.pad(value, batch_size) for key, value in batch.items()}
            outputs = jax.device_get(forward(variables, place(padded, mesh)))
            probability = outputs.pop("probability", None)
            if is_ranked_by_map:
                del outputs["decision"], outputs["decision_loss"]
                outputs["score"] = probability.max(axis=(1, 2))
            for key, value in outputs.items():
                rows.setdefault(key, []).append(value[:count])
            for key in ("label", "has_mask", *(("class_id",) if "class_id" in batch else ())):
                rows.setdefault(key, []).append(batch[key])
            for i in range(count):
                if probability is not None and batch["id"][i] in chosen:
                    annotation = batch["mask"][i, :, :, 0]
                    if config.data.target == "severity":
                        annotation = annotation / MAX_SEVERITY
                    strips[batch["id"][i]] = overlay.validation_strip(
                        batch["image"][i], annotation, probability[i], stride=config.model.alignment_stride
                    )
        joined = {key: np.concatenate(parts) for key, parts in rows.items()}
        return _figures(joined), [strips[id] for id in chosen if id in strips]

    return validate


@functools.lru_cache(maxsize=8)
def _compile_forward(module: nn.Module, config: LossConfig) -> Callable[..., dict[str, jax.Array]]:
    """Of variables and a batch: outputs and losses by image; compiled once for all members of an ensemble."""

    @jax.jit
    def forward(variables: dict[str, Any], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs = models.apply_inference(module.apply, variables, batch["image"])
        terms = loss_terms(outputs, batch, config=config)
        return {key: value for key, value in outputs.items() if key != "segmentation"} | terms

    return forward


def _figures(rows: dict[str, np.ndarray]) -> Figures:
    """The figures from what was computed for all images, [N] or [N, ...] each."""
    figures: Figures = dict.fromkeys(_RANKING)
    scores = _scores(rows)
    if np.isfinite(scores).all():
        metrics = image_metrics.image_metrics(rows["label"], scores, threshold=0.5)
        figures = {name: metrics[name] for name in _RANKING}
    has_mask = rows["has_mask"] > 0
    for name in ("segmentation_loss", "decision_loss", "class_loss"):
        if name in rows:
            values = rows[name][has_mask] if name == "segmentation_loss" else rows[name]
            figures[name] = float(np.mean(values)) if len(values) else None
    if "classes" in rows:
        figures["accuracy"] = float(np.mean(rows["classes"].argmax(axis=-1) == rows["class_id"]))
    return figures


def _scores(rows: dict[str, np.ndarray]) -> np.ndarray:
    """How probably each image is defective, [N] float64, so that confident scores keep their order."""
    if "score" in rows:
        return rows["score"].astype(np.float64)
    if "decision" in rows:
        return special.expit(rows["decision"].astype(np.float64))
    return 1.0 - special.softmax(rows["classes"].astype(np.float64), axis=-1)[:, 0]
