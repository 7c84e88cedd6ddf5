"""Networks parted into what depends on their weights alone and the rest, as accelerators compute them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdefect import models
from jaxdefect.config import Config, DataConfig
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.model_config import (
    RegressionConfig,
    ResNetConfig,
    SegDecConfig,
    UNetMobileNetV2Config,
)
from jaxdefect.models import hoisting

_SIZE = 64


def _network(model: Any) -> tuple[Any, dict[str, Any]]:
    """A network and its variables, with averages of batch norms as after a training."""
    module = models.build(model)
    rng = np.random.default_rng(0)

    def spread(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "batch_stats" not in name and "norm" not in name:
            return leaf
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)

    return module, jax.tree_util.tree_map_with_path(spread, models.init(module, num_channels=3, seed=0))


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        (SegDecConfig(kernels="atrous", attention=True), 1e-3),  # what norms magnify of another way's rounding
        (SegDecConfig(kernels="atrous", norm="batch", dtype="bfloat16"), 5e-2),
        (RegressionConfig(), 1e-4),
        (UNetMobileNetV2Config(), 1e-4),
        (ResNetConfig(depth=18, dtype="bfloat16"), 5e-2),
    ],
    ids=lambda value: getattr(value, "architecture", ""),
)
def test_the_rest_gives_the_outputs_and_leaves_nothing_to_prepare(model, tolerance):
    module, variables = _network(model)

    def apply(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return dict(module.apply(variables, images, train=False))

    one, two = (jax.ShapeDtypeStruct((count, _SIZE, _SIZE, 3), jnp.float32) for count in (1, 2))
    prepared, rest = hoisting.hoist(apply, variables, one, platform="gpu")
    images = jax.random.uniform(jax.random.key(1), two.shape)
    expected, found = jax.jit(apply)(variables, images), jax.jit(rest)(prepared, images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float(jnp.max(jnp.abs(found[name] - value)) / jnp.max(jnp.abs(value)))
        assert error < tolerance, (name, error)
    again, _ = hoisting.hoist(rest, prepared, two, platform="gpu")
    assert len(again) == len(prepared) <= len(jax.tree.leaves(variables))
    for first, second in zip(prepared, again, strict=True):
        np.testing.assert_array_equal(first, second)
    kernels = [array for array in prepared if array.ndim == 4 and array.size > array.shape[-1]]
    assert {array.dtype for array in kernels} == {jnp.dtype("bfloat16" if model.dtype == "bfloat16" else "float32")}


def test_a_predictor_on_an_accelerator_judges_as_on_a_cpu(monkeypatch):
    model = RegressionConfig()
    module, variables = _network(model)
    predictor = Predictor(
        config=Config(data=DataConfig(image_size=(_SIZE, _SIZE), num_channels=3), model=model),
        variables=variables,
        checkpoint_step=1,
        workdir=Path("run"),
        calibration=None,
        forward=compile_forward(module.apply),
    ).in_tiles(overlap=0)
    image = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    expected = predictor(image)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    parted = predictor.on_all_devices()
    found = parted(image)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    assert found.score == pytest.approx(expected.score, rel=1e-4)
    count = len(parted.programs)
    assert dataclasses.replace(parted, checkpoint_step=2)(image).score == found.score
    assert len(parted.programs) == count  # copies share what is compiled and prepared


def test_a_kernel_in_two_layouts_is_two_kernels():
    def apply(kernel: jax.Array, images: jax.Array) -> jax.Array:
        return sum(
            lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", order, "NHWC"))
            for order in ("HWIO", "HWOI")
        )

    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 4))
    images = jax.random.normal(jax.random.key(1), (1, 8, 8, 4))
    prepared, rest = hoisting.hoist(apply, kernel, jax.ShapeDtypeStruct(images.shape, jnp.float32), platform="gpu")
    assert len(prepared) == 2
    np.testing.assert_allclose(rest(prepared, images), apply(kernel, images), rtol=1e-4, atol=1e-4)
