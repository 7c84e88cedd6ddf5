"""The regression of severity against the paper's tables and a float64 numpy network."""

import functools
from pathlib import Path

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import RegressionConfig
from jaxdefect.models import winograd
from jaxdefect.types import InputError

PARAMETERS = Path(__file__).with_name("regression_parameters.txt")
MODULE = models.build(RegressionConfig())
MODULES = {"default": MODULE}


def test_every_parameter_has_its_path_and_shape():
    assert PARAMETERS.read_text() == reference.describe(MODULES), (
        "parameters have moved: checkpoints of released versions no longer load. If that is meant, run "
        f"`python {Path(__file__).name}` in {Path(__file__).parent}"
    )


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("cell_px", [4, 2])
def test_parameter_count_and_shapes_follow_from_the_tables(num_channels, cell_px):
    total = 2 * num_channels  # batch norm of the input
    total += (25 * num_channels + 1) * 16 + (9 * 16 + 1) * 16  # table 1, with biases
    for inputs, narrow, wide in ((16, 8, 32), (32, 16, 64)):  # tables 2 and 3
        total += inputs * narrow + 25 * narrow * narrow + 25 * narrow * wide + inputs * wide
        total += wide * narrow + 25 * narrow * narrow + 25 * narrow * wide
        total += 2 * (inputs + narrow + narrow) + 2 * (wide + narrow + narrow)  # the norm before each convolution
    total += 2 * 64 + (9 * 64 + 1) * 512 + 513
    module = models.build(RegressionConfig(cell_px=cell_px))
    assert total == 383_763 + (num_channels - 1) * (25 * 16 + 2)
    assert reference.count(module, num_channels=num_channels) == total
    variables = jax.eval_shape(lambda: models.init(module, num_channels=num_channels, seed=0))
    outputs = jax.eval_shape(module.apply, variables, jnp.zeros((2, 256, 128, num_channels)))
    assert outputs["segmentation"].shape == (2, 256 // cell_px, 128 // cell_px, 1)
    assert outputs["probability"].shape == (2, 256 // cell_px, 128 // cell_px)
    assert outputs["decision"].shape == (2,)


def reference_pool(x: np.ndarray, stride: int) -> np.ndarray:
    """Mean of the pixels inside the image over 3x3; with an even size and stride 2, SAME pads below and right only."""
    batch, height, width, channels = x.shape
    result = np.empty((batch, height // stride, width // stride, channels))
    first = 0 if stride == 2 else -1
    for row, column in np.ndindex(result.shape[1:3]):
        top, left = row * stride + first, column * stride + first
        result[:, row, column] = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].mean((1, 2))
    return result


def reference_severity(x: np.ndarray, variables: dict, cell_px: int) -> np.ndarray:
    parameters, averages = variables["params"], variables["batch_stats"]

    def norm(x: np.ndarray, scale_and_bias: dict, average: dict) -> np.ndarray:
        normal = (x - average["mean"]) / np.sqrt(average["var"] + 1e-3)
        return scale_and_bias["scale"] * normal + scale_and_bias["bias"]

    def conv(x: np.ndarray, where: dict) -> np.ndarray:
        return reference.convolve(x, where["kernel"]) + where.get("bias", 0.0)

    x = norm(x, parameters["input_norm"], averages["input_norm"])
    x = reference_pool(reference.relu(conv(x, parameters["conv1"])), 2)
    x = reference_pool(reference.relu(conv(x, parameters["conv2"])), cell_px // 2)
    for stage in ("stage1", "stage2"):
        weights, average = parameters[stage], averages[stage]

        def activate(x: np.ndarray, number: int, weights: dict = weights, average: dict = average) -> np.ndarray:
            name = f"activation{number}"
            return reference.relu(norm(x, weights[name]["norm"], average[name]["norm"]))

        start = activate(x, 1)
        y = conv(start, weights["conv1"])
        y = conv(activate(y, 2), weights["conv2"])
        x = conv(activate(y, 3), weights["conv3"]) + conv(start, weights["conv4"])
        y = conv(activate(x, 5), weights["conv5"])
        y = conv(activate(y, 6), weights["conv6"])
        x = x + conv(activate(y, 7), weights["conv7"])
    x = reference.relu(norm(x, parameters["activation"]["norm"], averages["activation"]["norm"]))
    return conv(reference.relu(conv(x, parameters["conv3"])), parameters["severity"])


@pytest.mark.parametrize(
    ("cell_px", "num_channels", "score", "has_strips"), [(4, 1, "max", False), (2, 3, "mean", True)]
)
def test_network_matches_float64_reference(cell_px, num_channels, score, has_strips, monkeypatch):
    """With the last two layers strip by strip, too, as they are on larger maps."""
    if has_strips:
        monkeypatch.setattr(winograd, "_PLACES_PER_CHANNEL", 0)
    module = models.build(RegressionConfig(cell_px=cell_px, score=score))
    variables = reference.draw(module, num_channels=num_channels)
    variables["params"]["severity"]["bias"] += 6  # into the middle of the range
    image = np.random.default_rng(1).uniform(0, 1, (2, 64, 72, num_channels)).astype(np.float32)
    apply = jax.jit(module.apply)
    outputs = apply(variables, image)
    whole = f"tensor<2x{64 // cell_px}x{72 // cell_px}x512xf32>"
    assert (whole in apply.lower(variables, image).as_text()) == (not has_strips)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
    severity = reference_severity(image.astype(np.float64), exact, cell_px)
    np.testing.assert_allclose(outputs["segmentation"], severity, atol=1e-4 * np.abs(severity).max())
    probability = np.clip(severity[..., 0] / 12, 0, 1)
    np.testing.assert_allclose(outputs["probability"], probability, atol=1e-4)
    expected = probability.max((1, 2)) if score == "max" else probability.mean((1, 2))
    assert 0 < expected.min() < expected.max() < 1
    np.testing.assert_allclose(reference.sigmoid(np.asarray(outputs["decision"])), expected, rtol=1e-3)


def test_running_averages_move_in_training_only():
    variables = models.init(MODULE, num_channels=1, seed=0)
    image = np.random.default_rng(0).uniform(size=(2, 64, 64, 1)).astype(np.float32)
    before = variables["batch_stats"]
    apply = jax.jit(functools.partial(MODULE.apply, mutable=["batch_stats"]), static_argnames="train")
    _, after = apply(variables, image, train=True)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after["batch_stats"])
    assert all(jax.tree.leaves(moved))
    _, after = apply(variables, image, train=False)
    jax.tree.map(np.testing.assert_array_equal, before, after["batch_stats"])


def test_gradients_are_finite():
    reference.assert_gradients_are_finite(MODULE, num_channels=3)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_outputs():
    reference.assert_bfloat16_is_near_float32(models.build(RegressionConfig(dtype="bfloat16")), MODULE)


def test_size_is_checked():
    with pytest.raises(InputError, match=r"image size 66x64 .* multiples of 4 "):
        MODULE.apply({}, jnp.zeros((1, 66, 64, 1)))


if __name__ == "__main__":
    PARAMETERS.write_text(reference.describe(MODULES))
