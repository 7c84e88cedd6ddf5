"""ResNet against torchvision's parameter counts; its outputs are compared in tests/interop/test_torchvision.py."""

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.model_config import ResNetConfig
from jaxdefect.types import InputError


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_published_parameter_counts(depth, count):
    module = models.build(ResNetConfig(depth=depth))
    variables = jax.eval_shape(lambda: models.init(module, num_channels=3, seed=0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_classifies_windows_and_every_parameter_learns():
    module = models.build(ResNetConfig(depth=18, num_classes=3))
    variables = reference.draw_with_identity_norms(module, num_channels=1)
    image = np.random.default_rng(0).uniform(size=(2, 64, 64, 1)).astype(np.float32)

    @jax.jit
    def run(params: dict) -> tuple[dict, jax.Array]:
        def loss(params: dict) -> tuple[jax.Array, jax.Array]:
            given = {**variables, "params": params}
            outputs, _ = module.apply(given, image, train=True, mutable=["batch_stats"])
            return jnp.sum(outputs["classes"] * jnp.arange(3.0)), outputs["classes"]

        return jax.grad(loss, has_aux=True)(params)

    gradients, logits = run(variables["params"])
    assert logits.shape == (2, 3)
    assert logits.dtype == jnp.float32
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.any(gradient != 0), path


def test_the_window_must_be_a_multiple_of_32():
    with pytest.raises(InputError, match=r"image size 64x80 .* multiples of 32 .* nearest valid size is 64x64"):
        models.build(ResNetConfig(depth=18)).apply({}, jnp.zeros((1, 64, 80, 3)))
