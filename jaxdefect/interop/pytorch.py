"""Weights of published PyTorch implementations, as a module of this library and its variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from jaxdefect import config, models
from jaxdefect.models import torch_names, weights
from jaxdefect.models.weights import Entry, Shape
from jaxdefect.types import InputError


class Architecture(NamedTuple):
    """A published implementation: its tensors by name, and the module here."""

    entries: Mapping[str, Entry]
    first_weight: str  # [out, in, height, width] of the convolution that sees the image: shows the channels
    last_weight: str  # [classes, in] of a classifier's last layer: shows the classes; "": no classifier
    settings: Mapping[str, Any]  # of the model's config
    options: tuple[str, ...]  # the settings that a caller may choose


def load(
    architecture: str, state_dict: Mapping[str, Any] | str | Path, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A module and its variables, float32, from the weights of a published PyTorch implementation.

    The numbers of input channels and of classes follow from the weights. Every tensor must be known and have its
    published shape: nothing is skipped and nothing is left at an initial value. (The batch counts of batch norms may be
    there and are dropped.)

    Args:
      architecture: a key of `ARCHITECTURES`. "segdec_official": the code that Božič et al. published with "Mixed
        supervision for surface-defect detection" (2021); "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"
        and "mobilenet_v2": torchvision's; "unet_mobilenet_v2": segmentation_models.pytorch's `Unet("mobilenet_v2")`.
      state_dict: tensors by name (anything that `numpy.asarray` takes, or torch tensors), or the path of such a file:
        `.safetensors` (needs the package safetensors), `.pt` or `.pth` (needs torch; no code in the file is run).
        Of a checkpoint that holds more, its "state_dict" is taken; a prefix "module." on every name is dropped.
      **options: settings of the model's config. All: `dtype`. "segdec_official": `stop_gradient`. The others:
        `input_norm`, "none" unless given: the module sees the image as it is. For an image in [0, 1], torchvision's
        ImageNet weights want "imagenet". "unet_mobilenet_v2": `score`.

    Returns:
      The module, and its variables, ready for `module.apply(variables, image, train=False)`.

    Raises:
      InputError: an unknown architecture or option, a file that cannot be read, or tensors that are missing, unknown,
        misshapen or not numbers (all of them are named).
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture {architecture!r}: must be one of {', '.join(map(repr, ARCHITECTURES))}")
    published = ARCHITECTURES[architecture]
    unknown = [name for name in options if name not in published.options]
    if unknown:
        raise InputError(
            f"option {unknown[0]!r}: architecture {architecture!r} has {', '.join(map(repr, published.options))}"
        )
    source = str(state_dict) if isinstance(state_dict, str | Path) else "the state dict"
    tensors = torch_names.without_counters(weights.read_tensors(state_dict), published.entries)
    settings = {**published.settings, **options}
    last = tensors.get(published.last_weight)
    if last is not None and last.ndim == 2:
        settings["num_classes"] = last.shape[0]
    module = models.build(config.complete({"model": settings}).model)
    wanted = _wanted_shapes(module, num_channels=_num_channels(tensors.get(published.first_weight)))
    variables = weights.take(tensors, published.entries, wanted, source=source, architecture=architecture)
    return module, traverse_util.unflatten_dict(variables, sep="/")


def _num_channels(first_weight: np.ndarray | None) -> int:
    """Input channels that the first convolution shows; 1 where it is missing or misshapen, which is reported later."""
    return first_weight.shape[1] if first_weight is not None and first_weight.ndim == 4 else 1


def _wanted_shapes(module: nn.Module, *, num_channels: int) -> dict[str, Shape]:
    variables = jax.eval_shape(lambda: models.init(module, num_channels=num_channels, seed=0))
    leaves: dict[str, Any] = dict(traverse_util.flatten_dict(variables, sep="/"))
    return {path: leaf.shape for path, leaf in leaves.items()}


def _resnet(depth: int) -> Architecture:
    settings = {"architecture": "resnet", "depth": depth, "input_norm": "none"}
    return Architecture(torch_names.resnet(depth), "conv1.weight", "fc.weight", settings, ("dtype", "input_norm"))


ARCHITECTURES: dict[str, Architecture] = {
    "segdec_official": Architecture(
        torch_names.segdec_official(),
        "volume.0.0.weight",
        "",
        {"num_first_convs": 1, "norm": "feature_official", "decision_input": "logit"},
        ("dtype", "stop_gradient"),
    ),
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "resnet152": _resnet(152),
    "mobilenet_v2": Architecture(
        torch_names.mobilenet_v2(),
        "features.0.0.weight",
        "classifier.1.weight",
        {"architecture": "mobilenet_v2", "input_norm": "none"},
        ("dtype", "input_norm"),
    ),
    "unet_mobilenet_v2": Architecture(
        torch_names.unet_mobilenet_v2(),
        "encoder.features.0.0.weight",
        "",
        {"architecture": "unet_mobilenet_v2", "input_norm": "none"},
        ("dtype", "input_norm", "score"),
    ),
}
