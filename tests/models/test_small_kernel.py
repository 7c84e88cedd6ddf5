"""Small convolutions with a kernel gradient of their own, against a loop over the taps in float64."""

import float64_reference as reference
import jax
import numpy as np
import pytest

from jaxdefect.models.convolution import convolve


@pytest.mark.parametrize(("side", "dilation"), [(3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("features", [4, 80])
def test_gradients_match_a_loop(features, side, dilation):
    """80 features take the product of all shifts at once; 19 rows do not divide into strips of equal height."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 19, 6, 35)), rng.normal(size=(side, side, 35, features))
    cotangent = rng.normal(size=(2, 19, 6, features))
    arrays = [array.astype(np.float32) for array in (x, kernel, cotangent)]

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        value, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, dilation=dilation), x, kernel)
        return value, pull(cotangent)

    assert run.lower(*arrays).as_text().count("stablehlo.dot_general") == (4 if features == 4 else 1)
    value, (gradient_x, gradient_kernel) = run(*arrays)
    np.testing.assert_allclose(value, reference.convolve(x, kernel, dilation), atol=1e-3)
    expected = np.empty_like(kernel)
    for i, j, patch in reference.taps(x, side, dilation):
        expected[i, j] = np.einsum("bhwi,bhwo->io", patch, cotangent)
    np.testing.assert_allclose(gradient_kernel, expected, atol=1e-3)
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(gradient_x, reference.convolve(cotangent, flipped, dilation), atol=1e-3)
