"""Local weight files give a model its start: each kind of file, the real network, and every way not to fit."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from jaxdefect import models
from jaxdefect.model_config import MobileNetV2Config, ModelConfig, ResNetConfig, SegDecConfig, UNetMobileNetV2Config
from jaxdefect.models import tensorflow_weights, torch_names
from jaxdefect.models.pretrained import load_pretrained, unfold_norms
from jaxdefect.types import InputError

TENSORFLOW: dict[str, Any] = {"padding": "tensorflow", "input_norm": "symmetric"}
FRESH = -7.0
# The blocks of Keras' MobileNetV2: number, channels that come in, channels inside, channels that go out.
BLOCKS = (
    *((0, 32, 32, 16), (1, 16, 96, 24), (2, 24, 144, 24), (3, 24, 144, 32), (4, 32, 192, 32), (5, 32, 192, 32)),
    *((6, 32, 192, 64), (7, 64, 384, 64), (8, 64, 384, 64), (9, 64, 384, 64), (10, 64, 384, 96), (11, 96, 576, 96)),
    *((12, 96, 576, 96), (13, 96, 576, 160), (14, 160, 960, 160), (15, 160, 960, 160), (16, 160, 960, 320)),
)


def fresh(config: ModelConfig) -> dict[str, Any]:
    """Variables of the model for colour, all `FRESH`."""
    shapes = jax.eval_shape(lambda: models.init(models.build(config), num_channels=3, seed=0))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, FRESH, np.float32), shapes)


def load(config: ModelConfig) -> dict[str, np.ndarray]:
    """The variables that the file gives, by path."""
    variables = load_pretrained(config, fresh(config))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    flat = traverse_util.flatten_dict(variables, sep="/")
    assert flat.keys() == traverse_util.flatten_dict(fresh(config), sep="/").keys()
    return {path: np.asarray(value) for path, value in flat.items()}


def is_fresh(variables: dict[str, np.ndarray], prefix: str) -> set[bool]:
    """Whether the variables whose paths (without the collection) start so kept their initial value."""
    chosen = [value for path, value in variables.items() if path.split("/", 1)[1].startswith(prefix)]
    return {bool((value == FRESH).all()) for value in chosen}


def write_torch(path: Path, config: ResNetConfig | MobileNetV2Config) -> dict[str, np.ndarray]:
    """A state dict in torchvision's layout as a file; every value of a tensor is its number in the order."""
    is_resnet = isinstance(config, ResNetConfig)
    entries = torch_names.resnet(config.depth) if is_resnet else torch_names.mobilenet_v2()
    shapes = traverse_util.flatten_dict(fresh(config), sep="/")
    tensors = {
        name: np.full(entry.layout.published_shape(shapes[entry.path].shape), i, np.float32)
        for i, (name, entry) in enumerate(entries.items())
    }
    tensors["features.0.1.num_batches_tracked" if not is_resnet else "bn1.num_batches_tracked"] = np.zeros((), np.int64)
    safetensors.numpy.save_file(tensors, path)
    return tensors


def test_torchvision_weights_of_a_classifier_and_its_head(tmp_path: Path):
    path = tmp_path / "resnet18.safetensors"
    tensors = write_torch(path, ResNetConfig(depth=18, num_classes=10))
    same = load(ResNetConfig(depth=18, num_classes=10, pretrained=str(path)))
    assert is_fresh(same, "") == {False}
    np.testing.assert_array_equal(np.unique(same["params/head/kernel"]), np.unique(tensors["fc.weight"]))
    path_here, name = "stage2_block1/shortcut/norm", "layer2.0.downsample.1"
    assert (same[f"batch_stats/{path_here}/var"] == tensors[f"{name}.running_var"]).all()
    assert (same[f"params/{path_here}/scale"] == tensors[f"{name}.weight"]).all()
    other = load(ResNetConfig(depth=18, num_classes=6, pretrained=str(path)))
    assert is_fresh(other, "head") == {True}
    assert is_fresh(other, "st") == {False}  # the stem and the stages


def test_torchvision_weights_of_the_encoder(tmp_path: Path):
    path = tmp_path / "mobilenet_v2.safetensors"
    tensors = write_torch(path, MobileNetV2Config(num_classes=4))
    variables = load(UNetMobileNetV2Config(pretrained=str(path)))
    assert is_fresh(variables, "encoder") == {False}
    assert is_fresh(variables, "decoder") == is_fresh(variables, "head") == {True}
    kernel = variables["params/encoder/block2/depthwise/kernel"]
    assert kernel.shape == (3, 3, 1, 96)
    assert (kernel == tensors["features.2.conv.1.0.weight"].flat[0]).all()


def test_no_file_named_changes_nothing():
    for config in (SegDecConfig(), UNetMobileNetV2Config()):
        variables = {"params": {}}
        assert load_pretrained(config, variables) is variables


# --- Keras


def keras_layers(*, num_classes: int) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The layers with tensors of Keras' MobileNetV2 in order, drawn at random; no classes: without the top."""
    rng = np.random.default_rng(0)

    def convolution(name: str, inputs: int, outputs: int, side: int, norm: str) -> list:
        kind, shape = (
            ("depthwise_kernel", (side, side, inputs, 1)) if outputs == 0 else ("kernel", (side, side, inputs, outputs))
        )
        channels = outputs or inputs
        tensors = {
            "gamma": rng.uniform(0.5, 2, channels),
            "beta": rng.normal(size=channels),
            "moving_mean": rng.normal(size=channels),
            "moving_variance": rng.uniform(0, 0.01, channels),  # small: the epsilons matter
        }
        return [(name, {kind: rng.normal(size=shape)}), (norm, tensors)]

    layers = convolution("Conv1", 3, 32, 3, "bn_Conv1")
    for number, inputs, hidden, outputs in BLOCKS:
        prefix = f"block_{number}_" if number else "expanded_conv_"
        if number:
            layers += convolution(f"{prefix}expand", inputs, hidden, 1, f"{prefix}expand_BN")
        layers += convolution(f"{prefix}depthwise", hidden, 0, 3, f"{prefix}depthwise_BN")
        layers += convolution(f"{prefix}project", hidden, outputs, 1, f"{prefix}project_BN")
    layers += convolution("Conv_1", 320, 1280, 1, "Conv_1_bn")
    if num_classes:
        layers.append(
            ("Logits", {"kernel": rng.normal(size=(1280, num_classes)), "bias": rng.normal(size=num_classes)})
        )
    return layers


def write_keras(path: Path, layers: list[tuple[str, dict[str, np.ndarray]]]) -> None:
    """As Keras 2 stores weights: layers without tensors are there too."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ("input_1", *(name for name, _ in layers))]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, tensors in layers:
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{kind}:0".encode() for kind in tensors]
            for kind, tensor in tensors.items():
                group[f"{layer}/{kind}:0"] = tensor.astype(np.float32)


def test_keras_weights_keep_their_function_under_the_other_epsilon(tmp_path: Path):
    layers = keras_layers(num_classes=10)
    path = tmp_path / "weights.h5"
    write_keras(path, layers)
    variables = load(MobileNetV2Config(num_classes=10, pretrained=str(path), **TENSORFLOW))
    assert is_fresh(variables, "") == {False}
    tensors = {f"{layer}/{kind}": tensor for layer, kinds in layers for kind, tensor in kinds.items()}
    assert sum(tensor.size for name, tensor in tensors.items() if "moving" not in name) == 2_257_984 - 34_112 + 12_810
    for here, conv, norm in (
        ("stem", "Conv1", "bn_Conv1"),
        ("block1/depthwise", "expanded_conv_depthwise", "expanded_conv_depthwise_BN"),
        ("block1/project", "expanded_conv_project", "expanded_conv_project_BN"),
        ("block2/expand", "block_1_expand", "block_1_expand_BN"),
        ("block17/depthwise", "block_16_depthwise", "block_16_depthwise_BN"),
        ("last", "Conv_1", "Conv_1_bn"),
    ):
        kernel = variables[f"params/encoder/{here}/kernel"]
        if here.endswith("depthwise"):
            np.testing.assert_allclose(kernel[:, :, 0], tensors[f"{conv}/depthwise_kernel"][..., 0], rtol=1e-6)
        else:
            np.testing.assert_allclose(kernel, tensors[f"{conv}/kernel"], rtol=1e-6)
        factor = variables[f"params/encoder/{here}/norm/scale"] / np.sqrt(
            variables[f"batch_stats/encoder/{here}/norm/var"] + np.float64(1e-5)
        )
        published = tensors[f"{norm}/gamma"] / np.sqrt(tensors[f"{norm}/moving_variance"] + 1e-3)
        np.testing.assert_allclose(factor, published, rtol=1e-6)
        np.testing.assert_allclose(variables[f"params/encoder/{here}/norm/bias"], tensors[f"{norm}/beta"], rtol=1e-6)
        np.testing.assert_allclose(
            variables[f"batch_stats/encoder/{here}/norm/mean"], tensors[f"{norm}/moving_mean"], rtol=1e-6
        )
    np.testing.assert_allclose(variables["params/head/kernel"], tensors["Logits/kernel"], rtol=1e-6)


def test_keras_weights_without_the_top(tmp_path: Path):
    path = tmp_path / "weights_no_top.h5"
    write_keras(path, keras_layers(num_classes=0))
    for config in (
        UNetMobileNetV2Config(pretrained=str(path), **TENSORFLOW),
        MobileNetV2Config(num_classes=5, pretrained=str(path), **TENSORFLOW),
    ):
        variables = load(config)
        assert is_fresh(variables, "encoder") == {False}
        assert is_fresh(variables, "head") == {True}


def test_keras_tensors_that_do_not_fit_are_named(tmp_path: Path):
    layers = keras_layers(num_classes=10)
    layers[2] = ("expanded_conv_depthwise", {"depthwise_kernel": np.zeros((5, 5, 32, 1))})
    del layers[1][1]["beta"]
    path = tmp_path / "weights.h5"
    write_keras(path, [*layers, ("extra", {"kernel": np.zeros((1, 1))})])
    with pytest.raises(InputError, match="3 of its tensors do not fit the architecture 'mobilenet_v2'") as error:
        load(UNetMobileNetV2Config(pretrained=str(path), **TENSORFLOW))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "bn_Conv1/beta: missing, wanted [32]",
        "expanded_conv_depthwise/depthwise_kernel: found [5, 5, 32, 1], wanted [3, 3, 32, 1]",
        "extra/kernel: found [1, 1], unknown to this architecture",
    ]
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"weights\.h5: not a readable Keras weight file .*is the download complete"):
        load(UNetMobileNetV2Config(pretrained=str(path), **TENSORFLOW))


def test_without_h5py_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "weights.h5"
    path.touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"weights\.h5: to read it, install h5py: pip install h5py"):
        load(UNetMobileNetV2Config(pretrained=str(path), **TENSORFLOW))


# --- folded batch norms: the real network


@pytest.fixture(scope="module")
def cat(shared: Path) -> tuple[MobileNetV2Config, nn.Module, np.ndarray, list[str]]:
    """The config, the module, eight crops [8, 224, 224, 3] of the cat (the first: all of it), the labels."""
    folder = shared / "weights"
    file = folder / "mobilenet_v2_1.0_224_imagenet_tf2_int8_dequantised.npz"
    config = MobileNetV2Config(num_classes=1001, pretrained=str(file), **TENSORFLOW)
    image = cv2.cvtColor(cv2.imread(str(folder / "cat.bmp")), cv2.COLOR_BGR2RGB)
    height, width, _ = image.shape
    rng = np.random.default_rng(0)
    crops = [image]
    for side in rng.integers(240, height + 1, 7):
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        crops.append(image[top : top + side, left : left + side])
    images = np.stack([cv2.resize(crop, (224, 224), interpolation=cv2.INTER_AREA) for crop in crops])
    labels = (folder / "imagenet_labels.txt").read_text().splitlines()
    return config, models.build(config), images.astype(np.float32) / 255, labels


@pytest.fixture(scope="module")
def classify(cat) -> Callable[..., tuple[np.ndarray, list[str]]]:
    """Logits [B, 1001] and labels of images, in evaluation or in training (batch norms see the batch)."""
    _, module, _, labels = cat
    evaluate = jax.jit(module.apply)
    train = jax.jit(lambda variables, images: module.apply(variables, images, train=True, mutable=["batch_stats"])[0])

    def run(
        variables: dict[str, Any], images: np.ndarray, *, is_training: bool = False
    ) -> tuple[np.ndarray, list[str]]:
        logits = np.asarray((train if is_training else evaluate)(variables, images)["classes"])
        return logits, [labels[i] for i in logits.argmax(1)]

    return run


def test_the_cat_is_an_egyptian_cat_and_stays_one_in_training(cat, classify):
    config, module, images, _ = cat
    variables = load_pretrained(config, fresh(config))
    logits, names = classify(variables, images)
    assert names == ["Egyptian cat"] * 8
    assert set(classify(variables, images, is_training=True)[1]).isdisjoint({"Egyptian cat"})  # what unfolding is for
    unfolded = unfold_norms(module, variables, images[:4])
    again, names = classify(unfolded, images)
    assert names == ["Egyptian cat"] * 8
    np.testing.assert_allclose(again, logits, atol=1e-3 * np.abs(logits).max())
    assert classify(unfolded, images, is_training=True)[1] == ["Egyptian cat"] * 8
    assert unfold_norms(module, unfolded, images) is unfolded


def test_folded_weights_for_the_encoder_and_tensors_that_do_not_fit(cat, tmp_path: Path):
    file = cat[0].pretrained
    variables = load(UNetMobileNetV2Config(pretrained=file, **TENSORFLOW))
    assert is_fresh(variables, "encoder") == {False}
    assert is_fresh(variables, "decoder") == is_fresh(variables, "head") == {True}
    with np.load(file) as arrays:
        tensors = dict(arrays)
    tensors["00_CONV_2D_b"] = tensors["00_CONV_2D_b"][:5]
    tensors["53_CONV_2D_w"] = tensors.pop("52_CONV_2D_w")
    path = tmp_path / "weights.npz"
    np.savez(path, **tensors)
    with pytest.raises(InputError, match="3 of its tensors") as error:
        load(UNetMobileNetV2Config(pretrained=str(path), **TENSORFLOW))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "00_CONV_2D_b: found [5], wanted [32]",
        "52_CONV_2D_w: missing, wanted [1001, 1, 1, 1280]",
        "53_CONV_2D_w: found [1001, 1, 1, 1280], unknown to this architecture",
    ]
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"weights\.npz: not a readable \.npz file"):
        tensorflow_weights.read_folded(path)


# --- mistakes in the config


def test_a_missing_file_is_described(tmp_path: Path):
    path = tmp_path / "absent.pth"
    with pytest.raises(InputError) as error:
        load(ResNetConfig(depth=101, pretrained=str(path)))
    assert str(error.value) == (
        f"config.model.pretrained = '{path}': there is no such file. Download torchvision's "
        "https://download.pytorch.org/models/resnet101-63fe2227.pth or "
        "https://download.pytorch.org/models/resnet101-cd907fc2.pth (with input_norm 'imagenet') and put it at "
        f"{path}"
    )
    with pytest.raises(
        InputError, match=r"mobilenet_v2-b0353104\.pth .*padding 'torch' and input_norm 'imagenet'.*_no_top"
    ):
        load(UNetMobileNetV2Config(pretrained=str(path)))
    with pytest.raises(InputError, match=r"config\.classifier\.model\.pretrained = '.*absent\.pth'"):
        load_pretrained(ResNetConfig(pretrained=str(path)), {}, setting="config.classifier.model")


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    for config, name, wanted in (
        (ResNetConfig(), "weights.h5", r"a resnet101 are read from files that end in \.pth or \.pt or \.safetensors"),
        (MobileNetV2Config(), "weights.onnx", r"a mobilenet_v2 are read from .* or \.h5 or \.npz"),
    ):
        path = tmp_path / name
        path.touch()
        with pytest.raises(InputError, match=wanted):
            load(dataclasses.replace(config, pretrained=str(path)))


@pytest.mark.parametrize(
    ("config", "name", "wrong", "wanted"),
    [
        (ResNetConfig(input_norm="none"), "w.pth", "input_norm = 'none'", "input_norm = 'imagenet'"),
        (UNetMobileNetV2Config(padding="tensorflow"), "w.pt", "padding = 'tensorflow'", "padding = 'torch'"),
        (UNetMobileNetV2Config(), "w.h5", "padding = 'torch'", "padding = 'tensorflow'"),
        (MobileNetV2Config(padding="tensorflow"), "w.npz", "input_norm = 'imagenet'", "input_norm = 'symmetric'"),
    ],
)
def test_settings_that_the_weights_were_not_trained_with_are_named(tmp_path: Path, config, name, wrong, wanted):
    path = tmp_path / name
    path.touch()
    with pytest.raises(InputError) as error:
        load(dataclasses.replace(config, pretrained=str(path)))
    assert str(error.value).startswith(f"config.model.{wrong}: ")
    assert str(error.value).endswith(f"set config.model.{wanted}")
