"""torchvision's classifiers and segmentation_models.pytorch's U-Net: published weights give the published outputs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdefect.interop import pytorch
from jaxdefect.types import InputError

GOLDEN = {
    "resnet18": "torchvision_resnet18",
    "resnet101": "torchvision_resnet101",
    "mobilenet_v2": "torchvision_mobilenet_v2",
    "unet_mobilenet_v2": "smp_unet_mobilenet_v2",
}


def draw(name: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """One tensor by the golden files' recipe (shared/golden/README.md)."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("running_mean", "bias")):
        value = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
        value = rng.uniform(0.4, 0.8, shape)
    else:
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return value.astype(np.float32)


def read(shared: Path, architecture: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The state dict and the golden arrays."""
    with np.load(shared / "golden" / f"{GOLDEN[architecture]}.npz") as arrays:
        golden = dict(arrays)
    meta = json.loads(str(golden["meta"]))
    tensors = {
        name: draw(name, shape, np.random.default_rng([meta["seed"], i]))
        for i, (name, shape) in enumerate(meta["state_dict"])
    }
    return tensors, golden


@pytest.mark.parametrize("architecture", GOLDEN)
def test_golden_outputs(shared: Path, architecture: str):
    tensors, golden = read(shared, architecture)
    module, variables = pytorch.load(architecture, tensors)
    outputs = jax.jit(module.apply)(variables, golden["image"])
    actual = outputs["segmentation" if architecture == "unet_mobilenet_v2" else "classes"]
    assert actual.shape == golden["output"].shape
    assert np.abs(actual - golden["output"]).max() < 1e-4 * np.abs(golden["output"]).max()


def test_classes_channels_and_options_follow(shared: Path):
    tensors, _ = read(shared, "resnet18")
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :1]
    module, variables = pytorch.load("resnet18", tensors, dtype="bfloat16", input_norm="imagenet")
    assert (module.config.num_classes, module.config.dtype, module.config.input_norm) == (7, "bfloat16", "imagenet")
    assert variables["params"]["stem"]["kernel"].shape == (7, 7, 1, 64)
    with pytest.raises(InputError, match="option 'depth': architecture 'resnet18' has 'dtype', 'input_norm'"):
        pytorch.load("resnet18", tensors, depth=34)
    with pytest.raises(InputError, match=r"config\.model\.input_norm = 'imagnet': .*did you mean 'imagenet'"):
        pytorch.load("resnet18", tensors, input_norm="imagnet")


def test_batch_counts_may_be_missing_but_only_known_ones_are_dropped(shared: Path):
    tensors, _ = read(shared, "mobilenet_v2")
    counts = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert len(counts) == 52
    bare = {name: tensor for name, tensor in tensors.items() if name not in counts}
    _, with_counts = pytorch.load("mobilenet_v2", tensors)
    _, without = pytorch.load("mobilenet_v2", bare)
    assert jax.tree.all(jax.tree.map(np.array_equal, with_counts, without))
    bare["features.99.num_batches_tracked"] = np.zeros((), np.int64)
    del bare["features.18.1.running_var"]
    with pytest.raises(InputError, match="2 of its tensors do not fit the architecture 'mobilenet_v2'") as error:
        pytorch.load("mobilenet_v2", bare)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "features.18.1.running_var: missing, wanted [1280]",
        "features.99.num_batches_tracked: found [], unknown to this architecture",
    ]
