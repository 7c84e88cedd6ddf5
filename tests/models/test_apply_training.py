"""Training on a CPU turns tall images over: every architecture must give the same for it."""

import jax
import numpy as np
import pytest

from jaxdefect import model_config, models

CONFIGS = {
    "segdec": (model_config.SegDecConfig(), 1),
    "background_suppression": (model_config.BackgroundSuppressionConfig(), 1),
    "regression": (model_config.RegressionConfig(), 1),
    "unet_mobilenet_v2": (model_config.UNetMobileNetV2Config(), 3),
    "resnet": (model_config.ResNetConfig(depth=18), 3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tall_image_in_training_gives_what_the_module_gives(name):
    config, num_channels = CONFIGS[name]
    module = models.build(config)
    variables = models.init(module, num_channels=num_channels, seed=0)
    image = np.random.default_rng(0).random((2, 128, 64, num_channels), np.float32)
    run = jax.jit(lambda variables, image: models.apply_training(module, variables, image))
    assert f"tensor<2x64x128x{num_channels}xf32>" in run.lower(variables, image).as_text()
    outputs, batch_stats = run(variables, image)
    apply = jax.jit(lambda *arguments: module.apply(*arguments, train=True, mutable=["batch_stats"]))
    expected, updated = apply(variables, image)
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-3 * np.abs(values).max(), rtol=0)
    for ours, theirs in zip(jax.tree.leaves(batch_stats), jax.tree.leaves(updated), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 + 1e-4 * np.abs(theirs).max(), rtol=0)
