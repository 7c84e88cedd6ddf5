"""MobileNetV2 against published counts and shapes; its outputs: tests/interop/test_torchvision.py."""

import jax
import jax.numpy as jnp
import pytest

from jaxdefect import models
from jaxdefect.model_config import MobileNetV2Config
from jaxdefect.models.mobilenet_v2 import Encoder
from jaxdefect.types import InputError


@pytest.mark.parametrize("padding", ["torch", "tensorflow"])
def test_published_parameter_count(padding):
    module = models.build(MobileNetV2Config(padding=padding))
    variables = jax.eval_shape(lambda: models.init(module, num_channels=3, seed=0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 3_504_872


@pytest.mark.parametrize("padding", ["torch", "tensorflow"])
def test_encoder_gives_the_five_resolutions(padding):
    encoder = Encoder(padding, jnp.dtype("float32"))
    image = jnp.zeros((2, 96, 160, 3))
    skips, _ = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), image, train=False))
    sizes = [(2, 96 // 2**i, 160 // 2**i) for i in range(1, 6)]
    assert [skip.shape for skip in skips] == [
        (*size, channels) for size, channels in zip(sizes, (16, 24, 32, 96, 1280), strict=True)
    ]


def test_the_image_must_be_a_multiple_of_32():
    with pytest.raises(InputError, match="nearest valid size is 224x256"):
        models.build(MobileNetV2Config()).apply({}, jnp.zeros((1, 224, 250, 3)))
