"""What `dtype` means on a GPU, read from the programs that are traced or lowered for one."""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.config import Config
from jaxdefect.model_config import (
    BackgroundSuppressionConfig,
    RegressionConfig,
    SegDecConfig,
    UNetMobileNetV2Config,
)
from jaxdefect.training import state, step

_SIZE = 64


def _precisions(lowered: str) -> collections.Counter[str]:
    """How many convolutions and products of a program ask for which precision."""
    found = collections.Counter()
    for line in lowered.splitlines():
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line:
            asked = re.search(r"precision(?:_config)? = \[.*?(DEFAULT|HIGHEST|HIGH)\b", line)
            found[asked[1] if asked else "DEFAULT"] += 1
    return found


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (SegDecConfig(dtype="float32"), "HIGHEST"),
        (SegDecConfig(dtype="tf32", kernels="atrous", attention=True), "HIGH"),
        (UNetMobileNetV2Config(dtype="tf32"), "HIGH"),
    ],
)
def test_a_training_step_asks_a_gpu_for_the_precision_of_its_dtype(model, wanted):
    """All of it, gradients too: JAX by itself takes TF32 for float32."""
    found = _precisions(_traced_step(model).lower(lowering_platforms=("cuda",)).as_text())
    assert set(found) == {wanted}
    assert found[wanted] > 30


def _traced_step(model: Any) -> Any:
    config = Config(model=model)
    module, stage = models.build(config.model), state.stages(config, steps_per_epoch=1)[0]
    first = jax.eval_shape(lambda: state.initial_state(module, config, stage))
    cells = (1, _SIZE // config.model.output_stride, _SIZE // config.model.output_stride, 1)
    shapes = {
        "image": (1, _SIZE, _SIZE, config.data.num_channels),
        "mask": cells,
        "weight": cells,
        "label": (1,),
        "has_mask": (1,),
    }
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return step.make_step(module, config, stage).trace(first, batch)


@pytest.mark.parametrize(
    "model",
    [
        SegDecConfig(dtype="bfloat16", kernels="atrous", attention=True),
        SegDecConfig(dtype="bfloat16", segmentation="deeplab", stop_gradient=False),
        BackgroundSuppressionConfig(dtype="bfloat16"),
        UNetMobileNetV2Config(dtype="bfloat16"),
        RegressionConfig(dtype="bfloat16"),
    ],
    ids=["attention", "deeplab", "background suppression", "u-net/mobilenet", "regression"],
)
def test_no_training_step_sums_pixels_in_bfloat16(model):
    """Such a sum stops at 256 times a term: the gradient of a bias was a tenth of what it should be."""
    sums = [
        equation.invars[0].aval.shape
        for equation in _equations(_traced_step(model).jaxpr.jaxpr)
        if equation.primitive.name in ("reduce_sum", "cumsum", "reduce_window_sum")
        and equation.invars[0].aval.dtype == jnp.bfloat16
        and math.prod(equation.invars[0].aval.shape) >= 16 * math.prod(equation.outvars[0].aval.shape)
    ]
    assert sums == []


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def test_inference_does_too_and_on_a_cpu_they_are_the_same():
    outputs = {}
    for dtype, wanted in (("float32", "HIGHEST"), ("tf32", "HIGH"), ("bfloat16", "DEFAULT")):
        module = models.build(RegressionConfig(dtype=dtype))
        variables = models.init(module, num_channels=1, seed=0)
        image = jax.random.uniform(jax.random.key(1), (1, _SIZE, _SIZE, 1))
        forward = jax.jit(lambda variables, image, module=module: module.apply(variables, image)["segmentation"])
        found = _precisions(forward.trace(variables, image).lower(lowering_platforms=("cuda",)).as_text())
        assert set(found) == {wanted}
        outputs[dtype] = forward(variables, image)
    np.testing.assert_array_equal(outputs["float32"], outputs["tf32"])
    assert outputs["tf32"].dtype == jnp.float32
