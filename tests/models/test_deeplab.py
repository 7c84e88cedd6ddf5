"""DeepLabv3+ under SegDecNet's decision network against its published size and a float64 numpy network."""

import functools
from pathlib import Path

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import SegDecConfig
from jaxdefect.models import deeplab
from jaxdefect.types import InputError

PARAMETERS = Path(__file__).with_name("deeplab_parameters.txt")
MODULE = models.build(SegDecConfig(segmentation="deeplab"))
MODULES = {"under_decision": MODULE}


def test_every_parameter_has_its_path_and_shape():
    assert PARAMETERS.read_text() == reference.describe(MODULES), (
        "parameters have moved: checkpoints of released versions no longer load. If that is meant, run "
        f"`python {Path(__file__).name}` in {Path(__file__).parent}"
    )


def conv(side: int, inputs: int, outputs: int) -> int:
    return side * side * inputs * outputs + 2 * outputs  # scale and bias of the norm


def separable(inputs: int, *outputs: int) -> int:
    total = 0
    for channels in outputs:
        total += 9 * inputs + 2 * inputs + conv(1, inputs, channels)
        inputs = channels
    return total


def test_published_parameter_count():
    stem = conv(3, 1, 32) + conv(3, 32, 64)
    entry = separable(64, 128, 128, 128) + conv(1, 64, 128)
    entry += separable(128, 256, 256, 256) + conv(1, 128, 256)
    entry += separable(256, 728, 728, 728) + conv(1, 256, 728)
    middle = 16 * separable(728, 728, 728, 728)
    leave = separable(728, 728, 1024, 1024) + conv(1, 728, 1024) + separable(1024, 1536, 1536, 2048)
    pyramid = 2 * conv(1, 2048, 256) + 3 * separable(2048, 256) + conv(1, 5 * 256, 256)
    decoder = conv(1, 256, 48) + separable(256 + 48, 256, 256)
    total = stem + entry + middle + leave + pyramid + decoder + 257
    decision = 25 * (257 * 8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 66 + 1
    # Tabernik 2019, table 2: 41.1 M, which like the 15.7 M beside it includes the decision network.
    assert reference.count(MODULE) == total + decision == 41_117_276
    assert reference.count(MODULE, num_channels=3) == 41_117_276 + 2 * 9 * 32
    # The network as it was published, for colour and 21 classes, has 41.1 M without the decision network, too.
    assert round((total - 257 + 2 * 9 * 32 + 257 * 21) / 1e6, 1) == 41.1


def test_xception_has_65_convolutions():
    """Shortcuts do not count; a separable convolution is one."""
    paths = reference.shapes(MODULE)
    kernels = [path for path in paths if "/xception/" in path and path.endswith(("stem1/kernel", "stem2/kernel"))]
    separables = {path: leaf for path, leaf in paths.items() if "/xception/" in path and path.endswith("/depthwise")}
    assert len(kernels) + sum(leaf.shape[0] if leaf.ndim == 5 else 1 for leaf in separables.values()) == 65


def norm(x: np.ndarray, where: dict) -> np.ndarray:
    return reference.feature_norm(x, where["norm"])


def convolved(x: np.ndarray, where: dict, stride: int = 1) -> np.ndarray:
    return norm(reference.convolve(x, where["kernel"])[:, ::stride, ::stride], where)


def separated(x: np.ndarray, where: dict, *, stride: int = 1, dilation: int = 1, activation=lambda x: x) -> np.ndarray:
    x = reference.depthwise(x, where["depthwise"], dilation)[:, ::stride, ::stride]
    x = activation(reference.feature_norm(x, where["depthwise_norm"]))
    return activation(convolved(x, where["pointwise"]))


def reference_backbone(x: np.ndarray, parameters: dict) -> tuple[np.ndarray, np.ndarray]:
    x = reference.relu(convolved(x, parameters["stem1"], 2))
    x = reference.relu(convolved(x, parameters["stem2"]))
    low_level = x
    for name, stride in (("entry1", 2), ("entry2", 2), ("entry3", 2), ("middle", 1), ("exit1", 1)):
        where = parameters[name]
        if name == "middle":
            for unit in range(16):
                y = x
                for number in (1, 2, 3):
                    y = separated(reference.relu(y), jax.tree.map(lambda leaf: leaf[unit], where[f"conv{number}"]))  # noqa: B023
                x = x + y
            continue
        y = separated(reference.relu(x), where["conv1"])
        y = separated(reference.relu(y), where["conv2"])
        if name == "entry2":
            low_level = y
        x = separated(reference.relu(y), where["conv3"], stride=stride) + convolved(x, where["shortcut"], stride)
    for number in (1, 2, 3):
        x = separated(x, parameters[f"exit2_conv{number}"], dilation=2, activation=reference.relu)
    return x, low_level


def reference_segmentation(x: np.ndarray, parameters: dict) -> tuple[np.ndarray, np.ndarray]:
    x, low_level = reference_backbone(x, parameters["xception"])
    pooling = parameters["pooling"]
    pooled = reference.relu((x.mean((1, 2)) @ pooling["kernel"][0, 0]) * pooling["scale"] + pooling["bias"])
    branches = [np.broadcast_to(pooled[:, None, None], (*x.shape[:3], 256))]
    branches.append(reference.relu(convolved(x, parameters["atrous_1x1"])))
    for rate in (6, 12, 18):
        branches.append(separated(x, parameters[f"atrous_rate{rate}"], dilation=rate, activation=reference.relu))
    x = reference.relu(convolved(np.concatenate(branches, axis=-1), parameters["projection"]))
    low_level = reference.relu(convolved(low_level, parameters["low_level"]))
    x = np.concatenate([reference.resize(x, *low_level.shape[1:3]), low_level], axis=-1)
    for number in (1, 2):
        x = separated(x, parameters[f"decoder_conv{number}"], activation=reference.relu)
    logit = x @ parameters["logit"]["kernel"][0, 0] + parameters["logit"]["bias"]
    return reference.block_mean(x, 2), reference.block_mean(logit, 2)


def test_network_matches_float64_reference():
    variables = reference.draw(MODULE)
    image = np.random.default_rng(1).uniform(0, 1, (1, 96, 128, 1)).astype(np.float32)
    outputs = jax.jit(MODULE.apply)(variables, image)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"])
    features, logit = reference_segmentation(image.astype(np.float64), exact["segmentation"])
    assert logit.shape == (1, 12, 16, 1)
    np.testing.assert_allclose(outputs["segmentation"], logit, atol=1e-3 * np.abs(logit).max())
    np.testing.assert_allclose(outputs["probability"], reference.sigmoid(logit[..., 0]), atol=1e-3)
    decision = reference.decision(features, logit, exact["decision"])
    np.testing.assert_allclose(outputs["decision"], decision, atol=1e-2)


@pytest.mark.slow
def test_gradients_are_finite_and_reach_every_parameter():
    config = SegDecConfig(segmentation="deeplab", stop_gradient=False)
    reference.assert_gradients_are_finite(models.build(config))


def test_batch_norm_is_an_option_of_the_whole_network():
    module = models.build(SegDecConfig(segmentation="deeplab", norm="batch"))
    assert reference.count(module) == reference.count(MODULE)
    averages = reference.shapes(module, collection="batch_stats")
    assert averages["segmentation/pooling/norm/mean"].shape == (256,)
    assert averages["segmentation/xception/middle/conv1/depthwise_norm/mean"].shape == (16, 728)


def test_initial_depthwise_kernels_keep_the_variance_of_one_channel():
    conv = deeplab.SeparableConv(8, deeplab.Options("feature"))
    variables = jax.jit(functools.partial(conv.init, train=False))(jax.random.key(0), jnp.zeros((1, 4, 4, 2048)))
    assert float(variables["params"]["depthwise"].std()) == pytest.approx(1 / 3, rel=0.02)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_outputs():
    """Near in one block: over the whole depth at random weights the rounding grows until little is left."""
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 64)).astype(np.float32)
    blocks = [
        deeplab.XceptionBlock((128, 128, 128), 2, deeplab.Options("feature", dtype=jnp.dtype(dtype)))
        for dtype in ("float32", "bfloat16")
    ]
    variables = jax.jit(functools.partial(blocks[0].init, train=False))(jax.random.key(0), x)
    exact, rounded = (jax.jit(functools.partial(block.apply, train=False))(variables, x)[0] for block in blocks)
    assert rounded.dtype == jnp.bfloat16
    assert 0 < np.abs(rounded.astype(jnp.float32) - exact).mean() / np.abs(exact).mean() < 0.03

    module = models.build(SegDecConfig(segmentation="deeplab", dtype="bfloat16"))
    assert {leaf.dtype for leaf in reference.shapes(module).values()} == {np.dtype("float32")}
    variables = jax.eval_shape(lambda: models.init(module, num_channels=1, seed=0))
    outputs = jax.eval_shape(module.apply, variables, jnp.zeros((1, 64, 64, 1)))
    assert {leaf.dtype for leaf in outputs.values()} == {np.dtype("float32")}


def test_size_is_checked():
    with pytest.raises(InputError, match=r"image size 72x64 .* multiples of 16 "):
        MODULE.apply({}, jnp.zeros((1, 72, 64, 1)))


if __name__ == "__main__":
    PARAMETERS.write_text(reference.describe(MODULES))
