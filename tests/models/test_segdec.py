"""SegDecNet against published parameter counts and a float64 numpy network written from the papers' tables."""

from pathlib import Path

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import SegDecConfig, check_image_size
from jaxdefect.models import large_kernel, layers
from jaxdefect.models.convolution import convolve
from jaxdefect.types import InputError

PARAMETERS = Path(__file__).with_name("segdec_parameters.txt")
PAPER = SegDecConfig()
OFFICIAL = SegDecConfig(num_first_convs=1, norm="feature_official")
STEEL = SegDecConfig(kernels="atrous", attention=True)
TWO_STAGE = SegDecConfig(decision_input="relu", initializer="normal")
MODULES = {"paper": models.build(PAPER), "official": models.build(OFFICIAL), "steel": models.build(STEEL)}


def test_every_parameter_has_its_path_and_shape():
    assert PARAMETERS.read_text() == reference.describe(MODULES), (
        "parameters have moved: checkpoints of released versions no longer load. If that is meant, run "
        f"`python {Path(__file__).name}` in {Path(__file__).parent}"
    )


@pytest.mark.parametrize(("name", "count"), [("paper", 15_662_877), ("official", 15_637_213), ("steel", 926_841)])
def test_published_parameter_counts(name, count):
    assert reference.count(MODULES[name]) == count


def reference_attention(x: np.ndarray, parameters: dict) -> np.ndarray:
    squeeze, excite = parameters["squeeze"], parameters["excite"]
    hidden = np.maximum(x.mean((1, 2)) @ squeeze["kernel"] + squeeze["bias"], 0)
    return x / (1 + np.exp(-(hidden @ excite["kernel"] + excite["bias"])))[:, None, None, :]


def reference_network(x: np.ndarray, parameters: dict, config: SegDecConfig) -> tuple[np.ndarray, np.ndarray]:
    dilation, large_dilation = (2, 7) if config.kernels == "atrous" else (1, 1)
    segmentation, decision = parameters["segmentation"], parameters["decision"]

    def layer(x: np.ndarray, where: dict, dilation: int = 1) -> np.ndarray:
        return reference.feature_norm(reference.convolve(x, where["kernel"], dilation), where["norm"], config.norm)

    for number in range(1, 10):  # system 1 and 4 have all nine convolutions before the large one
        x = np.maximum(layer(x, segmentation[f"conv{number}"], dilation), 0)
        if config.attention and number >= 3:
            x = reference_attention(x, segmentation[f"attention{number}"])
        if number in (2, 5, 9):
            x = reference.max_pool(x)
    features = np.maximum(layer(x, segmentation["conv10"], large_dilation), 0)
    logit_map = layer(features, segmentation["logit"])
    seen = np.maximum(logit_map, 0) if config.decision_input == "relu" else logit_map
    x = np.concatenate([features, seen], axis=-1)
    for number in (1, 2, 3):
        x = np.maximum(layer(reference.max_pool(x), decision[f"conv{number}"], dilation), 0)
    pooled = np.concatenate([x.max((1, 2)), x.mean((1, 2)), seen.max((1, 2)), seen.mean((1, 2))], axis=-1)
    return logit_map, (pooled @ decision["head"]["kernel"] + decision["head"]["bias"])[:, 0]


@pytest.mark.parametrize("config", [TWO_STAGE, STEEL], ids=["two_stage", "steel"])
def test_network_matches_float64_reference(config):
    parameters = reference.draw(models.build(config))["params"]
    image = np.random.default_rng(1).uniform(0, 1, (2, 64, 72, 1)).astype(np.float32)
    outputs = jax.jit(models.build(config).apply)({"params": parameters}, image)
    logit_map, logit = reference_network(
        image.astype(np.float64), jax.tree.map(lambda x: x.astype(np.float64), parameters), config
    )
    assert outputs["segmentation"].shape == (2, 8, 9, 1)
    np.testing.assert_allclose(outputs["segmentation"], logit_map, atol=1e-4 * np.abs(logit_map).max())
    np.testing.assert_allclose(outputs["decision"], logit, atol=1e-4 * np.abs(logit).max())


@pytest.mark.parametrize(
    ("side", "dilation", "channels", "tile"),
    [
        (3, 1, 3, 0),
        (5, 1, 3, 0),
        (7, 1, 3, 0),
        (5, 1, 9, 0),
        (3, 2, 3, 0),
        (3, 7, 3, 0),
        (3, 1, 36, 0),
        (3, 2, 36, 0),
        (9, 1, 3, 0),
        (15, 1, 3, 0),
        (9, 1, 3, 12),
        (15, 1, 3, 24),
        (15, 1, 3, 42),
    ],
)
@pytest.mark.parametrize("width", [27, 28])
def test_convolve_and_its_gradients_match_a_loop(width, side, dilation, channels, tile):
    """One channel goes by sums, few in pairs of columns where their number is even, 36 by taps; side 9 by rows, 15 by
    the spectrum, both by given tiles."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, width, channels)), rng.normal(size=(side, side, channels, 4))
    cotangent = rng.normal(size=(2, 6, width, 4))

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        def with_spectrum(x: jax.Array, kernel: jax.Array) -> jax.Array:
            spectrum = large_kernel.spectrum(kernel, tile=tile) if tile else None
            return convolve(x, kernel, dilation=dilation, kernel_spectrum=spectrum)

        value, pull = jax.vjp(with_spectrum, x, kernel)
        return value, pull(cotangent)

    value, (gradient_x, gradient_kernel) = run(*(a.astype(np.float32) for a in (x, kernel, cotangent)))
    np.testing.assert_allclose(value, reference.convolve(x, kernel, dilation), atol=1e-4)
    # Each tap's weight gradient pairs what the tap sees with the cotangent; the image's is the flipped convolution.
    expected_kernel = np.empty_like(kernel)
    for i, j, patch in reference.taps(x, side, dilation):
        expected_kernel[i, j] = np.einsum("bhwi,bhwo->io", patch, cotangent)
    np.testing.assert_allclose(gradient_kernel, expected_kernel, atol=1e-4)
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(gradient_x, reference.convolve(cotangent, flipped, dilation), atol=1e-4)


def test_every_formulation_of_a_large_kernel_is_used_on_a_cpu():
    def program(side: int, height: int, width: int) -> str:
        arguments = jnp.zeros((1, height, width, 2)), jnp.zeros((side, side, 2, 2))
        return jax.jit(convolve).lower(*arguments).as_text()

    assert "stablehlo.convolution" not in program(3, 8, 8)  # a sum
    assert "stablehlo.convolution" in program(7, 8, 9)
    assert "tensor<7x5x4x4xf32>" in program(7, 8, 8)  # the kernel of pairs of columns
    few = jax.jit(convolve).lower(jnp.zeros((1, 8, 8, 36)), jnp.zeros((3, 3, 36, 4))).as_text()
    assert "stablehlo.convolution" not in few
    small, large = program(15, 8, 8), program(15, 44, 16)
    assert "stablehlo.convolution" not in small + large
    assert small.count("stablehlo.dot_general") == 15  # one a row
    assert large.count("stablehlo.dot_general") == 7  # two for each of three transforms, and the product


@pytest.mark.parametrize("kind", ["feature", "feature_official"])
def test_feature_norm_values_and_gradient(kind):
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(3, 2, (2, 4, 5, 3)), rng.normal(size=(2, 4, 5, 3))
    parameters = {"scale": rng.uniform(0.5, 1.5, 3), "bias": rng.normal(size=3)}
    norm = layers.FeatureNorm(is_official=kind == "feature_official")
    variables = {"params": jax.tree.map(jnp.float32, parameters)}

    @jax.jit
    def run(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, pull = jax.vjp(lambda x: norm.apply(variables, x), x)
        return value, pull(cotangent)[0]

    value, gradient = run(x.astype(np.float32), cotangent.astype(np.float32))
    np.testing.assert_allclose(value, reference.feature_norm(x, parameters, kind), atol=1e-5)
    numeric = np.empty_like(x)
    for at in np.ndindex(x.shape):  # central differences, float64
        step = np.zeros_like(x)
        step[at] = 1e-6
        ends = [(reference.feature_norm(x + sign * step, parameters, kind) * cotangent).sum() for sign in (1, -1)]
        numeric[at] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(gradient, numeric, atol=1e-4)
    # Channels without contrast: the bias, and no slope rather than NaN.
    flat, gradient = run(np.full(x.shape, 0.5, np.float32), np.ones(x.shape, np.float32))
    np.testing.assert_allclose(flat, np.broadcast_to(parameters["bias"], flat.shape), atol=1e-5)
    assert np.isfinite(gradient).all()


def test_squeeze_and_excitation_matches_float64_reference():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 32))
    module = layers.SqueezeExcitation(reduction=16)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.float32(x))
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) + 0.1, variables["params"])
    assert parameters["squeeze"]["kernel"].shape == (32, 2)
    actual = jax.jit(module.apply)({"params": jax.tree.map(jnp.float32, parameters)}, jnp.float32(x))
    np.testing.assert_allclose(actual, reference_attention(x, parameters), atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "nearest"), [(250, 1600, "248x1600"), (256, 1597, "256x1600"), (40, 70, "64x72")]
)
def test_invalid_sizes_name_the_nearest_valid_one(height, width, nearest):
    with pytest.raises(InputError, match=f"image size {height}x{width} .* nearest valid size is {nearest}"):
        models.build(STEEL).apply({}, jnp.zeros((1, height, width, 1)))
    check_image_size(*map(int, nearest.split("x")))


def decision_gradient(config: SegDecConfig) -> dict[str, np.ndarray]:
    """Largest gradient of the decision logit in each part of the network."""
    image = np.random.default_rng(0).uniform(size=(1, 64, 64, 1)).astype(np.float32)

    def decision(parameters: dict) -> jax.Array:
        return models.build(config).apply({"params": parameters}, image)["decision"].sum()

    gradients = jax.jit(jax.grad(decision))(reference.draw(models.build(config))["params"])
    return {part: max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[part])) for part in gradients}


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_stop_gradient_keeps_the_decision_out_of_the_segmentation(stop_gradient):
    gradient = decision_gradient(SegDecConfig(kernels="atrous", stop_gradient=stop_gradient))
    assert gradient["decision"] > 0
    assert (gradient["segmentation"] == 0) == stop_gradient


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_outputs():
    """At a size that leaves eight places for the last norm: of two it keeps the sign, which any rounding may turn."""
    image = np.random.default_rng(1).uniform(0, 1, (2, 128, 256, 1)).astype(np.float32)
    config = SegDecConfig(kernels="atrous", attention=True, dtype="bfloat16")
    assert {leaf.dtype for leaf in reference.shapes(models.build(config)).values()} == {np.dtype("float32")}
    variables = reference.draw(models.build(config))
    exact, rounded = (jax.jit(models.build(c).apply)(variables, image) for c in (STEEL, config))
    for name in ("segmentation", "decision"):
        assert rounded[name].dtype == jnp.float32
        error = np.abs(rounded[name] - exact[name]).max() / np.abs(exact[name]).max()
        assert 0 < error < 0.1, name  # 0 would mean that nothing was computed in bfloat16


def test_batch_norm_follows_the_batches_in_training_and_uses_its_averages_in_evaluation():
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (4, 6, 6, 3))
    module = layers.ConvNorm(features=5, kernel=3, norm="batch", is_logit=True)
    variables = module.init(jax.random.key(0), jnp.float32(x), train=True)
    before = reference.convolve(x, np.asarray(variables["params"]["kernel"], np.float64), 1)
    mean, variance = before.mean((0, 1, 2)), before.var((0, 1, 2))
    trained, updated = module.apply(variables, jnp.float32(x), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(trained, (before - mean) / np.sqrt(variance + 1e-3), atol=1e-4)
    average = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(average["mean"], 0.01 * mean, atol=1e-5)
    np.testing.assert_allclose(average["var"], 0.99 + 0.01 * variance, rtol=1e-4)
    evaluated = module.apply({**variables, **updated}, jnp.float32(x[:1]), train=False)
    expected = (before[:1] - average["mean"]) / np.sqrt(np.asarray(average["var"]) + 1e-3)
    np.testing.assert_allclose(evaluated, expected, atol=1e-4)


def test_batch_norm_is_an_option_of_the_whole_network():
    module = models.build(SegDecConfig(kernels="atrous", norm="batch"))
    variables = jax.eval_shape(lambda: models.init(module, num_channels=1, seed=0))
    assert variables["batch_stats"]["segmentation"].keys() == {*(f"conv{i}" for i in range(1, 11)), "logit"}
    assert variables["batch_stats"]["decision"].keys() == {"conv1", "conv2", "conv3"}


@pytest.mark.parametrize(("initializer", "deviation"), [("normal", 0.01), ("xavier_normal", (2 / (2 * 576)) ** 0.5)])
def test_initializers(initializer, deviation):
    module = models.build(SegDecConfig(kernels="atrous", initializer=initializer))
    parameters = jax.jit(lambda: models.init(module, num_channels=1, seed=0)["params"]["segmentation"]["conv4"])()
    assert float(parameters["kernel"].std()) == pytest.approx(deviation, rel=0.02)
    assert float(parameters["norm"]["scale"].min()) == 1
    assert not parameters["norm"]["bias"].any()


if __name__ == "__main__":
    PARAMETERS.write_text(reference.describe(MODULES))
