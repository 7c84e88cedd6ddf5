"""The configuration: frozen dataclasses, filled from a config file and checked, so that a typo is an error."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxdefect import structure
from jaxdefect.config_checks import check_ranges
from jaxdefect.config_conflicts import check_conflicts
from jaxdefect.model_config import LargeKernel, ModelConfig, ResNetConfig, SegDecConfig


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training image and its mask together; all off by default."""

    flip: bool = False  # mirror left-right and top-bottom, each with probability 1/2
    rotate90: bool = False  # rotate by 90 degrees with probability 1/2, resized back to the input size
    affine_degrees: float = 0.0  # rotate by up to this angle
    affine_scale: float = 0.0  # zoom by a factor in [1 - s, 1 + s]
    affine_shift: float = 0.0  # shift by up to this fraction of height and width
    brightness: float = 0.0  # add a value in [-b, b] (intensities are in [0, 1])
    contrast: float = 0.0  # scale about the image's mean by a factor in [1 - c, 1 + c]
    noise: float = 0.0  # add normal noise with a standard deviation in [0, n]


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The procedural data set that the `synthetic` reader writes when its folder does not exist yet."""

    layout: Literal["severstal", "folder"] = "severstal"
    num_images: int = 240
    positive_fraction: float = 0.5
    height: int = 256
    width: int = 1600
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they become network input and targets."""

    reader: Literal[
        "folder",
        "synthetic",
        "kolektor",
        "kolektor2",
        "severstal",
        "dagm",
        "aiglern",
        "crackforest",
        "magnetic_tile",
        "mvtec",
        "via",
        "coco",
        "labelme",
    ] = "folder"
    root: str = ""
    # Network input, height x width; both at least 64 and multiples of 4 to 32, by architecture (its `size_step`).
    image_size: tuple[int, int] = (256, 1600)
    num_channels: int = 1  # 1: gray, 3: colour
    # "resize": the image is resized to image_size; "patches": it keeps its size, and the network sees overlapping
    # patches of image_size, in training and in use.
    fit: Literal["resize", "patches"] = "resize"
    patch_stride_px: int = 64
    masks: Literal["hard", "soft"] = "hard"  # soft: a mask file's gray level / maximum is a degree of defect in [0, 1]
    classes: tuple[str, ...] = ()  # for classifiers: class k of the output is the k-th of these, class 0 is "good"
    only_class: str = ""  # only defects of this class count; every other image is good
    annotation: Literal["mask", "box", "rotated_box"] = "mask"  # to train by; coarse: every defect filled to its box
    dilation_px: int = 0  # annotation dilated by a structuring element of this side, at input size; 0 or 1: not
    dilation_shape: Literal["square", "ellipse"] = "square"
    # The mask at output resolution: as it is ("soft") or thresholded at 0.5; or the severity of each cell, from image
    # and mask (`data/severity.py`).
    target: Literal["soft", "binary", "severity"] = "soft"
    distance_power: float = 0.0  # p: pixel weight = w_max * (distance to the defect's edge / its maximum) ** p
    distance_weight_max: float = 0.0  # w_max; 0 switches the distance weights off (all 1)
    distance_scope: Literal["image", "component"] = "image"  # over what the maximum distance is taken
    sampling: Literal["alternate", "rare_negatives"] = "alternate"
    num_workers: int = 0  # decoding processes; 0 decodes in threads of this process
    # Training images and masks, decoded and resized, are kept in up to this much memory, by each training and each of
    # its decoding processes; what does not fit is read again every time.
    cache_mb: int = 1024
    augment: AugmentConfig = AugmentConfig()
    synthetic: SyntheticConfig = SyntheticConfig()


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Which images train, validate and test, and which training positives carry masks; all by seed."""

    kind: Literal["random", "folds", "kolektor_published", "official_pickle", "manifest"] = "random"
    path: str = ""  # the manifest or pickle to read, for those two kinds
    fold: int = 0
    num_folds: int = 3
    test_fraction: float = 0.2  # of the groups, for kind "random"
    validation_fraction: float = 0.2  # of the groups that are left for training
    num_positives: int = -1  # training positives used; -1: all
    num_masks: int = -1  # how many of those carry masks; -1: all that have one
    # Images with identical files. "keep": split like any others. "together" (kinds "random", "folds"): their groups
    # count as one. "drop": training images that are validated or tested too leave, as do validation images tested too.
    duplicates: Literal["keep", "together", "drop"] = "keep"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Loss = w_seg * mean(W * segmentation loss) + w_dec * delta * decision loss; the balance gives w_seg, w_dec."""

    segmentation: Literal["bce", "mse", "l2"] = "bce"  # "mse": of the sigmoid, "l2": of the output itself
    positive_weight: float = 1.0  # "bce": factor on the defect's part of the cross-entropy, against imbalance
    undisputed_power: float = 0.0  # p: a pixel of a soft mask y weighs |2 y - 1| ** p; 0: all weigh 1
    decision_weight: float = 1.0  # delta; 0 where the decision is not trained
    decision_target: Literal["label", "mask_max"] = "label"  # "mask_max": soft, as the published joint code has it
    reduction: Literal["mean", "sum"] = "mean"  # over the images of a batch
    balance: Literal["linear", "decay", "none"] = "linear"  # (1 - n/N, n/N); (theta, 1 - theta); (1, 1)
    decay_rate: float = 0.01  # beta of theta_n = (1 - beta) theta_(n-1) - alpha g_n, theta_0 = 1
    decay_feedback: float = 0.0  # alpha; g_n is the mean of (segmentation - delta * decision loss) in epoch n


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The Optax optimiser."""

    name: Literal["sgd", "momentum", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: down to 0 over each stage
    warmup_steps: int = 0  # at the start of each stage
    momentum: float = 0.9  # "momentum" only
    weight_decay: float = 1e-4  # AdamW only
    gradient_clip: float = 0.0  # largest global norm; 0: no clipping


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long to train, how often to look, what to keep."""

    stages: Literal["joint", "two_stage"] = "joint"  # two_stage: segmentation, freeze it, decision
    epochs: int = 50  # of each stage; an epoch shows every positive once and as many negatives
    steps_per_epoch: int = 0  # 0: as many as show every positive once
    batch_size: int = 1  # over all devices
    # 0: Grain feeds every step. K: the decoded training set stays on the device, which gathers, augments and trains on
    # K batches in one call (`training/resident.py`); for data that fits.
    scan_steps: int = 0
    ema_decay: float = 0.0  # of the weights used for evaluation; 0: the weights themselves
    validate_every_epochs: int = 1
    checkpoint_every_epochs: int = 1  # besides those that are validated, which are all saved
    select: Literal["best", "last"] = "best"  # the checkpoint that evaluation uses; "best" on the validation images...
    select_by: Literal["average_precision", "segmentation_loss", "accuracy"] = "average_precision"  # ...by this figure
    patience_epochs: int = 0  # stop when that figure has not improved for so many epochs; 0: train to the end
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How maps become decisions and defects."""

    # The image's score: of the trained network, or a logistic regression on (max, mean) of the map, fitted on the
    # training images.
    decision: Literal["network", "logistic"] = "network"
    pixel_criterion: Literal["f1", "mean_iou"] = "f1"  # what the pixel threshold maximises; mean_iou: over the images
    join_distance_px: int = 0  # components closer than this are one defect
    min_area_px: int = 0  # what is smaller, after joining, is no defect
    tile_overlap: float = 0.5  # the share of a tile's side that neighbouring tiles of an image have in common
    large_kernel: LargeKernel = "auto"  # whether a 15x15 kernel's spectrum is kept: see models.inference_variables


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """One binary model per defect class instead of one for all."""

    kind: Literal["none", "per_class"] = "none"
    training: Literal["stacked", "sequential"] = "stacked"  # all in one compiled program, or one after the other


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """The fourth stage of deep regression: windows over each detected defect, classified; the majority decides.

    It is trained after the detector on the true defects and on the detector's own false alarms.
    """

    is_enabled: bool = False
    window_px: int = 64
    window_stride_px: int = 32
    model: ResNetConfig = dataclasses.field(default_factory=ResNetConfig)
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=1e-3)
    training: TrainingConfig = TrainingConfig(epochs=20, batch_size=32, select_by="accuracy")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = dataclasses.field(default_factory=SegDecConfig)
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)


def complete(values: Mapping[str, Any]) -> Config:
    """Builds a `Config` from nested mappings; what is not named keeps its default.

    For settings that are still to be overridden, and of a network alone; `from_dict` checks more.

    Raises:
      InputError: an unknown key (with the nearest name), or a value of another type.
    """
    return structure.build(Config, values, "config")


def from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a checked `Config` from nested mappings; what is not named keeps its default.

    Raises:
      InputError: as `complete`; a number out of range; or settings that contradict each other.
    """
    config = complete(values)
    check_ranges(config)
    check_conflicts(config)
    return config


def from_saved(values: Mapping[str, Any]) -> Config:
    """The `Config` of a run or an export that exists: `from_dict` checked it by what was known to conflict then.

    Raises:
      InputError: as `complete`, or a number out of range.
    """
    config = complete(values)
    check_ranges(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain dicts and lists, ready for JSON."""
    return structure.plain(dataclasses.asdict(config))
