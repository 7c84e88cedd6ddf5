"""What a CPU does its own way, images transposed, a batch in parts or on two devices, gives the same."""

import os

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect import model_config, models
from jaxdefect.models import layers, segdec
from jaxdefect.models.convolution import convolve
from jaxdefect.models.xla import convolve_directly

SIZE = 128, 64
CONFIGS = {
    "segdec": (model_config.SegDecConfig(), 1, SIZE),
    # With kernels of a whole stack in one array. Its many layers magnify rounding, and the decision network normalises
    # maps of 1/64 of the image's size: over two pixels it would magnify that to two per cent.
    "deeplab": (model_config.SegDecConfig(segmentation="deeplab"), 1, (256, 128)),
    "background_suppression": (model_config.BackgroundSuppressionConfig(), 1, SIZE),
    "regression": (model_config.RegressionConfig(), 1, SIZE),
    "unet_mobilenet_v2": (model_config.UNetMobileNetV2Config(), 3, SIZE),
    "resnet": (model_config.ResNetConfig(depth=18), 3, SIZE),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tall_image_in_training_gives_what_the_module_gives(name):
    config, num_channels, (height, width) = CONFIGS[name]
    module = models.build(config)
    variables = models.init(module, num_channels=num_channels, seed=0)
    image = np.random.default_rng(0).random((2, height, width, num_channels), np.float32)
    run = jax.jit(lambda variables, image: models.apply_training(module, variables, image))
    assert f"tensor<2x{width}x{height}x{num_channels}xf32>" in run.lower(variables, image).as_text()
    outputs, batch_stats = run(variables, image)
    apply = jax.jit(lambda *arguments: module.apply(*arguments, train=True, mutable=["batch_stats"]))
    expected, updated = apply(variables, image)
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-3 * np.abs(values).max(), rtol=0)
    for ours, theirs in zip(jax.tree.leaves(batch_stats), jax.tree.leaves(updated), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 + 1e-4 * np.abs(theirs).max(), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("kernels", "size"), [("atrous", (192, 128)), ("large", (96, 192))])
def test_gradients_of_an_optimized_step_are_those_of_xlas_own_formulations(kernels, size, optimized, monkeypatch):
    """Every formula of ours is right by itself; XLA's optimisations, when they join them, must not break them."""
    module = models.build(model_config.SegDecConfig(kernels=kernels, num_first_convs=1, stop_gradient=False))
    variables, rng = models.init(module, num_channels=1, seed=0), np.random.default_rng(0)
    image = rng.random((1, *size, 1), np.float32)
    cotangent = rng.normal(size=(1, size[0] // 8, size[1] // 8, 1)).astype(np.float32)

    def gradients(options: dict[str, bool] | None = None) -> dict[str, jax.Array]:
        def loss(params: dict[str, jax.Array]) -> jax.Array:
            outputs, _ = models.apply_training(module, {"params": params}, image)
            return (outputs["segmentation"] * cotangent).sum() + 100 * outputs["decision"].sum()

        return jax.jit(jax.grad(loss), compiler_options=options)(variables["params"])

    ours = gradients(optimized)
    jax.config.update("jax_disable_most_optimizations", True)

    def convolve_simply(image: jax.Array, kernel: jax.Array, *, dilation: int = 1, **_: None) -> jax.Array:
        return convolve_directly(image, kernel, dilation=dilation)

    monkeypatch.setattr(segdec, "max_pool", lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    monkeypatch.setattr(layers, "convolve", convolve_simply)
    for gradient, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients()), strict=True):
        # Single pixels of a map may find the other side of a ReLU; what is wrong is wrong by a tenth and more.
        assert np.linalg.norm(gradient - expected) <= 0.02 * np.linalg.norm(expected) + 1e-6


def test_a_batch_in_parts_gives_what_it_gives_at_once(monkeypatch):
    module = models.build(model_config.SegDecConfig(kernels="atrous", num_first_convs=1))
    variables = models.init(module, num_channels=1, seed=0)
    images = np.random.default_rng(0).random((6, 64, 96, 1), np.float32)
    expected = jax.jit(lambda *arguments: module.apply(*arguments, train=False))(variables, images)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    for pixels, size in ((1, 1), (4 * 64 * 96, 3)):  # 4 does not divide 6
        monkeypatch.setattr(models, "_PART_PIXELS", pixels)
        run = jax.jit(lambda *arguments: models.apply_inference(module.apply, *arguments))
        assert f"tensor<{size}x64x96x32xf32>" in run.lower(variables, images).as_text()
        outputs = run(variables, images)
        assert outputs.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(outputs[name], values, atol=1e-4 * np.abs(values).max(), rtol=0)


@pytest.mark.parametrize(
    ("size", "is_wide", "is_transposed"),
    [((272, 64), True, True), ((272, 64), False, False), ((64, 272), True, False), ((64, 96), True, False)],
)
def test_inference_turns_images_over_whose_rows_fall_unevenly_on_the_cores(size, is_wide, is_transposed, monkeypatch):
    monkeypatch.setattr(models.processor, "has_wide_vectors", lambda: is_wide)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    module = models.build(model_config.SegDecConfig(kernels="atrous", num_first_convs=1))
    variables = models.init(module, num_channels=1, seed=0)
    image = np.random.default_rng(0).random((2, *size, 1), np.float32)
    expected = jax.jit(lambda *arguments: module.apply(*arguments, train=False))(variables, image)
    run = jax.jit(lambda *arguments: models.apply_inference(module.apply, *arguments))
    height, width = reversed(size) if is_transposed else size
    assert f"tensor<2x{height}x{width}x32xf32>" in run.lower(variables, image).as_text()
    outputs = run(variables, image)
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-3 * np.abs(values).max(), rtol=0)


@pytest.mark.parametrize(
    ("side", "channels", "features", "operation"),
    [(3, 1, 8, "multiply"), (5, 8, 8, "convolution"), (3, 36, 4, "dot_general"), (3, 36, 16, "while")],
    ids=["sum", "pairs", "taps", "winograd"],
)
def test_two_devices_convolve_as_one(side, channels, features, operation):
    """Each its half of the batch, and the kernel's gradient is the sum of both; by every way for small kernels."""
    rng = np.random.default_rng(0)
    shapes = (4, 40, 32, channels), (side, side, channels, features), (4, 40, 32, features)
    image, kernel, cotangent = (rng.normal(size=shape).astype(np.float32) for shape in shapes)

    @jax.jit
    def run(image, kernel, cotangent):
        value, pull = jax.vjp(convolve, image, kernel)
        return value, *pull(cotangent)

    assert f"stablehlo.{operation}" in jax.jit(convolve).lower(image, kernel).as_text()
    expected = run(image, kernel, cotangent)
    mesh = Mesh(jax.local_devices(), ("batch",))
    halves, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["batch"], []))
    placed = (jax.device_put(array, where) for array, where in ((image, halves), (kernel, whole), (cotangent, halves)))
    for found, wanted in zip(run(*placed), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max(), rtol=0)
