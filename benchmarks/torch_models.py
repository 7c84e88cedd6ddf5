"""The peers: PyTorch versions of four networks, written from the papers, with the module names of ours.

The names agree so that `copy_variables` can carry our weights over, and the benchmark compare the outputs. Nothing in
jaxdefect imports PyTorch; it comes with the `benchmark` extra.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxdefect.models.mobilenet_v2 import BLOCKS, NUM_FEATURES
from jaxdefect.types import MAX_SEVERITY

_EPSILON = 1e-3


class InstanceNorm(nn.Module):
    """Statistics of each image and channel, affine: what batch norm does at batch 1 in training mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # `instance_norm` gives its result in the other layout where the channels are last.
        if len(x) == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=_EPSILON)
        if x.is_contiguous():
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=_EPSILON)
        variance, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + _EPSILON) * self.weight[:, None, None]
        return (x * scale + (self.bias[:, None, None] - mean * scale)).to(x.dtype)


class ConvNorm(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, *, is_logit: bool = False):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = InstanceNorm(outputs)
        self.is_logit = is_logit

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.is_logit else F.relu(x)


class SqueezeExcitation(nn.Module):
    """Channel attention (Hu 2018)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class SegDec(nn.Module):
    """Tabernik 2019 (system 1: 5x5 and 15x15) or Bi 2022 (`is_atrous`: dilated 3x3 and attention)."""

    def __init__(self, *, is_atrous: bool, channels: int = 1, num_first_convs: int = 2):
        super().__init__()
        kernel, dilation = (3, 2) if is_atrous else (5, 1)
        segmentation = nn.ModuleDict()
        self.order: list[str] = []
        number, inputs = 0, channels
        for features, num_convs in ((32, num_first_convs), (64, 3), (64, 4)):
            for _ in range(num_convs):
                number += 1
                self._add(segmentation, f"conv{number}", ConvNorm(inputs, features, kernel, dilation))
                if is_atrous and features == 64:
                    self._add(segmentation, f"attention{number}", SqueezeExcitation(features))
                inputs = features
            self.order.append("pool")
        large, wide = (3, 7) if is_atrous else (15, 1)
        self._add(segmentation, f"conv{number + 1}", ConvNorm(64, 1024, large, wide))
        segmentation["logit"] = ConvNorm(1024, 1, 1, is_logit=True)
        self.segmentation = segmentation
        self.decision = nn.ModuleDict(
            {
                "conv1": ConvNorm(1025, 8, kernel, dilation),
                "conv2": ConvNorm(8, 16, kernel, dilation),
                "conv3": ConvNorm(16, 32, kernel, dilation),
                "head": nn.Linear(66, 1),
            }
        )

    def _add(self, into: nn.ModuleDict, name: str, module: nn.Module) -> None:
        into[name] = module
        self.order.append(name)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> logit maps [B, 1, H/8, W/8] and decision logits [B]."""
        x = image
        for name in self.order:
            x = F.max_pool2d(x, 2) if name == "pool" else self.segmentation[name](x)
        logit = self.segmentation["logit"](x)
        x, seen = x.detach(), logit.detach()
        x = torch.cat([x, seen], 1)
        for name in ("conv1", "conv2", "conv3"):
            x = self.decision[name](F.max_pool2d(x, 2))
        pooled = [pool(y) for y in (x, seen) for pool in (lambda y: y.amax((2, 3)), lambda y: y.mean((2, 3)))]
        return logit, self.decision["head"](torch.cat(pooled, 1))[:, 0]


class Activation(nn.Module):
    """Batch norm and ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x))


class ResidualStage(nn.Module):
    """Two pre-activation bottlenecks (He & Liu 2020, tables 2 and 3)."""

    def __init__(self, inputs: int, narrow: int, wide: int):
        super().__init__()
        plan = {1: (inputs, narrow, 1), 2: (narrow, narrow, 5), 3: (narrow, wide, 5), 4: (inputs, wide, 1)}
        plan |= {5: (wide, narrow, 1), 6: (narrow, narrow, 5), 7: (narrow, wide, 5)}
        for number, (i, o, kernel) in plan.items():
            self.add_module(f"conv{number}", nn.Conv2d(i, o, kernel, padding=kernel // 2, bias=False))
            if number != 4:
                self.add_module(f"activation{number}", Activation(i))

    def _bottleneck(self, x: Tensor, first: int) -> Tensor:
        x = self.get_submodule(f"conv{first}")(x)
        for number in (first + 1, first + 2):
            x = self.get_submodule(f"conv{number}")(self.get_submodule(f"activation{number}")(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule("activation1")(x)
        x = self._bottleneck(x, 1) + self.get_submodule("conv4")(x)
        return x + self._bottleneck(self.get_submodule("activation5")(x), 5)


class Regression(nn.Module):
    """Deep regression of severity, cells of 4x4 pixels (He & Liu 2020)."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.input_norm = nn.BatchNorm2d(channels, eps=_EPSILON)
        self.conv1 = nn.Conv2d(channels, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.stage1 = ResidualStage(16, 8, 32)
        self.stage2 = ResidualStage(32, 16, 64)
        self.activation = Activation(64)
        self.conv3 = nn.Conv2d(64, 512, 3, padding=1)
        self.severity = nn.Conv2d(512, 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> severities [B, 1, H/4, W/4] and their share of the largest, at its maximum, [B]."""
        x = F.relu(self.conv1(self.input_norm(image)))
        for conv in (self.conv2, None):
            # Flax's SAME padding at stride 2: none before, one after, which is not counted.
            x = F.avg_pool2d(x, 3, 2, ceil_mode=True, count_include_pad=False)
            x = x if conv is None else F.relu(conv(x))
        x = F.relu(self.conv3(self.activation(self.stage2(self.stage1(x)))))
        severity = self.severity(x)
        return severity, (severity / MAX_SEVERITY).clamp(0, 1).amax((1, 2, 3))


class ConvBatchNorm(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Any = F.relu):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-5)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        if expansion > 1:
            self.expand = ConvBatchNorm(inputs, hidden, 1, act=F.relu6)
        self.depthwise = ConvBatchNorm(hidden, hidden, 3, stride, groups=hidden, act=F.relu6)
        self.project = ConvBatchNorm(hidden, outputs, 1, act=None)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(x) if hasattr(self, "expand") else x
        out = self.project(self.depthwise(hidden))
        return x + out if self.has_shortcut else out


class UNetMobileNetV2(nn.Module):
    """U-Net with a MobileNetV2 encoder, as the ensemble's members are."""

    _SKIPS = (1, 3, 6, 13)

    def __init__(self, channels: int = 3):
        super().__init__()
        encoder = nn.ModuleDict({"stem": ConvBatchNorm(channels, 32, 3, 2, act=F.relu6)})
        inputs, skips = 32, []
        for number, (expansion, features, stride) in enumerate(BLOCKS, start=1):
            encoder[f"block{number}"] = InvertedResidual(inputs, features, stride, expansion)
            inputs = features
            if number in self._SKIPS:
                skips.append(features)
        encoder["last"] = ConvBatchNorm(inputs, NUM_FEATURES, 1, act=F.relu6)
        self.encoder = encoder
        inputs = NUM_FEATURES
        for number, (features, skip) in enumerate(
            zip((256, 128, 64, 32, 16), [*reversed(skips), 0], strict=True), start=1
        ):
            block = {"conv1": ConvBatchNorm(inputs + skip, features), "conv2": ConvBatchNorm(features, features)}
            self.add_module(f"decoder{number}", nn.ModuleDict(block))
            inputs = features
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised [B, C, H, W] -> logit maps [B, 1, H, W] and their maxima [B]."""
        x, skips = self.encoder["stem"](image), []
        for number in range(1, len(BLOCKS) + 1):
            x = self.encoder[f"block{number}"](x)
            if number in self._SKIPS:
                skips.append(x)
        x = self.encoder["last"](x)
        for number, skip in enumerate([*reversed(skips), None], start=1):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = x if skip is None else torch.cat([x, skip], 1)
            block = self.get_submodule(f"decoder{number}")
            x = block["conv2"](block["conv1"](x))  # pyright: ignore
        logit = self.head(x)
        return logit, logit.amax((1, 2, 3))


def copy_variables(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Our variables into a peer: every one must find its place, and every place be filled.

    Raises:
      KeyError, ValueError: names or shapes that do not fit.
    """
    wanted = module.state_dict()
    found = {}
    arrays = _flat(variables.get("params", {})) | _flat(variables.get("batch_stats", {}))
    for path, value in arrays.items():
        *parents, leaf = path
        kind = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
        # Where ours holds a convolution's kernel itself, the peer has a module of its own for it.
        holders = (".".join([*parents, kind]), ".".join([*parents, "conv", kind]))
        name = next(name for name in holders if name in wanted)
        array = np.asarray(value)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        found[name] = torch.from_numpy(array.copy())  # JAX's own memory is read-only
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    module.load_state_dict(found | counters)


def _flat(tree: Mapping[str, Any], parents: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, (*parents, name)) if isinstance(value, Mapping) else {(*parents, name): value}
    return flat
