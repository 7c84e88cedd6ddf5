"""The configuration: frozen dataclasses, filled from a config file and checked, so that a typo is an error."""

import dataclasses
import difflib
import functools
import sys
import typing
from collections.abc import Mapping
from typing import Any, Literal

from jaxdefect.types import InputError

_SIZE_STEP = 8  # input pixels per pixel of the segmentation map
_MIN_SIZE = 64  # the decision network halves the map three more times
_HUGE = 2**40
_RANGES = (  # setting, smallest, largest
    ("data.dilation_px", 0, 1000),
    ("data.distance_power", 0, 100),
    ("data.distance_weight_max", 0, sys.float_info.max),
    ("data.num_workers", 0, 1000),
    ("data.augment.affine_degrees", 0, 180),
    ("data.augment.affine_scale", 0, 0.9),
    ("data.augment.affine_shift", 0, 1),
    ("data.augment.brightness", 0, 1),
    ("data.augment.contrast", 0, 1),
    ("data.augment.noise", 0, 1),
    ("split.num_folds", 2, 1000),
    ("split.num_positives", -1, _HUGE),
    ("split.num_masks", -1, _HUGE),
    ("split.test_fraction", 0, 0.99),
    ("split.validation_fraction", 0, 0.99),
    ("model.num_first_convs", 1, 10),
    ("model.attention_reduction", 1, 64),
    ("loss.decision_weight", 0, sys.float_info.max),
    ("loss.decay_rate", 0, 1),
    ("loss.decay_feedback", 0, sys.float_info.max),
    ("optimizer.learning_rate", sys.float_info.min, sys.float_info.max),
    ("optimizer.warmup_steps", 0, _HUGE),
    ("optimizer.momentum", 0, 1),
    ("optimizer.weight_decay", 0, sys.float_info.max),
    ("optimizer.gradient_clip", 0, sys.float_info.max),
    ("training.epochs", 1, _HUGE),
    ("training.batch_size", 1, _HUGE),
    ("training.ema_decay", 0, 1 - sys.float_info.epsilon),
    ("training.validate_every_epochs", 1, _HUGE),
    ("training.checkpoint_every_epochs", 1, _HUGE),
    ("training.seed", 0, 2**32 - 1),
)


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

    reader: Literal["kolektor", "severstal", "folder", "synthetic"] = "folder"
    root: str = ""
    image_size: tuple[int, int] = (256, 1600)  # network input, height x width, divisible by 8
    num_channels: int = 1  # 1: gray, 3: colour
    dilation_px: int = 0  # annotation dilated by a structuring element of this side, at input size; 0 or 1: not
    dilation_shape: Literal["square", "ellipse"] = "square"
    target: Literal["soft", "binary"] = "soft"  # the reduced mask as it is, or thresholded at 0.5
    distance_power: float = 0.0  # p: pixel weight = w_max * (distance to the defect's edge / its maximum) ** p
    distance_weight_max: float = 0.0  # w_max; 0 switches the distance weights off (all 1)
    distance_scope: Literal["image", "component"] = "image"  # over what the maximum distance is taken
    sampling: Literal["alternate", "rare_negatives"] = "alternate"
    num_workers: int = 0  # decoding processes; 0 decodes in threads of this process
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
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SegDecConfig:
    """Options of the two-stage network (`models/segdec.py`); the defaults are the clean joint-training preset."""

    architecture: Literal["segdec"] = "segdec"
    kernels: Literal["large", "atrous"] = "large"  # 5x5 and 15x15, or 3x3 with dilation 2 and 7
    num_first_convs: int = 2  # 32-channel convolutions at full resolution; the published joint code has 1
    norm: Literal["feature", "feature_official", "batch"] = "feature"
    attention: bool = False  # squeeze-and-excitation after the 64-channel convolutions
    attention_reduction: int = 16
    decision_input: Literal["logit", "relu"] = "logit"  # what the decision network sees of the segmentation
    stop_gradient: bool = True  # keep the decision loss from training the segmentation network
    initializer: Literal["xavier_normal", "normal"] = "xavier_normal"  # "normal": standard deviation 0.01
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters stay float32


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Loss = w_seg * mean(W * segmentation loss) + w_dec * delta * decision loss; the balance gives w_seg, w_dec."""

    segmentation: Literal["bce", "mse"] = "bce"
    decision_weight: float = 1.0  # delta
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
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: down to 0 over the whole run
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4  # AdamW only
    gradient_clip: float = 0.0  # largest global norm; 0: no clipping


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long to train, how often to look, what to keep."""

    stages: Literal["joint", "two_stage"] = "joint"  # two_stage: segmentation, freeze it, decision
    epochs: int = 50  # of each stage; an epoch shows every positive once and as many negatives
    batch_size: int = 1  # over all devices
    ema_decay: float = 0.0  # of the weights used for evaluation; 0: the weights themselves
    validate_every_epochs: int = 1
    checkpoint_every_epochs: int = 1
    select: Literal["best", "last"] = "best"  # the checkpoint that evaluation uses; "best" by validation AP
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: SegDecConfig = SegDecConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()


def from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a checked `Config` from nested mappings; what is not named keeps its default.

    Raises:
      InputError: an unknown key (with the nearest name), a value of another type, or one out of range.
    """
    config = _build(Config, values, "config")
    _check_ranges(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain dicts and lists, ready for JSON."""
    return _plain(dataclasses.asdict(config))


def difference(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "config") -> list[str]:
    """Lines like "config.optimizer.learning_rate: 0.1 -> 0.2" for every value in which two nested dicts differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b, name = old.get(key), new.get(key), f"{prefix}.{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, prefix=name)
        elif a != b:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise InputError(f"{where}.{key}: no such setting; the nearest is {where}.{near[0]}")
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    return cls(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` asks for; an int serves for a float, a list for a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} = {value!r}: a section with settings of its own is wanted here")
        return _build(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), arguments, n=1)
        hint_text = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{where} = {value!r}: must be one of {', '.join(map(repr, arguments))}{hint_text}")
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise InputError(f"{where} = {value!r}: must be {len(arguments)} values, e.g. (256, 1600)")
        return tuple(_convert(a, v, where) for a, v in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where} = {value!r}: must be of type {hint.__name__}, not {type(value).__name__}")
    return value


def check_image_size(height: int, width: int) -> None:
    """Checks a network's input size.

    Raises:
      InputError: a side is not a multiple of 8 of at least 64; it names the nearest valid size.
    """
    nearest = [max(_MIN_SIZE, round(side / _SIZE_STEP) * _SIZE_STEP) for side in (height, width)]
    if [height, width] != nearest:
        raise InputError(
            f"image size {height}x{width} (height x width; config.data.image_size): both must be multiples of "
            f"{_SIZE_STEP} of at least {_MIN_SIZE}; the nearest valid size is {nearest[0]}x{nearest[1]}"
        )


def _check_ranges(config: Config) -> None:
    data, split, training = config.data, config.split, config.training

    check_image_size(*data.image_size)
    if data.num_channels not in (1, 3):
        raise InputError(f"config.data.num_channels = {data.num_channels}: must be 1 (gray) or 3 (colour)")
    for name, low, high in _RANGES:
        section, key = name.split(".", 1)
        value = functools.reduce(getattr, key.split("."), getattr(config, section))
        if not low <= value <= high:
            at_least = "above 0" if 0 < low < 1 else f"{low:g} or more"
            wanted = f"between {low:g} and {high:g}" if high < _HUGE else at_least
            raise InputError(f"config.{name} = {value!r}: must be {wanted}")
    if 0 <= split.num_positives < split.num_masks:
        raise InputError(
            f"config.split.num_masks = {split.num_masks}: more masks asked than positives "
            f"(config.split.num_positives = {split.num_positives}); lower one or raise the other"
        )
    if training.stages == "two_stage" and config.model.norm == "batch":
        raise InputError(
            "config.model.norm = 'batch': the running averages of a frozen segmentation network would move on; "
            "use 'feature' with config.training.stages = 'two_stage'"
        )
