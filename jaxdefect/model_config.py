"""The configuration of the models: one frozen dataclass per architecture, told apart by its field `architecture`.

Every one has `output_stride` (network input pixels per cell of its maps), `alignment_stride` (as `overlay` wants it: s
where cell i stands at pixel s i, 1 where the cells tile the image), `size_step` (both sides of the input must be
multiples of it) and `threshold` (the score from which an image counts as defective until a calibration says otherwise).
"""

import dataclasses
from typing import ClassVar, Literal

from jaxdefect.types import InputError

Dtype = Literal["float32", "tf32", "bfloat16"]  # of the computation (`models/precision.py`); parameters stay float32
# What the network sees of an intensity x in [0, 1]: x; (x - mean) / deviation of ImageNet's channels; 2 x - 1.
InputNorm = Literal["none", "imagenet", "symmetric"]
LargeKernel = Literal["auto", "direct", "fft"]  # whether inference keeps the spectrum of a 15x15 kernel
Score = Literal["mean", "max"]  # how a map becomes the image's score where no layer is trained for that
_MIN_SIZE = 64


@dataclasses.dataclass(frozen=True)
class SegDecConfig:
    """Options of the two-stage network (`models/segdec.py`); the defaults are the clean joint-training preset."""

    architecture: Literal["segdec"] = "segdec"
    segmentation: Literal["segdec", "unet", "deeplab"] = "segdec"  # the part under the decision network
    kernels: Literal["large", "atrous"] = "large"  # 5x5 and 15x15, or 3x3 with dilation 2 and 7
    num_first_convs: int = 2  # 32-channel convolutions at full resolution; the published joint code has 1
    norm: Literal["feature", "feature_official", "batch"] = "feature"
    attention: bool = False  # squeeze-and-excitation after the 64-channel convolutions
    attention_reduction: int = 16
    decision_input: Literal["logit", "relu"] = "logit"  # what the decision network sees of the segmentation
    stop_gradient: bool = True  # keep the decision loss from training the segmentation network
    initializer: Literal["xavier_normal", "normal"] = "xavier_normal"  # "normal": standard deviation 0.01
    dtype: Dtype = "float32"
    threshold: float = 0.5

    output_stride: ClassVar[int] = 8
    alignment_stride: ClassVar[int] = 8

    @property
    def size_step(self) -> int:
        return {"segdec": 8, "unet": 16, "deeplab": 16}[self.segmentation]


@dataclasses.dataclass(frozen=True)
class BackgroundSuppressionConfig:
    """Options of the one-stage detector with dual background suppression (`models/background_suppression.py`)."""

    architecture: Literal["background_suppression"] = "background_suppression"
    decoder_channels: tuple[int, int, int] = (64, 64, 32)  # coarsest stage first; they mirror the skips
    norm: Literal["feature", "batch"] = "feature"
    initializer: Literal["xavier_normal", "normal"] = "xavier_normal"
    supervision: Literal["stages", "stages_coarse", "stages_fine"] = "stages"  # which maps the loss sees besides f1..f3
    score: Score = "mean"  # "mean": the sum over all pixels, relative to the image's area
    dtype: Dtype = "float32"
    threshold: float = 100 / (1408 * 512)  # sigma = 100 at 1408x512, equation 6

    output_stride: ClassVar[int] = 1
    alignment_stride: ClassVar[int] = 1
    size_step: ClassVar[int] = 8


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
    """Options of the deep regression of severity (`models/regression.py`)."""

    architecture: Literal["regression"] = "regression"
    cell_px: Literal[4, 2] = 4  # side of an output cell
    score: Score = "max"
    dtype: Dtype = "float32"
    threshold: float = 0.5

    @property
    def output_stride(self) -> int:
        return self.cell_px

    alignment_stride: ClassVar[int] = 1
    size_step: ClassVar[int] = 4


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Options of the 24-convolution U-Net with a parameter-free decision (`models/unet.py`)."""

    architecture: Literal["unet"] = "unet"
    resolution: Literal["full", "eighth"] = "full"  # of the map
    norm: Literal["feature", "batch"] = "batch"
    score: Score = "mean"
    dtype: Dtype = "float32"
    threshold: float = 1000 / (1408 * 512)  # of the baseline without dilation in the background-suppression paper

    @property
    def output_stride(self) -> int:
        return 1 if self.resolution == "full" else 8

    @property
    def alignment_stride(self) -> int:
        return self.output_stride

    size_step: ClassVar[int] = 16


@dataclasses.dataclass(frozen=True)
class UNetMobileNetV2Config:
    """Options of the U-Net with a MobileNetV2 encoder (`models/unet_mobilenet.py`)."""

    architecture: Literal["unet_mobilenet_v2"] = "unet_mobilenet_v2"
    pretrained: str = ""  # file of ImageNet weights for the encoder (torchvision's or Keras'); empty: random
    input_norm: InputNorm = "imagenet"
    padding: Literal["torch", "tensorflow"] = "torch"  # of stride-2 convolutions; Keras' weights want "tensorflow"
    score: Score = "max"
    dtype: Dtype = "float32"
    threshold: float = 0.5

    output_stride: ClassVar[int] = 1
    alignment_stride: ClassVar[int] = 1
    size_step: ClassVar[int] = 32


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Options of the ResNet v1 classifier (`models/resnet.py`)."""

    architecture: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 101
    num_classes: int = 1000
    pretrained: str = ""  # file of torchvision's ImageNet weights; empty: random
    input_norm: InputNorm = "imagenet"
    dtype: Dtype = "float32"
    threshold: float = 0.5

    output_stride: ClassVar[int] = 1
    alignment_stride: ClassVar[int] = 1
    size_step: ClassVar[int] = 32


@dataclasses.dataclass(frozen=True)
class MobileNetV2Config:
    """Options of the MobileNetV2 classifier (`models/mobilenet_v2.py`)."""

    architecture: Literal["mobilenet_v2"] = "mobilenet_v2"
    num_classes: int = 1000
    pretrained: str = ""  # file of ImageNet weights (torchvision's or Keras'); empty: random
    input_norm: InputNorm = "imagenet"
    padding: Literal["torch", "tensorflow"] = "torch"
    dtype: Dtype = "float32"
    threshold: float = 0.5

    output_stride: ClassVar[int] = 1
    alignment_stride: ClassVar[int] = 1
    size_step: ClassVar[int] = 32


ModelConfig = (
    SegDecConfig
    | BackgroundSuppressionConfig
    | RegressionConfig
    | UNetConfig
    | UNetMobileNetV2Config
    | ResNetConfig
    | MobileNetV2Config
)


def check_image_size(height: int, width: int, *, step: int = 8, setting: str = "config.data.image_size") -> None:
    """Checks a network's input size, which `setting` gives.

    Raises:
      InputError: a side is not a multiple of `step` of at least 64; it names the nearest valid size.
    """
    nearest = [max(_MIN_SIZE, round(side / step) * step) for side in (height, width)]
    if [height, width] != nearest:
        raise InputError(
            f"image size {height}x{width} (height x width; {setting}): both must be multiples of "
            f"{step} of at least {_MIN_SIZE}; the nearest valid size is {nearest[0]}x{nearest[1]}"
        )
