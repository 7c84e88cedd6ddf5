"""The 24-convolution U-Net against its published size and a float64 numpy network, alone and under SegDecNet."""

from pathlib import Path

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import SegDecConfig, UNetConfig
from jaxdefect.types import InputError

PARAMETERS = Path(__file__).with_name("unet_parameters.txt")
FEATURE = UNetConfig(norm="feature")
UNDER_DECISION = SegDecConfig(segmentation="unet")
MODULES = {"alone": models.build(UNetConfig()), "under_decision": models.build(UNDER_DECISION)}


def test_every_parameter_has_its_path_and_shape():
    assert PARAMETERS.read_text() == reference.describe(MODULES), (
        "parameters have moved: checkpoints of released versions no longer load. If that is meant, run "
        f"`python {Path(__file__).name}` in {Path(__file__).parent}"
    )


def layer_table(num_channels: int = 1) -> list[tuple[int, int, int]]:
    """(kernel side, input channels, output channels) of every convolution."""
    layers, inputs = [], num_channels
    for channels in (64, 128, 256, 512, 1024):
        layers += [(3, inputs, channels), (3, channels, channels)]
        inputs = channels
    for channels in (512, 256, 128, 64):
        layers += [(2, 2 * channels, channels), (3, 2 * channels, channels), (3, channels, channels)]
    return [*layers, (3, 64, 2), (1, 2, 1)]


def test_published_parameter_count_from_24_convolutions():
    layers = layer_table()
    assert len(layers) == 24
    total = sum(side * side * inputs * outputs + 2 * outputs for side, inputs, outputs in layers)
    decision = 25 * (65 * 8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 66 + 1
    assert reference.count(MODULES["alone"]) == total == 31_038_536
    # Tabernik 2019, table 2: 31.1 M, which like the 15.7 M beside it includes the decision network.
    assert reference.count(MODULES["under_decision"]) == total + decision == 31_067_715


def test_each_of_the_24_convolutions_has_a_batch_norm():
    paths = reference.shapes(MODULES["alone"], collection="batch_stats")
    assert sum(path.endswith("norm/mean") for path in paths) == 24


def test_alone_and_under_decision_the_segmentation_is_the_same():
    def described(name: str) -> dict[str, tuple[int, ...]]:
        return {path: leaf.shape for path, leaf in reference.shapes(MODULES[name]).items() if "segmentation/" in path}

    assert described("alone") == described("under_decision")


def reference_segmentation(x: np.ndarray, parameters: dict) -> tuple[np.ndarray, np.ndarray]:
    """Features and logit map at full resolution."""

    def layer(x: np.ndarray, name: str) -> np.ndarray:
        return reference.feature_norm(reference.convolve(x, parameters[name]["kernel"]), parameters[name]["norm"])

    def twice(x: np.ndarray, name: str) -> np.ndarray:
        return reference.relu(layer(reference.relu(layer(x, f"{name}_conv1")), f"{name}_conv2"))

    skips = []
    for level in (1, 2, 3, 4):
        x = twice(x, f"down{level}")
        skips.append(x)
        x = reference.max_pool(x)
    x = twice(x, "bottom")
    for level in (4, 3, 2, 1):
        transposed = parameters[f"up{level}_transposed"]
        x = reference.feature_norm(reference.up_convolve(x, transposed["kernel"]), transposed["norm"])
        x = twice(np.concatenate([skips[level - 1], reference.relu(x)], axis=-1), f"up{level}")
    return x, layer(reference.relu(layer(x, "classes")), "logit")


def test_network_matches_float64_reference_at_both_resolutions():
    full = models.build(FEATURE)
    variables = reference.draw(full)
    image = np.random.default_rng(1).uniform(0, 1, (1, 64, 80, 1)).astype(np.float32)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"]["segmentation"])
    _, logit = reference_segmentation(image.astype(np.float64), exact)
    outputs = jax.jit(full.apply)(variables, image)
    np.testing.assert_allclose(outputs["segmentation"], logit, atol=1e-3)
    probability = reference.sigmoid(logit[..., 0])
    np.testing.assert_allclose(outputs["probability"], probability, atol=1e-3)
    score = reference.sigmoid(np.asarray(outputs["decision"]))
    np.testing.assert_allclose(score, probability.mean((1, 2)), rtol=1e-3)
    eighth = models.build(UNetConfig(norm="feature", resolution="eighth"))
    outputs = jax.jit(eighth.apply)(variables, image)
    np.testing.assert_allclose(outputs["segmentation"], reference.block_mean(logit, 8), atol=1e-3)
    assert outputs["probability"].shape == (1, 8, 10)


def test_under_the_decision_network_the_outputs_are_at_an_eighth():
    module = MODULES["under_decision"]
    variables = reference.draw(module)
    image = np.random.default_rng(1).uniform(0, 1, (1, 64, 64, 1)).astype(np.float32)
    outputs = jax.jit(module.apply)(variables, image)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"]["segmentation"])
    features, logit = reference_segmentation(image.astype(np.float64), exact)
    features, logit = reference.block_mean(features, 8), reference.block_mean(logit, 8)
    np.testing.assert_allclose(outputs["segmentation"], logit, atol=1e-3)
    decision = reference.decision(features, logit, variables["params"]["decision"])
    np.testing.assert_allclose(outputs["decision"], decision, atol=1e-2)


def test_gradients_are_finite():
    reference.assert_gradients_are_finite(models.build(UNetConfig(resolution="eighth")))


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_outputs():
    rounded = models.build(UNetConfig(norm="feature", dtype="bfloat16"))
    reference.assert_bfloat16_is_near_float32(rounded, models.build(FEATURE))


@pytest.mark.parametrize("name", MODULES)
def test_size_is_checked(name):
    with pytest.raises(InputError, match=r"image size 72x64 .* multiples of 16 "):
        MODULES[name].apply({}, jnp.zeros((1, 72, 64, 1)))


if __name__ == "__main__":
    PARAMETERS.write_text(reference.describe(MODULES))
