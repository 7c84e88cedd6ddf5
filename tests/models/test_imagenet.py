"""How the ImageNet architectures see an image, and their convolution with batch norm, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect.models.imagenet import ConvBatchNorm, convolve, convolve_by_product, normalize_input

IMAGE = np.random.default_rng(0).uniform(size=(2, 4, 6, 3)).astype(np.float32)


def test_input_norms():
    expected = (IMAGE.astype(np.float64) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalize_input(IMAGE, "imagenet", is_pretrained=False), expected, atol=1e-5)
    np.testing.assert_allclose(normalize_input(IMAGE, "symmetric", is_pretrained=False), 2 * IMAGE - 1, atol=1e-6)
    np.testing.assert_array_equal(normalize_input(IMAGE, "none", is_pretrained=True), IMAGE)


@pytest.mark.parametrize("kind", ["none", "imagenet", "symmetric"])
def test_gray_is_repeated_for_pretrained_weights_only(kind):
    gray = IMAGE[..., :1]
    repeated = normalize_input(np.repeat(gray, 3, axis=-1), kind, is_pretrained=True)
    np.testing.assert_allclose(normalize_input(gray, kind, is_pretrained=True), repeated, atol=1e-6)
    assert normalize_input(gray, kind, is_pretrained=False).shape == gray.shape
    if kind == "imagenet":
        plain = normalize_input(gray, kind, is_pretrained=False)
        np.testing.assert_allclose(plain, (gray - 0.449) / 0.226, atol=1e-5)


@pytest.mark.parametrize(("padding", "before"), [("torch", 1), ("tensorflow", 0)])
def test_strided_convolution_pads_as_named_and_norm_averages_as_torchvision(padding, before):
    module = ConvBatchNorm(5, stride=2, padding=padding, activation=None)
    variables = module.init(jax.random.key(0), IMAGE, train=True)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    padded = np.pad(IMAGE.astype(np.float64), ((0, 0), (before, 1), (before, 1), (0, 0)))
    expected = np.empty((2, 2, 3, 5))
    for row, column in np.ndindex(2, 3):
        window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected[:, row, column] = np.einsum("bijc,ijco->bo", window, kernel)
    np.testing.assert_allclose(module.apply(variables, IMAGE, train=False), expected / np.sqrt(1 + 1e-5), atol=1e-5)
    mean, variance = expected.mean((0, 1, 2)), expected.var((0, 1, 2))
    trained, updated = module.apply(variables, IMAGE, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(trained, (expected - mean) / np.sqrt(variance + 1e-5), atol=1e-4)
    average = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(average["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(average["var"], 0.9 + 0.1 * variance, rtol=1e-5)
    assert jnp.all(variables["params"]["norm"]["scale"] == 1)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_a_convolution_of_few_pixels_is_a_convolution(side, stride):
    rng = np.random.default_rng(1)
    image, kernel = rng.normal(size=(2, 4, 4, 3)), rng.normal(size=(side, side, 3, 5))
    half = side // 2
    padded = np.pad(image, ((0, 0), (half, half), (half, half), (0, 0)))
    count = (4 + 2 * half - side) // stride + 1
    expected = np.zeros((2, count, count, 5))
    for row, column in np.ndindex(count, count):
        seen = padded[:, row * stride : row * stride + side, column * stride : column * stride + side]
        expected[:, row, column] = np.einsum("bijc,ijco->bo", seen, kernel)
    settings = {"stride": stride, "padding": ((half, half), (half, half))}
    for function in (convolve, convolve_by_product):
        actual = function(jnp.asarray(image, jnp.float32), jnp.asarray(kernel, jnp.float32), **settings)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
