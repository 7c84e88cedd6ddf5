"""What an accelerator computes in a training step its own way, which no test can run on one, against a CPU's way."""

from collections.abc import Iterator
from typing import Any

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import model_config, models
from jaxdefect.models import hoisting, precision


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks compute in float64 all that they compute in float32: what differs then is wrong and not rounded."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    monkeypatch.setattr(precision, "array_dtype", lambda _: jnp.dtype("float64"))
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("config", "num_channels"),
    [
        (model_config.SegDecConfig(kernels="atrous", attention=True, stop_gradient=False), 1),
        (model_config.RegressionConfig(), 3),  # batch norm, pooling by windows
    ],
    ids=lambda value: getattr(value, "architecture", ""),
)
def test_gradients_by_an_accelerators_ways_are_those_of_a_cpus(config, num_channels, in_float64):
    module = models.build(config)
    variables = jax.tree.map(np.float64, reference.draw(module, num_channels=num_channels))
    image = np.random.default_rng(0).random((2, 64, 96, num_channels))

    def loss(params: dict[str, Any]) -> jax.Array:
        outputs, _ = module.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return sum(jnp.mean(jnp.sin(jnp.arange(values.size)) * values.ravel()) for values in outputs.values())

    traced = jax.make_jaxpr(jax.grad(loss))(variables["params"])

    def gradients(platform: str) -> list[np.ndarray]:
        def run(params: list[np.ndarray]) -> list[jax.Array]:
            return hoisting.walk(traced.jaxpr, traced.consts, params, platform=platform, step=hoisting.bind)

        return jax.device_get(jax.jit(run)(jax.tree.leaves(variables["params"])))

    found, expected = gradients("cuda"), gradients("cpu")
    whole = np.sqrt(sum(np.square(gradient).sum() for gradient in expected))
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.dtype == np.float64
        # Winograd's filtering has constants in float32. A bias before a norm has no gradient but what rounding leaves.
        assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(theirs) + 1e-9 * whole
