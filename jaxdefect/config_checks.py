"""The range of every number of the config."""

import operator
import sys
from typing import Any

from jaxdefect.types import InputError

_HUGE = 2**40
_LARGEST, _SMALLEST = sys.float_info.max, sys.float_info.min
_OWN_RANGES = (  # setting, smallest, largest; of a model's settings only those that its architecture has are checked
    ("data.dilation_px", 0, 1000),
    ("data.distance_power", 0, 100),
    ("data.distance_weight_max", 0, _LARGEST),
    ("data.num_workers", 0, 1000),
    ("data.cache_mb", 0, 1_000_000),
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
    ("data.patch_stride_px", 1, _HUGE),
    ("model.num_first_convs", 1, 10),
    ("model.num_classes", 2, _HUGE),
    ("model.decoder_channels", 1, 4096),
    ("model.threshold", 0, 1),
    ("model.attention_reduction", 1, 64),
    ("loss.decision_weight", 0, _LARGEST),
    ("loss.positive_weight", _SMALLEST, _LARGEST),
    ("loss.undisputed_power", 0, 100),
    ("loss.decay_rate", 0, 1),
    ("loss.decay_feedback", 0, _LARGEST),
    ("optimizer.learning_rate", _SMALLEST, _LARGEST),
    ("optimizer.warmup_steps", 0, _HUGE),
    ("optimizer.momentum", 0, 1),
    ("optimizer.weight_decay", 0, _LARGEST),
    ("optimizer.gradient_clip", 0, _LARGEST),
    ("training.epochs", 1, _HUGE),
    ("training.steps_per_epoch", 0, _HUGE),
    ("training.patience_epochs", 0, _HUGE),
    ("training.batch_size", 1, _HUGE),
    ("training.scan_steps", 0, _HUGE),
    ("training.ema_decay", 0, 1 - sys.float_info.epsilon),
    ("training.validate_every_epochs", 1, _HUGE),
    ("training.checkpoint_every_epochs", 1, _HUGE),
    ("training.seed", 0, 2**32 - 1),
    ("inference.join_distance_px", 0, _HUGE),
    ("inference.min_area_px", 0, _HUGE),
    ("inference.tile_overlap", 0, 0.9),
    ("classifier.window_stride_px", 1, 1024),
)
_RANGES = _OWN_RANGES + tuple(  # the classifier has sections of the same kinds
    (f"classifier.{name.removeprefix('data.')}", smallest, largest)
    for name, smallest, largest in _OWN_RANGES
    if name.startswith(("training.", "optimizer.", "data.augment."))
)


def check_ranges(config: Any) -> None:
    """Checks every number of a `config.Config`, and all those of a tuple, by itself.

    Raises:
      InputError: one is not a number or out of its range.
    """
    for name, smallest, largest in _RANGES:
        section, _, key = name.rpartition(".")
        settings = operator.attrgetter(section)(config)
        if section == "model" and not hasattr(settings, key):
            continue
        value = getattr(settings, key)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(smallest <= number <= largest for number in numbers):
            raise InputError(f"config.{name} = {value!r}: must be {_wanted(smallest, largest)}")


def _wanted(smallest: float, largest: float) -> str:
    if largest < _HUGE:
        return f"between {smallest:g} and {largest:g}"
    return "above 0" if 0 < smallest < 1 else f"{smallest:g} or more"
