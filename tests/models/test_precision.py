"""What `dtype` means on a GPU, read from the programs that are lowered for one."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest

from jaxdefect import models
from jaxdefect.config import Config
from jaxdefect.model_config import ResNetConfig, SegDecConfig, UNetMobileNetV2Config
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
        (SegDecConfig(dtype="bfloat16"), "DEFAULT"),
        (UNetMobileNetV2Config(dtype="tf32"), "HIGH"),
    ],
)
def test_a_training_step_asks_a_gpu_for_the_precision_of_its_dtype(model, wanted):
    """All of it, gradients too: JAX by itself takes TF32 for float32."""
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
    lowered = step.make_step(module, config, stage).trace(first, batch).lower(lowering_platforms=("cuda",))
    found = _precisions(lowered.as_text())
    assert set(found) == {wanted}
    assert found[wanted] > 30


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_inference_does_too_and_tf32_is_float32_on_a_cpu(dtype):
    module = models.build(ResNetConfig(depth=18, dtype=dtype))
    variables = models.init(models.build(ResNetConfig(depth=18)), num_channels=3, seed=0)
    image = jax.random.uniform(jax.random.key(1), (1, _SIZE, _SIZE, 3))
    forward = jax.jit(lambda variables, image: module.apply(variables, image)["classes"])
    lowered = forward.trace(variables, image).lower(lowering_platforms=("cuda",))
    assert set(_precisions(lowered.as_text())) == {{"float32": "HIGHEST", "tf32": "HIGH"}[dtype]}
    exact = models.build(ResNetConfig(depth=18)).apply(variables, image)["classes"]
    assert forward(variables, image).dtype == jnp.float32
    assert jnp.allclose(forward(variables, image), exact, rtol=1e-5, atol=1e-5)
