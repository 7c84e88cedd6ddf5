"""Small convolutions with gradients of their own, against a loop over the taps in float64."""

import functools

import float64_reference as reference
import jax
import numpy as np
import pytest

from jaxdefect.models import winograd
from jaxdefect.models.convolution import convolve, convolve_then
from jaxdefect.models.xla import convolve_directly, dilated_kernel_gradient


@pytest.mark.parametrize(("side", "dilation"), [(3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize(
    ("height", "width", "features", "has_loop"), [(16, 6, 4, False), (16, 6, 80, False), (38, 32, 4, True)]
)
def test_gradients_match_a_loop(height, width, features, has_loop, side, dilation):
    """By XLA's own, by products of all shifts where there are many features, and by Winograd on larger maps.

    So goes the convolution itself on these, in inference at least.
    """
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, height, width, 35)), rng.normal(size=(side, side, 35, features))
    cotangent = rng.normal(size=(2, height, width, features))
    arrays = [array.astype(np.float32) for array in (x, kernel, cotangent)]

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        value, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, dilation=dilation), x, kernel)
        return value, pull(cotangent)

    program = run.lower(*arrays).as_text()
    assert ("stablehlo.while" in program) == has_loop
    assert ("stablehlo.dot_general" in program) == (has_loop or features == 80)
    value, (gradient_x, gradient_kernel) = run(*arrays)
    infer = jax.jit(lambda x, kernel: convolve(x, kernel, dilation=dilation))
    assert ("stablehlo.while" in infer.lower(*arrays[:2]).as_text()) == has_loop
    for result in (value, infer(*arrays[:2])):
        np.testing.assert_allclose(result, reference.convolve(x, kernel, dilation), atol=1e-3)
    expected = _kernel_gradient(x, cotangent, side, dilation)
    np.testing.assert_allclose(gradient_kernel, expected, atol=2e-5 * np.abs(expected).max())
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(gradient_x, reference.convolve(cotangent, flipped, dilation), atol=1e-3)


@pytest.mark.parametrize(("height", "has_loop"), [(38, True), (8, False)])
def test_what_follows_strip_by_strip_gives_what_it_gives_of_the_whole_map(height, has_loop):
    """A map of many features that is added up at once is never there; 38 and 30 are no multiples of a tile."""
    rng = np.random.default_rng(0)
    x, kernel, weights = rng.normal(size=(2, height, 30, 35)), rng.normal(size=(3, 3, 35, 80)), rng.normal(size=(80, 3))
    arrays = [array.astype(np.float32) for array in (x, kernel, weights)]

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, weights: jax.Array) -> jax.Array:
        return convolve_then(x, kernel, lambda x: jax.numpy.matmul(jax.nn.relu(x), weights))

    program = run.lower(*arrays).as_text()
    assert (f"tensor<2x{height}x30x80xf32>" in program) == (not has_loop)
    expected = np.maximum(reference.convolve(x, kernel), 0) @ weights
    np.testing.assert_allclose(run(*arrays), expected, atol=1e-4 * np.abs(expected).max())

    def gradients(arrays: list[np.ndarray], is_whole: bool) -> tuple[jax.Array, ...]:
        def loss(x: jax.Array, kernel: jax.Array, weights: jax.Array) -> jax.Array:
            whole = jax.numpy.matmul(jax.nn.relu(convolve_directly(x, kernel)), weights)
            return (whole if is_whole else run(x, kernel, weights)).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)

    for ours, wanted in zip(gradients(arrays, False), gradients(arrays, True), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("side", [3, 5, 15])
def test_bfloat16_is_computed_in_float32_and_rounded_once(side):
    """By strips, and large kernels by their spectrum, as float32 is: XLA's own takes up to twice as long."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(jax.numpy.bfloat16) for shape in ((1, 38, 32, 35), (side, side, 35, 4)))
    run = jax.jit(convolve)
    program = run.lower(x, kernel).as_text()
    assert "stablehlo.while" in program if side < 15 else "stablehlo.convolution" not in program
    result, expected = run(x, kernel), reference.convolve(*(array.astype(np.float64) for array in (x, kernel)))
    assert result.dtype == jax.numpy.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=2**-8, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("side", "dilation", "channels"), [(3, 2, 5), (5, 7, 5), (3, 2, 1)])
def test_an_accelerator_derives_dilated_kernels_without_dilation(side, dilation, channels):
    """From maps that are no multiples of the dilation, and with a kernel for each channel too."""
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, 19, 24, 5)), rng.normal(size=(2, 19, 24, 5))
    with jax.enable_x64(True):
        kernel = jax.numpy.zeros((side, side, channels, 5))
        gradient = dilated_kernel_gradient(x, kernel, jax.numpy.asarray(cotangent), dilation=dilation)
    expected = _kernel_gradient(x, cotangent, side, dilation)
    if channels == 1:
        expected = np.diagonal(expected, axis1=2, axis2=3)[:, :, None]
    np.testing.assert_allclose(gradient, expected, atol=1e-10)

    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (x.shape, (side, side, channels, 5))]
    traced = jax.jit(jax.grad(lambda x, k: convolve_directly(x, k, dilation=dilation).sum(), argnums=1)).trace(*shapes)
    of_map = f"stride = [{dilation}, {dilation}]"  # the derived form, for which cuDNN has no gradient
    assert of_map not in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert of_map in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_a_kernel_of_fewer_channels_needs_many_taps_and_features():
    """As measured: 5x5 with 16 -> 64 channels is faster by Winograd, 3x3 with 16 -> 16 and 8 -> 8 in pairs are not."""

    def has_loop(side: int, channels: int, features: int) -> bool:
        arrays = jax.ShapeDtypeStruct((4, 64, 64, channels), np.float32), np.zeros((side, side, channels, features))
        return "stablehlo.while" in jax.jit(convolve).lower(arrays[0], arrays[1].astype(np.float32)).as_text()

    assert [has_loop(5, 16, 64), has_loop(3, 16, 16), has_loop(5, 8, 8)] == [True, False, False]


@pytest.mark.parametrize("is_narrow", [True, False])
def test_narrow_vectors_take_many_features_forward_only(is_narrow, monkeypatch):
    monkeypatch.setattr(winograd.processor, "has_narrow_vectors", lambda: is_narrow)
    layer = functools.partial(winograd.is_worthwhile, (1, 176, 64, 64), side=3, features=1024, dilation=7)
    assert layer(is_forward=True) == is_narrow
    assert not layer()


@pytest.mark.parametrize("is_wide", [True, False])
def test_wide_vectors_leave_3x3_kernels_to_xla_where_it_uses_all_cores(is_wide, monkeypatch):
    """As measured by the time of both cores: rows of 256 with 32 -> 64 channels, or of 64 with 64, are one's alone."""
    monkeypatch.setattr(winograd.processor, "has_wide_vectors", lambda: is_wide)
    monkeypatch.setattr(winograd.processor, "has_narrow_vectors", lambda: False)
    shared = [((1, 1408, 512, 32), 32), ((1, 256, 704, 32), 32), ((1, 704, 256, 64), 64), ((1, 352, 128, 64), 64)]
    alone = [((1, 704, 256, 32), 64), ((1, 176, 64, 64), 64)]
    many_products = [((4, 64, 64, 64), 512)]  # which Winograd's filtering saves, on all cores

    def is_ours(shape: tuple[int, ...], features: int, *, side: int = 3, is_forward: bool = True) -> bool:
        return winograd.is_worthwhile(shape, side=side, features=features, dilation=1, is_forward=is_forward)

    assert [is_ours(*layer) for layer in shared] == [not is_wide] * 4
    assert all(is_ours(*layer) for layer in alone + many_products)
    assert all(is_ours(*layer, side=5) for layer in shared)
    assert all(is_ours(*layer, is_forward=False) for layer in shared)


@pytest.mark.parametrize("point_bytes", [1, 4_200, 11_200, 280_000])
def test_winograd_in_strips_of_rows_and_images(point_bytes, monkeypatch):
    """One row of tiles at a time, two rows, one image, all at once; 27 and 10 are no multiples of 8."""
    monkeypatch.setattr(winograd, "_POINT_BYTES", point_bytes)
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (rng.normal(size=shape) for shape in ((3, 27, 10, 16), (3, 3, 16, 8), (3, 27, 10, 8)))
    with jax.enable_x64(True):
        arrays = [jax.numpy.asarray(array) for array in (x, kernel, cotangent)]
        value = winograd.convolve(*arrays[:2], dilation=2)
        to_image, to_kernel = winograd.gradients(*arrays, dilation=2)
    np.testing.assert_allclose(value, reference.convolve(x, kernel, 2), atol=1e-11)
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(to_image, reference.convolve(cotangent, flipped, 2), atol=1e-11)
    np.testing.assert_allclose(to_kernel, _kernel_gradient(x, cotangent, 3, 2), atol=1e-10)


def test_winograd_holds_two_of_a_large_map():
    """The padded map and the result; what the map is made of is free by then."""

    def two_layers(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = convolve(x, kernel)
        return convolve(jax.nn.relu(x - x.mean(axis=(1, 2))), kernel).max()

    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, 1024, 512, 32), (3, 3, 32, 32))]
    plan = jax.jit(two_layers).lower(*shapes).compile().memory_analysis()
    assert plan.temp_size_in_bytes < 2.5 * 1024 * 512 * 32 * 4


def _kernel_gradient(x: np.ndarray, cotangent: np.ndarray, side: int, dilation: int) -> np.ndarray:
    taps = [np.einsum("bhwi,bhwo->io", patch, cotangent) for _, _, patch in reference.taps(x, side, dilation)]
    return np.stack(taps).reshape(side, side, x.shape[-1], cotangent.shape[-1])
