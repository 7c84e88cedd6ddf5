"""Shared blocks whose gradients are written by hand, against XLA's and float64 ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect.models import layers


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 7, 2)])
def test_max_pool_is_xlas_also_where_maxima_tie(shape):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.integers(-2, 3, shape), 0).astype(np.float32)
    cotangent = rng.normal(size=(shape[0], shape[1] // 2, shape[2] // 2, shape[3])).astype(np.float32)
    expected, pull_back = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    pooled, pull_back_ours = jax.vjp(layers.max_pool, x)
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(pull_back_ours(cotangent)[0], pull_back(cotangent)[0])


def test_the_global_maximum_is_xlas_also_where_maxima_tie():
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (3, 5, 7, 4)).astype(np.float32)
    cotangent = rng.normal(size=(3, 4)).astype(np.float32)
    expected, pull_back = jax.vjp(lambda x: nn.max_pool(x, (5, 7))[:, 0, 0], x)
    found, pull_back_ours = jax.vjp(layers.global_max, x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pull_back_ours(cotangent)[0], pull_back(cotangent)[0])


@pytest.mark.parametrize("is_official", [False, True])
def test_gradients_of_the_norm_are_those_of_float64_differences(is_official):
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=size) for size in ((2, 4, 5, 3), (3,), (3,))]
    direction = rng.normal(size=(2, 4, 5, 3))

    def loss(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> float:
        centered = x - x.mean((1, 2), keepdims=True)
        spread = x.var((1, 2), ddof=1 if is_official else 0, keepdims=True)
        spread = np.sqrt(spread) if is_official else spread
        return float(np.sum((centered / np.sqrt(spread + 1e-3) * scale + bias) * direction))

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(layers.feature_norm(x, scale, bias, is_official) * direction)

    gradients = jax.grad(ours, argnums=(0, 1, 2))(*(jnp.asarray(a, jnp.float32) for a in arguments))
    for index, gradient in enumerate(gradients):
        expected = np.empty_like(arguments[index])
        for place in np.ndindex(expected.shape):
            steps = []
            for sign in (1, -1):
                moved = [a.copy() for a in arguments]
                moved[index][place] += sign * 1e-5
                steps.append(loss(*moved))
            expected[place] = (steps[0] - steps[1]) / 2e-5
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_that_of_flax(train):
    rng = np.random.default_rng(0)
    x, direction = (rng.normal(mean, 2, (3, 5, 6, 4)).astype(np.float32) for mean in (3, 0))
    params, averages = (
        {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in names}
        for names in (("scale", "bias"), ("mean", "var"))
    )
    flax = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=0.01, use_fast_variance=False)
    ours = layers.BatchNorm(0.01, momentum=0.9)

    def run(apply, *arguments):
        def loss(params, x):
            variables = {"params": params, "batch_stats": averages}
            value, updated = apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(value * direction), (value, updated)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(*arguments)

    found, expected = run(functools.partial(ours.apply, train=train), params, x), run(flax.apply, params, x)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), found, expected)
    initial = ours.init(jax.random.key(0), x, train=train)
    jax.tree.map(np.testing.assert_array_equal, initial, flax.init(jax.random.key(0), x))
    of_bfloat16 = layers.BatchNorm(0.01, dtype=jnp.dtype("bfloat16")).apply(initial, x, train=False)
    assert of_bfloat16.dtype == jnp.bfloat16


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1000, 1), (5, 0.01)])
def test_moments_in_one_pass_are_those_of_float64(mean, deviation):
    """As accelerators compute them, with squares that could cancel out."""
    values = np.random.default_rng(0).normal(mean, deviation, (1, 88, 40, 4)).astype(np.float32)
    values[:, :11, :5] = mean + 30 * deviation  # where one of the pixels lies that the sums start from
    exact = values.astype(np.float64)
    variance = exact.var(axis=(1, 2), keepdims=True)
    for near in (None, jnp.full(4, mean + deviation)):
        found = layers._moments_at_once(jnp.asarray(values), near, axes=(1, 2))  # pyright: ignore
        np.testing.assert_allclose(found[1], variance, rtol=1e-6)
        np.testing.assert_allclose(found[0], exact.mean(axis=(1, 2), keepdims=True), rtol=2e-7, atol=1e-6)
