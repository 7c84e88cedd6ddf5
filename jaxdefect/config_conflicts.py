"""Settings of the config that contradict each other, or of which one has no effect beside another."""

from typing import TYPE_CHECKING

from jaxdefect.model_config import MobileNetV2Config, RegressionConfig, ResNetConfig, SegDecConfig, check_image_size
from jaxdefect.types import InputError

if TYPE_CHECKING:  # which imports this file
    from jaxdefect.config import AugmentConfig, Config, TrainingConfig

_CLASSIFIERS = (ResNetConfig, MobileNetV2Config)  # of whole images; they have no map
_TRAINED_DECISIONS = (SegDecConfig, *_CLASSIFIERS)  # of the others the score is a function of the map


def check_conflicts(config: "Config") -> None:
    """Checks the settings of a config, each of which is valid by itself, against each other.

    Raises:
      InputError: the first that conflict.
    """
    for check in (
        _check_sizes,
        _check_data,
        _check_split,
        _check_loss,
        _check_optimizer,
        _check_decision,
        _check_architecture,
        _check_resident,
        _check_two_stage,
        _check_batch_norm,
        _check_ensemble,
        _check_classifier,
    ):
        check(config)


def _refuse(setting: str, *conflicts: tuple[bool, str, str]) -> None:
    """Refuses what cannot be used with `setting`.

    Args:
      setting: as "ensemble.kind = 'per_class'".
      *conflicts: whether it is one, the other setting, and what to do.

    Raises:
      InputError: on the first that is one.
    """
    for is_conflict, other, advice in conflicts:
        if is_conflict:
            raise InputError(f"config.{other}: cannot be used with config.{setting}; {advice}")


def _check_sizes(config: "Config") -> None:
    data = config.data
    check_image_size(*data.image_size, step=config.model.size_step)
    if data.num_channels not in (1, 3):
        raise InputError(f"config.data.num_channels = {data.num_channels}: must be 1 (gray) or 3 (colour)")
    side = min(data.image_size)
    if data.fit == "patches" and data.patch_stride_px > side:
        raise InputError(
            f"config.data.patch_stride_px = {data.patch_stride_px}: would leave gaps between patches of "
            f"config.data.image_size = {data.image_size}; must be at most {side}"
        )


def _check_data(config: "Config") -> None:
    """What changes the target of a segmentation, and not a severity; distance weights by halves."""
    data = config.data
    is_severity, advice = data.target == "severity", "a severity is of the mask as it is: set it to"
    _refuse(
        f"data.target = {data.target!r}",
        *(
            (is_severity and value != neutral, f"data.{name} = {value!r}", f"{advice} {neutral!r}")
            for name, value, neutral in (
                ("dilation_px", data.dilation_px, 0),
                ("annotation", data.annotation, "mask"),
                ("distance_weight_max", data.distance_weight_max, 0),
            )
        ),
    )
    _refuse(
        f"data.distance_weight_max = {data.distance_weight_max}",
        (
            data.distance_power > 0 and data.distance_weight_max == 0,
            f"data.distance_power = {data.distance_power}",
            "without weights it has no effect: set that above 0, or it to 0",
        ),
    )


def _check_split(config: "Config") -> None:
    split = config.split
    if 0 <= split.num_positives < split.num_masks:
        raise InputError(
            f"config.split.num_masks = {split.num_masks}: more masks asked than positives "
            f"(config.split.num_positives = {split.num_positives}); lower one or raise the other"
        )
    if split.duplicates == "together" and split.kind not in ("random", "folds"):
        raise InputError(
            f"config.split.duplicates = 'together': config.split.kind = {split.kind!r} has its parts; use 'drop'"
        )
    patience, has_own_parts = config.training.patience_epochs, split.kind in ("manifest", "official_pickle")
    _refuse(
        f"split.validation_fraction = {split.validation_fraction}",
        (
            patience > 0 and split.validation_fraction == 0 and not has_own_parts,
            f"training.patience_epochs = {patience}",
            "without validation images no figure would stop the training: set that above 0, or it to 0",
        ),
    )


def _check_loss(config: "Config") -> None:
    target, loss, model = config.data.target, config.loss, config.model
    if {isinstance(model, RegressionConfig)} != {target == "severity", loss.segmentation == "l2"}:
        raise InputError(
            f"config.data.target = {target!r}, config.loss.segmentation = {loss.segmentation!r} and "
            f"config.model.architecture = {model.architecture!r}: the architecture 'regression' learns the "
            "target 'severity' with the loss 'l2', the others do not"
        )
    kind, power, weight = loss.segmentation, loss.undisputed_power, loss.positive_weight
    _refuse(
        f"loss.segmentation = {kind!r}",
        (
            power > 0 and kind == "l2",
            f"loss.undisputed_power = {power}",
            "a severity is no disputed label: set it to 0",
        ),
        (weight != 1 and kind != "bce", f"loss.positive_weight = {weight}", "only 'bce' has it: set it to 1"),
    )
    _refuse(
        f"loss.balance = {loss.balance!r}",
        (
            loss.decay_feedback > 0 and loss.balance != "decay",
            f"loss.decay_feedback = {loss.decay_feedback}",
            "only 'decay' has it: set it to 0",
        ),
    )
    _refuse(
        f"data.masks = {config.data.masks!r}",
        (
            power > 0 and config.data.masks == "hard",
            f"loss.undisputed_power = {power}",
            "hard masks are undisputed: set that to 'soft', or it to 0",
        ),
    )
    is_decision_weighed = loss.balance != "none" or loss.decision_weight > 0
    _refuse(
        f"model.architecture = {model.architecture!r}",
        (
            is_decision_weighed and not isinstance(model, _TRAINED_DECISIONS),
            f"loss.balance = {loss.balance!r}, config.loss.decision_weight = {loss.decision_weight}",
            "it trains no decision beside the segmentation: set config.loss.balance = 'none' and "
            "config.loss.decision_weight = 0",
        ),
    )


def _check_optimizer(config: "Config") -> None:
    """What only one optimiser has; left as it is by default where another trains."""
    usual = type(config.optimizer)()
    for section, optimizer in (("", config.optimizer), ("classifier.", config.classifier.optimizer)):
        name = f"{section}optimizer"
        _refuse(
            f"{name}.name = {optimizer.name!r}",
            *(
                (
                    optimizer.name != owner and value != default,
                    f"{name}.{key} = {value}",
                    f"only {owner!r} has it: leave it at {default}",
                )
                for key, owner, value, default in (
                    ("momentum", "momentum", optimizer.momentum, usual.momentum),
                    ("weight_decay", "adamw", optimizer.weight_decay, usual.weight_decay),
                )
            ),
        )


def _check_decision(config: "Config") -> None:
    """A decision network that decides has to be trained."""
    if not isinstance(config.model, SegDecConfig) or config.loss.decision_weight > 0:
        return
    is_second_stage, is_network = config.training.stages == "two_stage", config.inference.decision == "network"
    weight = "loss.decision_weight = 0"
    advice = "it would decide by its initial weights: set the weight above 0 or use 'logistic'"
    _refuse("training.stages = 'two_stage'", (is_second_stage, weight, "the second stage has no other loss: raise it"))
    _refuse("inference.decision = 'network'", (is_network, weight, advice))


def _check_resident(config: "Config") -> None:
    """What a training set on the device cannot have: changes that resample an image, or that a severity depends on."""
    classifier = config.classifier
    if classifier.is_enabled and classifier.training.scan_steps:
        _refuse_resampling(classifier.augment, classifier.training, where="classifier.augment", owner="classifier.")
    if not config.training.scan_steps:
        return
    augment, size = config.data.augment, config.data.image_size
    _refuse_resampling(augment, config.training, where="data.augment")
    advice = "switch it off, or set config.training.scan_steps = 0 to augment while decoding"
    _refuse(
        f"training.scan_steps = {config.training.scan_steps}",
        (
            config.data.target == "severity"
            and bool(augment.rotate90 or augment.brightness or augment.contrast or augment.noise),
            "data.target = 'severity' and data.augment.rotate90, brightness, contrast, noise, which change a severity",
            advice,
        ),
        (augment.rotate90 and size[0] != size[1], f"data.augment.rotate90 = True with image_size = {size}", advice),
        (
            config.ensemble.kind != "none" and config.ensemble.training == "stacked",
            "ensemble.training = 'stacked'",
            "use 'sequential'",
        ),
    )


def _refuse_resampling(augment: "AugmentConfig", training: "TrainingConfig", *, where: str, owner: str = "") -> None:
    """`where` and `owner`: the names of the sections, and of what has the second."""
    _refuse(
        f"{owner}training.scan_steps = {training.scan_steps}",
        (
            bool(augment.affine_degrees or augment.affine_scale or augment.affine_shift),
            f"{where}.affine_degrees, affine_scale, affine_shift",
            f"switch it off, or set config.{owner}training.scan_steps = 0 to augment while decoding",
        ),
    )


def _check_architecture(config: "Config") -> None:
    """What only classifiers of whole images have, and what they lack."""
    classes, model, select_by = config.data.classes, config.model, config.training.select_by
    name = f"model.architecture = {model.architecture!r}"
    if isinstance(model, SegDecConfig) and model.segmentation != "segdec":
        convs, usual = model.num_first_convs, SegDecConfig.num_first_convs
        _refuse(
            f"model.segmentation = {model.segmentation!r}",
            (model.attention, "model.attention = True", "only 'segdec' has it: set it to False"),
            (convs != usual, f"model.num_first_convs = {convs}", f"only 'segdec' has them: leave it at {usual}"),
        )
    if not isinstance(model, _CLASSIFIERS):
        _refuse(
            name,
            (
                bool(classes),
                f"data.classes = {classes!r}",
                "leave them empty; to tell them apart, use config.ensemble.kind = 'per_class' or config.classifier",
            ),
            (select_by == "accuracy", "training.select_by = 'accuracy'", "use 'average_precision'"),
        )
        return
    # `system.py` writes such a config for the fourth stage.
    if not classes or model.num_classes != len(classes) + 1:
        raise InputError(
            f"config.{name}, config.model.num_classes = {model.num_classes}, config.data.classes = {classes!r}: a "
            "classifier needs the names of its classes and one output more, for good; to classify defects, use "
            "config.classifier of a detector, which sets both itself"
        )
    is_logistic = config.inference.decision == "logistic"
    is_by_map = select_by == "segmentation_loss"
    _refuse(
        name,
        (is_logistic, "inference.decision = 'logistic'", "a classifier has no map to fit it on: use 'network'"),
        (is_by_map, "training.select_by = 'segmentation_loss'", "a classifier has no segmentation: use 'accuracy'"),
    )


def _check_two_stage(config: "Config") -> None:
    training, model = config.training, config.model
    if training.stages != "two_stage":
        return
    patience, is_by_map = training.patience_epochs, training.select_by == "segmentation_loss"
    _refuse(
        "training.stages = 'two_stage'",
        (config.loss.balance == "decay", "loss.balance = 'decay'", "each stage trains by one loss: use 'none'"),
        (patience > 0, f"training.patience_epochs = {patience}", "set it to 0"),
        (is_by_map, "training.select_by = 'segmentation_loss'", "the second stage keeps it: use 'average_precision'"),
    )
    if not isinstance(model, SegDecConfig):
        raise InputError(
            "config.training.stages = 'two_stage': only the architecture 'segdec' has a decision network to train "
            f"second; {model.architecture!r} has none"
        )
    if model.norm == "batch" or model.segmentation != "segdec":
        raise InputError(
            f"config.model.norm = {model.norm!r}, config.model.segmentation = {model.segmentation!r}: "
            "the running averages of a frozen segmentation network with batch norm would move on; use 'feature' and "
            "'segdec' with config.training.stages = 'two_stage'"
        )


def _check_batch_norm(config: "Config") -> None:
    """The image pooling of DeepLabv3+ has one pixel per image, which varies over the batch only."""
    model, batch_size = config.model, config.training.batch_size
    if isinstance(model, SegDecConfig) and model.segmentation == "deeplab":
        _refuse(
            f"model.segmentation = 'deeplab' and config.model.norm = {model.norm!r}",
            (
                model.norm == "batch" and batch_size == 1,
                f"training.batch_size = {batch_size}",
                "its image pooling sees one pixel per image: set it to 2 or more, or config.model.norm = 'feature'",
            ),
        )


def _check_ensemble(config: "Config") -> None:
    if config.ensemble.kind == "none":
        return
    patience, architecture = config.training.patience_epochs, config.model.architecture
    _refuse(
        f"ensemble.kind = {config.ensemble.kind!r}",
        (config.inference.decision == "logistic", "inference.decision = 'logistic'", "use 'network'"),
        (config.data.fit == "patches", "data.fit = 'patches'", "use 'resize'"),
        (config.classifier.is_enabled, "classifier.is_enabled = True", "set it to False"),
        (isinstance(config.model, _CLASSIFIERS), f"model.architecture = {architecture!r}", "use that of a detector"),
        (
            patience > 0 and config.ensemble.training == "stacked",
            f"training.patience_epochs = {patience}",
            "detectors with config.ensemble.training = 'stacked' end together: set it to 0 or that to 'sequential'",
        ),
    )


def _check_classifier(config: "Config") -> None:
    """The classifier of defects: its own sections, and whether the detector can be followed by one."""
    classifier, architecture = config.classifier, config.model.architecture
    stages, select_by = classifier.training.stages, classifier.training.select_by
    if stages != "joint":
        raise InputError(f"config.classifier.training.stages = {stages!r}: a classifier trains in one; use 'joint'")
    if select_by not in ("accuracy", "average_precision"):
        raise InputError(
            f"config.classifier.training.select_by = {select_by!r}: a classifier has no segmentation; use 'accuracy' "
            "or 'average_precision'"
        )
    if not classifier.is_enabled:
        return
    side, name = classifier.window_px, "config.classifier.window_px"
    check_image_size(side, side, step=classifier.model.size_step, setting=name)
    is_resized, is_logistic = config.data.fit != "patches", config.inference.decision == "logistic"
    _refuse(
        "classifier.is_enabled = True",
        (is_resized, f"data.fit = {config.data.fit!r}", "its windows are at the image's own scale: use 'patches'"),
        (is_logistic, "inference.decision = 'logistic'", "the classifier changes the map it judges: use 'network'"),
        (
            isinstance(config.model, _TRAINED_DECISIONS),
            f"model.architecture = {architecture!r}",
            "its decision would be thrown away: use one that decides by its map, such as 'regression'",
        ),
    )
