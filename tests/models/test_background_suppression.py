"""The background-suppression detector against the paper's equations and a float64 numpy network."""

from pathlib import Path

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import BackgroundSuppressionConfig
from jaxdefect.models.background_suppression import suppress, suppressed_logit
from jaxdefect.types import InputError

PARAMETERS = Path(__file__).with_name("background_suppression_parameters.txt")
MODULE = models.build(BackgroundSuppressionConfig())
MODULES = {"default": MODULE}


def test_every_parameter_has_its_path_and_shape():
    assert PARAMETERS.read_text() == reference.describe(MODULES), (
        "parameters have moved: checkpoints of released versions no longer load. If that is meant, run "
        f"`python {Path(__file__).name}` in {Path(__file__).parent}"
    )


@pytest.mark.parametrize("num_channels", [1, 3])
def test_parameter_count_follows_from_the_layer_table(num_channels):
    def conv(side: int, inputs: int, outputs: int) -> int:
        return side * side * inputs * outputs + 2 * outputs  # scale and bias of the norm

    encoder = conv(5, num_channels, 32) + conv(5, 32, 32)
    encoder += conv(5, 32, 64) + 6 * conv(5, 64, 64) + conv(15, 64, 1024)
    decoder = 0
    for inputs, skip, outputs in ((1024, 64, 64), (64, 64, 64), (64, 32, 32)):
        transposed = 4 * inputs * outputs + outputs
        decoder += transposed + conv(5, outputs + skip, outputs) + conv(5, outputs, outputs) + (outputs + 1)
    assert encoder + decoder == 16_419_555 + (num_channels - 1) * 25 * 32
    assert reference.count(MODULE, num_channels=num_channels) == encoder + decoder


def reference_maps(x: np.ndarray, parameters: dict) -> list[np.ndarray]:
    """f1, f2, f3: the 1x1 convolutions after the upsampling, as the paper has it."""

    def layer(x: np.ndarray, where: dict) -> np.ndarray:
        return reference.relu(reference.feature_norm(reference.convolve(x, where["kernel"]), where["norm"]))

    height, width = x.shape[1:3]
    skips = []
    for numbers in ((1, 2), (3, 4, 5), (6, 7, 8, 9)):
        for number in numbers:
            x = layer(x, parameters["encoder"][f"conv{number}"])
        skips.append(x)
        x = reference.max_pool(x)
    x = layer(x, parameters["encoder"]["conv10"])
    maps = []
    for stage in (3, 2, 1):
        transposed, head = parameters[f"stage{stage}_transposed"], parameters[f"stage{stage}_logit"]
        x = reference.up_convolve(x, transposed["kernel"]) + transposed["bias"]
        x = np.concatenate([skips[stage - 1], x], axis=-1)
        for number in (1, 2):
            x = layer(x, parameters[f"stage{stage}_conv{number}"])
        large = reference.resize(x, height, width)
        maps.append((large @ head["kernel"][0, 0] + head["bias"])[..., 0])
    return maps[::-1]


def test_network_matches_float64_reference():
    variables = reference.draw(MODULE)
    image = np.random.default_rng(1).uniform(0, 1, (2, 64, 72, 1)).astype(np.float32)
    outputs = jax.jit(MODULE.apply)(variables, image)
    f1, f2, f3 = reference_maps(
        image.astype(np.float64), jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"])
    )
    expected = np.stack([f1, f2, f3], axis=-1)
    np.testing.assert_allclose(outputs["segmentation"], expected, atol=1e-3)
    fine = reference.sigmoid(f1 + f2 + f3) * reference.sigmoid(f1) ** 3
    np.testing.assert_allclose(outputs["probability"], fine, atol=1e-3)
    assert fine.std() > 0.05
    # The threshold sigma / (H W) on the score is the paper's sigma on the sum (equations 5 and 6).
    score = reference.sigmoid(np.asarray(outputs["decision"], np.float64))
    np.testing.assert_allclose(score * 64 * 72, fine.sum((1, 2)), rtol=1e-3)


@pytest.mark.parametrize("supervision", ["stages", "stages_coarse", "stages_fine"])
def test_supervision_adds_the_suppressed_map(supervision):
    module = models.build(BackgroundSuppressionConfig(supervision=supervision))
    image = np.random.default_rng(1).uniform(0, 1, (1, 64, 64, 1)).astype(np.float32)
    outputs = jax.jit(module.apply)(reference.draw(module), image)
    maps = np.asarray(outputs["segmentation"], np.float64)
    if supervision == "stages":
        assert maps.shape == (1, 64, 64, 3)
        return
    assert maps.shape == (1, 64, 64, 4)
    coarse = reference.sigmoid(maps[..., :3].sum(-1))
    expected = coarse if supervision == "stages_coarse" else coarse * reference.sigmoid(maps[..., 0]) ** 3
    np.testing.assert_allclose(reference.sigmoid(maps[..., 3]), expected, atol=1e-5)


def test_fine_suppression_and_its_logit_where_float64_is_exact():
    f1, coarse = np.meshgrid(np.linspace(-9, 9, 19), np.linspace(-20, 20, 41))
    fine = reference.sigmoid(coarse) * reference.sigmoid(f1) ** 3
    np.testing.assert_allclose(suppress(jnp.float32(f1), jnp.float32(coarse)), fine, rtol=1e-5)
    logit = suppressed_logit(jnp.float32(f1), jnp.float32(coarse))
    np.testing.assert_allclose(logit, np.log(fine) - np.log1p(-fine), rtol=1e-5, atol=1e-5)


def test_logit_of_fine_suppression_stays_finite_where_the_probability_is_0_or_1():
    f1, coarse = jnp.float32([100, 100, -100, -100, 1e4]), jnp.float32([100, -100, 100, -100, 1e4])
    value, pull = jax.vjp(suppressed_logit, f1, coarse)
    gradients = pull(jnp.ones_like(value))
    # Limits for large |x|: 1 - F -> exp(-c) + 3 exp(-f1), F -> exp(c), exp(3 f1), exp(c + 3 f1).
    np.testing.assert_allclose(value, [100 - np.log(4), -100, -300, -400, 1e4 - np.log(4)], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], [0.75, 0, 3, 3, 0.75], atol=1e-4)
    np.testing.assert_allclose(gradients[1], [0.25, 1, 0, 1, 0.25], atol=1e-4)


def test_gradients_are_finite():
    reference.assert_gradients_are_finite(models.build(BackgroundSuppressionConfig(supervision="stages_fine")))


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_outputs():
    module = models.build(BackgroundSuppressionConfig(dtype="bfloat16"))
    reference.assert_bfloat16_is_near_float32(module, MODULE)


def test_size_is_checked():
    with pytest.raises(InputError, match=r"image size 64x70 .* multiples of 8 .* 64x72"):
        MODULE.apply({}, jnp.zeros((1, 64, 70, 1)))


if __name__ == "__main__":
    PARAMETERS.write_text(reference.describe(MODULES))
