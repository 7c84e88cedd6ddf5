"""The depthwise convolution and its gradients against float64 loops, in both formulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect.models import depthwise
from jaxdefect.models.xla import Sides, convolve_directly

CASES = {
    "stride 1": (1, 1, ((1, 1), (1, 1))),
    "stride 2, torch": (2, 1, ((1, 1), (1, 1))),
    "stride 2, tensorflow": (2, 1, ((0, 1), (0, 1))),
    "uneven": (2, 1, ((1, 0), (0, 2))),
    "dilation 3": (1, 3, ((3, 3), (3, 3))),
    "both, uneven": (2, 2, ((2, 1), (0, 3))),
}


def reference(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int, padding: Sides) -> np.ndarray:
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    reach = 2 * dilation + 1
    height, width = ((length - reach) // stride + 1 for length in padded.shape[1:3])
    result = np.zeros((x.shape[0], height, width, x.shape[3]))
    for row, column in np.ndindex(height, width):
        top, left = row * stride, column * stride
        window = padded[:, top : top + reach : dilation, left : left + reach : dilation]
        result[:, row, column] = (window * kernel[:, :, 0]).sum((1, 2))
    return result


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("formulation", [depthwise.convolve_by_taps, convolve_directly])
def test_values_and_gradients_match_a_loop(case, formulation):
    stride, dilation, padding = settings = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 8, 3)), rng.normal(size=(3, 3, 1, 3))
    expected = reference(x, kernel, *settings)
    cotangent = rng.normal(size=expected.shape)
    options = {"stride": stride, "dilation": dilation, "padding": padding}

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        value, pull = jax.vjp(lambda x, kernel: formulation(x, kernel, **options), x, kernel)
        return value, pull(cotangent)

    value, gradients = run(*(np.float32(a) for a in (x, kernel, cotangent)))
    np.testing.assert_allclose(value, expected, atol=1e-5)
    # The convolution is linear in each argument: its derivative along a direction is its value there.
    for argument, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)
        along = reference(direction, kernel, *settings) if argument == 0 else reference(x, direction, *settings)
        assert np.sum(np.float64(gradient) * direction) == pytest.approx(np.sum(cotangent * along), rel=1e-4, abs=1e-4)


def test_a_stack_of_models_and_bfloat16():
    rng = np.random.default_rng(0)
    x, kernels = rng.normal(size=(2, 1, 6, 6, 4)), rng.normal(size=(2, 3, 3, 1, 4))
    padding = ((1, 1), (1, 1))

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise.convolve_depthwise(x, kernel, stride=2, padding=padding).sum()

    def gradients(dtype: str) -> tuple[jax.Array, ...]:
        stacked = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))
        return stacked(jnp.asarray(x, dtype), jnp.asarray(kernels, dtype))

    for exact, rounded in zip(gradients("float32"), gradients("bfloat16"), strict=True):
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(rounded), exact, atol=0.05 * np.abs(exact).max())


def test_on_a_cpu_it_is_summed_by_taps():
    x, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 1, 2))
    options = {"stride": 2, "dilation": 1, "padding": ((1, 1), (1, 1))}
    texts = [
        jax.jit(lambda x, kernel, run=run: run(x, kernel, **options)).lower(x, kernel).as_text()
        for run in (depthwise.convolve_depthwise, convolve_directly)
    ]
    assert ["convolution" in text for text in texts] == [False, True]
