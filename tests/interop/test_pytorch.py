"""Published weights give the published outputs, and train as published; weights that do not fit are all named."""

import json
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from jaxdefect import schedules
from jaxdefect.config import Config, DataConfig, LossConfig, OptimizerConfig
from jaxdefect.data import pipeline
from jaxdefect.interop import pytorch
from jaxdefect.training.state import Stage, TrainState, optimizer
from jaxdefect.training.step import make_step
from jaxdefect.types import InputError, Targets

CONVOLUTIONS = (  # name, name of its norm, outputs, inputs, side
    ("volume.0.0", "volume.0.1", 32, 3, 5),
    ("volume.2.0", "volume.2.1", 64, 32, 5),
    ("volume.3.0", "volume.3.1", 64, 64, 5),
    ("volume.4.0", "volume.4.1", 64, 64, 5),
    ("volume.6.0", "volume.6.1", 64, 64, 5),
    ("volume.7.0", "volume.7.1", 64, 64, 5),
    ("volume.8.0", "volume.8.1", 64, 64, 5),
    ("volume.9.0", "volume.9.1", 64, 64, 5),
    ("volume.11.0", "volume.11.1", 1024, 64, 15),
    ("seg_mask.0", "seg_mask.1", 1, 1024, 1),
    ("extractor.1.0", "extractor.1.1", 8, 1025, 5),
    ("extractor.3.0", "extractor.3.1", 16, 8, 5),
    ("extractor.5.0", "extractor.5.1", 32, 16, 5),
)


@pytest.fixture
def colour() -> dict[str, np.ndarray]:
    """The published layout for three-channel input; every value of a tensor is its number in the order."""
    shapes = {}
    for conv, norm, outputs, inputs, side in CONVOLUTIONS:
        shapes[f"{conv}.weight"] = (outputs, inputs, side, side)
        shapes[f"{norm}.scale"] = shapes[f"{norm}.bias"] = (1, outputs, 1, 1)
    shapes |= {"fc.weight": (1, 66), "fc.bias": (1,)}
    return {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}


def draw(name: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """One tensor by the golden files' recipe (shared/golden/README.md)."""
    if name == "seg_mask.1.bias":
        return np.zeros(shape)
    if name.endswith(".scale"):
        return rng.uniform(0.5, 1.5, shape)
    if name == "fc.weight" or name.endswith("bias"):
        return rng.normal(0, 0.1, shape)
    return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "segdec_official_1ch.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def state_dict(shared: Path, golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = json.loads((shared / "golden" / "segdec_official_state_dict.json").read_text())
    seed = json.loads(str(golden["meta"]))["seed"]
    return {
        name: draw(name, shape, np.random.default_rng([seed, i])).astype(np.float32)
        for i, (name, shape) in enumerate(names)
    }


def largest_error(actual: jax.Array, published: np.ndarray) -> float:
    """The largest difference, as a part of the published array's largest value."""
    return np.abs(np.asarray(actual).reshape(published.shape) - published).max() / np.abs(published).max()


def mean_error(actual: jax.Array, published: np.ndarray) -> float:
    """The root mean square difference, as a part of the published array's largest value."""
    difference = np.asarray(actual).reshape(published.shape) - published
    return np.sqrt(np.mean(difference**2)) / np.abs(published).max()


def test_golden_outputs_and_training_trajectory(state_dict, golden):
    meta = json.loads(str(golden["meta"]))
    module, variables = pytorch.load("segdec_official", state_dict)
    forward = jax.jit(module.apply)
    outputs = forward(variables, golden["image"])
    assert largest_error(outputs["segmentation"], golden["segmentation_logit"]) < 1e-4
    assert largest_error(outputs["decision"], golden["decision_logit"]) < 1e-4

    config = Config(
        data=DataConfig(distance_power=meta["p"], distance_weight_max=meta["w_max"]),
        loss=LossConfig(reduction="sum", decision_target="mask_max"),
        optimizer=OptimizerConfig(name="sgd", learning_rate=meta["lr"]),
    )
    targets = [
        pipeline.make_target(image, (mask[..., 0] > 0).astype(np.uint8), config.data, Targets(stride=8))
        for image, mask in zip(golden["image"], golden["mask"], strict=True)
    ]
    for i, (target, weight) in enumerate(targets):
        np.testing.assert_allclose(target, golden["seg_target"][i], atol=1e-6)
        np.testing.assert_allclose(weight, golden["seg_weight"][i], atol=1e-5)
    one = np.ones(1, np.float32)
    batches = [
        {"image": image[None], "mask": target[None], "weight": weight[None], "label": one, "has_mask": one}
        for image, (target, weight) in zip(golden["image"], targets, strict=True)
    ]
    balance = schedules.fixed_balance(meta["lambda_"], meta["delta"] * (1 - meta["lambda_"]))
    step = make_step(module, config, Stage("joint", 0, 6, ".*", balance))
    state = TrainState(
        stage_step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats={},
        optimizer=optimizer(config.optimizer, num_steps=6).init(variables["params"]),
        balance=balance.init(),
        ema_params=None,
    )
    losses = []
    for i in range(6):
        state, metrics = step(state, batches[i % 2])
        losses.append([float(metrics["segmentation_loss"]), float(metrics["decision_loss"])])
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-3)
    outputs = forward({"params": state.params}, golden["image"])
    # The root mean square too, and a wider bound for single pixels: weights that differ by 1e-7 switch a ReLU or a
    # pooling somewhere, and after six steps single pixels differ by up to 2e-3 (7.4e-4 with JAX 0.10.2, 1.8e-3 with
    # 0.11.2; a float64 computation is itself 1.03e-3 away from the published float32 one).
    assert np.max(np.abs(outputs["segmentation"] - golden["segmentation_logit_after"])) < 3e-3 * np.max(
        np.abs(golden["segmentation_logit_after"])
    )
    assert mean_error(outputs["segmentation"], golden["segmentation_logit_after"]) < 1e-3
    assert mean_error(outputs["decision"], golden["decision_logit_after"]) < 1e-3


def assert_loaded(variables: dict, tensors: dict[str, np.ndarray]) -> None:
    """Each variable is float32 and holds the value of its tensor (see `colour`)."""
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    assert len(flat) == len(tensors)
    expected = {
        "segmentation/conv1/kernel": (tensors["volume.0.0.weight"], (5, 5, 3, 32)),
        "segmentation/conv9/norm/scale": (tensors["volume.11.1.scale"], (1024,)),
        "segmentation/logit/norm/bias": (tensors["seg_mask.1.bias"], (1,)),
        "decision/conv1/kernel": (tensors["extractor.1.0.weight"], (5, 5, 1025, 8)),
        "decision/head/kernel": (tensors["fc.weight"], (66, 1)),
        "decision/head/bias": (tensors["fc.bias"], (1,)),
    }
    for path, (tensor, shape) in expected.items():
        assert flat[path].shape == shape
        assert flat[path].dtype == jnp.float32
        assert np.unique(flat[path]) == np.unique(tensor)


def test_reads_safetensors(colour, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(colour, path)
    module, variables = pytorch.load("segdec_official", path, dtype="bfloat16", stop_gradient=False)
    assert_loaded(variables, colour)
    assert (module.config.dtype, module.config.stop_gradient) == ("bfloat16", False)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"weights\.safetensors: not a readable safetensors file"):
        pytorch.load("segdec_official", path)


class TorchTensor:
    """What the importer may ask of a tensor that has a gradient."""

    def __init__(self, values: np.ndarray, *, is_plain: bool = False):
        self.values, self.is_plain = values, is_plain

    def detach(self) -> "TorchTensor":
        return TorchTensor(self.values, is_plain=True)

    def cpu(self) -> "TorchTensor":
        return self

    def float(self) -> "TorchTensor":
        return self

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        assert self.is_plain
        return self.values


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_reads_torch_checkpoints_without_running_their_code(colour, tmp_path, monkeypatch, suffix):
    path = tmp_path / f"best{suffix}"
    path.touch()
    checkpoint = {
        "epoch": 3,
        "state_dict": {f"module.{name}": TorchTensor(tensor) for name, tensor in colour.items()},
    }
    calls = []

    def load(path, **options):
        calls.append((path, options))
        return checkpoint

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    _, variables = pytorch.load("segdec_official", str(path))
    assert calls == [(path, {"map_location": "cpu", "weights_only": True})]
    assert_loaded(variables, colour)


def test_unreadable_files_name_the_way_out(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise ValueError("global foo.Bar")

    for suffix in (".pt", ".pth", ".safetensors", ".ckpt"):
        (tmp_path / f"w{suffix}").touch()
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=refuse))
    with pytest.raises(InputError, match=r"w\.pt: torch cannot load .*global foo\.Bar.*torch\.save\(model\.state_dict"):
        pytorch.load("segdec_official", tmp_path / "w.pt")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=lambda path, **options: object()))
    with pytest.raises(InputError, match=r"save model\.state_dict\(\), not model"):
        pytorch.load("segdec_official", tmp_path / "w.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"w\.pth: to read it, install torch .*safetensors"):
        pytorch.load("segdec_official", tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"w\.safetensors: .*pip install safetensors"):
        pytorch.load("segdec_official", tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.ckpt: .*\.safetensors, \.pt, \.pth"):
        pytorch.load("segdec_official", tmp_path / "w.ckpt")
    with pytest.raises(InputError, match=r"absent\.pt: there is no such file"):
        pytorch.load("segdec_official", tmp_path / "absent.pt")
    with pytest.raises(InputError, match="'segdec': must be one of 'segdec_official'"):
        pytorch.load("segdec", {})


def test_every_tensor_that_does_not_fit_is_named(colour):
    del colour["volume.0.1.scale"]
    colour["fc.weight"] = np.zeros((66, 1), np.float32)
    colour["fc.bias"] = np.zeros(1, np.int64)
    colour["volume.0.1.num_batches_tracked"] = np.zeros((), np.int64)
    colour["history"] = [[0.5], [0.4, 0.3]]
    with pytest.raises(InputError) as error:
        pytorch.load("segdec_official", colour)
    heading, *lines = str(error.value).splitlines()
    assert "5 of its tensors" in heading
    assert [line.strip() for line in lines] == [
        "volume.0.1.scale: missing, wanted [1, 32, 1, 1]",
        "fc.weight: found [66, 1], wanted [1, 66]",
        "fc.bias: found values of type int64, wanted floating-point numbers",
        "volume.0.1.num_batches_tracked: found [], unknown to this architecture",
        "history: found [], unknown to this architecture",
    ]


def test_nothing_to_load_names_all_tensors():
    with pytest.raises(InputError, match="41 of its tensors"):
        pytorch.load("segdec_official", {})
