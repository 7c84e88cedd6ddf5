"""What published PyTorch implementations call their tensors, how they store them, and where they belong here."""

from collections.abc import Mapping

import numpy as np

from jaxdefect.models import mobilenet_v2 as mobilenet
from jaxdefect.models import resnet as residual
from jaxdefect.models.weights import AS_IS, Entry, Layout

# [out, in, height, width] there, [height, width, in, out] here
CONVOLUTION = Layout(lambda shape: (shape[3], shape[2], *shape[:2]), lambda tensor: tensor.transpose(2, 3, 1, 0))
# [out, in] there, [in, out] here
LINEAR = Layout(lambda shape: shape[::-1], lambda tensor: tensor.T)
# [1, C, 1, 1] there, [C] here
CHANNELS = Layout(lambda shape: (1, shape[0], 1, 1), lambda tensor: tensor.ravel())

_COUNTER = "num_batches_tracked"  # of each batch norm; nothing here has a use for it


def without_counters(tensors: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> dict[str, np.ndarray]:
    """The tensors without the batch counts of the architecture's own batch norms; any other stays, to be reported."""
    counters = {f"{name.removesuffix('running_var')}{_COUNTER}" for name in entries if name.endswith(".running_var")}
    return {name: tensor for name, tensor in tensors.items() if name not in counters}


def segdec_official() -> dict[str, Entry]:
    """The code that Božič et al. published with "Mixed supervision for surface-defect detection" (2021)."""
    segmentation, decision = "segmentation", "decision"
    entries: dict[str, Entry] = {}
    # The numbers left out of these sequences are the poolings.
    for number, index in enumerate((0, 2, 3, 4, 6, 7, 8, 9, 11), start=1):
        name = f"volume.{index}"
        entries |= _conv_feature_norm(f"{segmentation}/conv{number}", conv=f"{name}.0", norm=f"{name}.1")
    entries |= _conv_feature_norm(f"{segmentation}/logit", conv="seg_mask.0", norm="seg_mask.1")
    for number, index in enumerate((1, 3, 5), start=1):
        name = f"extractor.{index}"
        entries |= _conv_feature_norm(f"{decision}/conv{number}", conv=f"{name}.0", norm=f"{name}.1")
    return entries | _linear(f"{decision}/head", name="fc")


def resnet(depth: int) -> dict[str, Entry]:
    """torchvision's `resnet18` to `resnet152`."""
    entries = _conv_batch_norm("stem", conv="conv1", norm="bn1")
    num_convs = 3 if residual.is_bottleneck(depth) else 2
    for stage, num_blocks in enumerate(residual.STAGES[depth], start=1):
        for block in range(1, num_blocks + 1):
            path, name = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
            for i in range(1, num_convs + 1):
                entries |= _conv_batch_norm(f"{path}/conv{i}", conv=f"{name}.conv{i}", norm=f"{name}.bn{i}")
            if block == 1 and (stage > 1 or residual.is_bottleneck(depth)):
                shortcut = f"{name}.downsample"
                entries |= _conv_batch_norm(f"{path}/shortcut", conv=f"{shortcut}.0", norm=f"{shortcut}.1")
    return entries | _linear("head", name="fc")


def mobilenet_v2() -> dict[str, Entry]:
    """torchvision's `mobilenet_v2`."""
    return _mobilenet_v2_features("features") | _linear("head", name="classifier.1")


def unet_mobilenet_v2() -> dict[str, Entry]:
    """segmentation_models.pytorch's `Unet("mobilenet_v2")`."""
    entries = _mobilenet_v2_features("encoder.features")
    for number in range(1, 6):
        for conv in ("conv1", "conv2"):
            name = f"decoder.blocks.{number - 1}.{conv}"
            entries |= _conv_batch_norm(f"decoder{number}/{conv}", conv=f"{name}.0", norm=f"{name}.1")
    return entries | {
        "segmentation_head.0.weight": Entry("params/head/kernel", CONVOLUTION),
        "segmentation_head.0.bias": Entry("params/head/bias", AS_IS),
    }


def _mobilenet_v2_features(name: str) -> dict[str, Entry]:
    entries = _conv_batch_norm("encoder/stem", conv=f"{name}.0.0", norm=f"{name}.0.1")
    for number, (expansion, _, _) in enumerate(mobilenet.BLOCKS, start=1):
        path, layer = f"encoder/block{number}", f"{name}.{number}.conv"
        first = 0
        if expansion > 1:
            entries |= _conv_batch_norm(f"{path}/expand", conv=f"{layer}.0.0", norm=f"{layer}.0.1")
            first = 1
        entries |= _conv_batch_norm(f"{path}/depthwise", conv=f"{layer}.{first}.0", norm=f"{layer}.{first}.1")
        entries |= _conv_batch_norm(f"{path}/project", conv=f"{layer}.{first + 1}", norm=f"{layer}.{first + 2}")
    last = len(mobilenet.BLOCKS) + 1
    return entries | _conv_batch_norm("encoder/last", conv=f"{name}.{last}.0", norm=f"{name}.{last}.1")


def _conv_batch_norm(path: str, *, conv: str, norm: str) -> dict[str, Entry]:
    return {
        f"{conv}.weight": Entry(f"params/{path}/kernel", CONVOLUTION),
        f"{norm}.weight": Entry(f"params/{path}/norm/scale", AS_IS),
        f"{norm}.bias": Entry(f"params/{path}/norm/bias", AS_IS),
        f"{norm}.running_mean": Entry(f"batch_stats/{path}/norm/mean", AS_IS),
        f"{norm}.running_var": Entry(f"batch_stats/{path}/norm/var", AS_IS),
    }


def _conv_feature_norm(path: str, *, conv: str, norm: str) -> dict[str, Entry]:
    return {
        f"{conv}.weight": Entry(f"params/{path}/kernel", CONVOLUTION),
        f"{norm}.scale": Entry(f"params/{path}/norm/scale", CHANNELS),
        f"{norm}.bias": Entry(f"params/{path}/norm/bias", CHANNELS),
    }


def _linear(path: str, *, name: str) -> dict[str, Entry]:
    return {
        f"{name}.weight": Entry(f"params/{path}/kernel", LINEAR),
        f"{name}.bias": Entry(f"params/{path}/bias", AS_IS),
    }
