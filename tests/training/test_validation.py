"""Validation inside a training, of what a network would give."""

import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect import models
from jaxdefect.training import step, validation
from jaxdefect.types import Targets

OUTPUTS = {
    "decision": np.array([5.0, -5.0], np.float32),
    "probability": np.array([0.1, 0.9], np.float32)[:, None, None] * np.ones((2, 8, 8), np.float32),
    "segmentation_loss": np.array([0.0, 0.5], np.float32),
    "decision_loss": np.array([5.0, 5.0], np.float32),
}
BATCH = {
    "id": np.array(["good", "defective"]),
    "image": np.zeros((2, 64, 64, 1), np.float32),
    "mask": np.zeros((2, 8, 8, 1), np.float32),
    "label": np.array([0.0, 1.0], np.float32),
    "has_mask": np.array([1.0, 1.0], np.float32),
}


@pytest.mark.parametrize(("weight", "average_precision"), [(1.0, 0.5), (0.0, 1.0)])
def test_a_decision_that_is_not_trained_does_not_rank_the_images(
    weight: float, average_precision: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_lib.from_dict(
        {
            "data": {"image_size": (64, 64)},
            "loss": {"balance": "none", "decision_weight": weight},
            "inference": {"decision": "logistic"},
            "training": {"batch_size": 2},
        }
    )
    monkeypatch.setattr(validation, "_compile_forward", lambda *_: lambda variables, batch: dict(OUTPUTS))
    monkeypatch.setattr(validation.pipeline, "evaluation_batches", lambda *_, **__: [BATCH])
    validate = validation.make_validation(
        models.build(config.model), config, [], targets=Targets(stride=8), mesh=step.device_mesh(2)
    )
    figures, _ = validate({})
    assert figures["average_precision"] == average_precision
    assert figures["segmentation_loss"] == 0.25
    assert ("decision_loss" in figures) == (weight > 0)
