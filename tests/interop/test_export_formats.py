"""Every architecture in every format: its own runtime gives what JAX gives, for any number of images."""

import functools
import importlib.util

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import models
from jaxdefect.interop import runtimes
from jaxdefect.model_config import (
    BackgroundSuppressionConfig,
    MobileNetV2Config,
    RegressionConfig,
    ResNetConfig,
    SegDecConfig,
    UNetConfig,
    UNetMobileNetV2Config,
)
from jaxdefect.types import InputError

ARCHITECTURES = {
    "segdec": SegDecConfig(decision_input="relu"),
    "segdec_official": SegDecConfig(num_first_convs=1, norm="feature_official"),
    "segdec_steel": SegDecConfig(kernels="atrous", attention=True),
    "segdec_unet": SegDecConfig(segmentation="unet", norm="batch"),
    # With feature norm rounding errors grow along its 100 norms (models/deeplab.py); the operations are the same.
    "segdec_deeplab": SegDecConfig(segmentation="deeplab", norm="batch"),
    "background_suppression": BackgroundSuppressionConfig(score="max"),
    "regression": RegressionConfig(),
    "unet": UNetConfig(norm="feature"),
    "unet_mobilenet_v2": UNetMobileNetV2Config(padding="tensorflow"),
    "resnet": ResNetConfig(depth=18, num_classes=3),
    "mobilenet_v2": MobileNetV2Config(num_classes=3),
}


def make_network(config) -> runtimes.Network:
    """The network with random weights that keep the signal's size, and statistics of batch norm away from 0 and 1."""
    module = models.build(config)
    shapes = jax.eval_shape(lambda: models.init(module, num_channels=1, seed=0))
    rng = np.random.default_rng(0)

    def draw(path, leaf) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        if name == "depthwise" or leaf.shape[-2:-1] == (1,):
            fan_in = 9
        return (rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / fan_in)).astype(np.float32)

    def function(variables, images: jax.Array) -> dict[str, jax.Array]:
        outputs = module.apply(variables, images, train=False)
        return {name: outputs[name].astype(jnp.float32) for name in outputs if name != "segmentation"}

    return runtimes.Network(function, jax.tree_util.tree_map_with_path(draw, shapes), (64, 96, 1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_runtimes_compute_what_jax_does(name, reference, tmp_path, monkeypatch):
    onnx_graph = pytest.importorskip("jaxdefect.interop.onnx_graph")
    onnx_operators = pytest.importorskip("jaxdefect.interop.onnx_operators")
    kinds = [kind for kind in ("onnx", "openvino") if importlib.util.find_spec(runtimes.RUNTIMES[kind].packages[-1])]
    if not kinds:
        pytest.skip("neither onnxruntime nor openvino is installed")
    network, images, wanted = reference(name)
    graph = onnx_graph.convert(network, image_shape=network.image_shape, batch=None, operators=onnx_operators.OPERATORS)
    monkeypatch.setattr(onnx_graph, "convert", lambda *_, **__: graph)  # once, not for each
    for kind in kinds:
        path = tmp_path / f"model{runtimes.RUNTIMES[kind].suffix}"
        runtimes.RUNTIMES[kind].write(network, path, None, ())
        run = runtimes.RUNTIMES[kind].open(path)
        for size in (1, 2):
            found = run(images[:size])
            for output, values in wanted.items():
                assert found[output].dtype == np.float32
                np.testing.assert_allclose(found[output], values[:size], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stablehlo_holds_any_number_of_images_for_cpu_and_gpu(name, reference, tmp_path):
    path = tmp_path / "model.stablehlo"
    runtimes.RUNTIMES["stablehlo"].write(make_network(ARCHITECTURES[name]), path, None, ("cpu", "cuda"))
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda")
    assert [str(size) for size in program.in_avals[0].shape] == ["batch", "64", "96", "1"]
    assert {str(aval.shape[0]) for aval in program.out_avals} == {"batch"}
    if name in ("regression", "segdec_steel", "mobilenet_v2"):  # the others take XLA too long for a test
        _, images, wanted = reference(name)
        found = runtimes.RUNTIMES["stablehlo"].open(path)(images)
        for output, values in wanted.items():
            np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def reference():
    """A network by name, two images, and what JAX makes of them; the last one is kept."""

    @functools.lru_cache(maxsize=1)
    def compute(name: str):
        network = make_network(ARCHITECTURES[name])
        images = np.random.default_rng(1).random((2, 64, 96, 1), np.float32)
        return network, images, jax.device_get(jax.jit(network.function)(network.variables, images))

    return compute


def test_a_loop_over_the_image_is_unrolled_backwards_too(tmp_path):
    """Rows carried and stacked; [B, 64, 64, 1] -> running sums from below, and the differences to them."""
    pytest.importorskip("onnxruntime")

    def function(_, images):
        def add(total, row):
            return total + row, total - row

        rows = jnp.moveaxis(images, 1, 0)
        total, differences = jax.lax.scan(add, jnp.zeros((1,)) + rows[0] * 0, rows, reverse=True)
        return {"decision": total, "probability": jnp.moveaxis(differences, 0, 1)}

    network = runtimes.Network(function, (), (64, 64, 1))
    runtimes.RUNTIMES["onnx"].write(network, tmp_path / "model.onnx", None, ())
    images = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)
    found = runtimes.RUNTIMES["onnx"].open(tmp_path / "model.onnx")(images)
    sums = np.cumsum(images[:, ::-1].astype(np.float64), axis=1)[:, ::-1]
    np.testing.assert_allclose(found["decision"], sums[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["probability"], sums - 2 * images, rtol=1e-5, atol=1e-5)


def test_an_operation_without_translation_is_named(tmp_path):
    pytest.importorskip("onnx")
    network = runtimes.Network(lambda _, images: {"probability": jnp.sort(images[..., 0])}, (), (64, 64, 1))
    with pytest.raises(InputError, match="'sort', which has no translation to ONNX"):
        runtimes.RUNTIMES["onnx"].write(network, tmp_path / "model.onnx", None, ())


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch):
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None if name == "openvino" else name)
    runtimes.check_installed("onnx")
    with pytest.raises(InputError, match=r"--format=openvino needs openvino, .*pip install 'jaxdefect\[export\]'"):
        runtimes.check_installed("openvino")
