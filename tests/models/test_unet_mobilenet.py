"""The U-Net against its published parameter count and the contract; outputs: tests/interop/test_torchvision.py."""

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import UNetMobileNetV2Config
from jaxdefect.types import InputError


def test_published_parameter_count():
    module = models.build(UNetMobileNetV2Config())
    variables = jax.eval_shape(lambda: models.init(module, num_channels=3, seed=0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 6_628_945


def test_contract_at_full_size():
    """bfloat16 inside, float32 outside; the score is the map's maximum."""
    config = UNetMobileNetV2Config(dtype="bfloat16")
    module = models.build(config)
    variables = reference.draw_with_identity_norms(module, num_channels=1)
    image = np.random.default_rng(0).uniform(size=(2, 64, 96, 1)).astype(np.float32)
    outputs = jax.jit(module.apply)(variables, image)
    assert {name: (value.shape, value.dtype.name) for name, value in outputs.items()} == {
        "segmentation": ((2, 64, 96, 1), "float32"),
        "probability": ((2, 64, 96), "float32"),
        "decision": ((2,), "float32"),
    }
    logit = np.asarray(outputs["segmentation"], np.float64)[..., 0]
    np.testing.assert_allclose(outputs["probability"], 1 / (1 + np.exp(-logit)), atol=1e-6)
    np.testing.assert_allclose(outputs["decision"], logit.max((1, 2)), atol=1e-4)


def test_the_image_must_be_a_multiple_of_32():
    with pytest.raises(InputError, match="nearest valid size is 256x1248"):
        models.build(UNetMobileNetV2Config()).apply({}, jnp.zeros((1, 256, 1250, 3)))
