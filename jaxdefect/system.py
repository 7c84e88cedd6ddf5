"""Trains all that one config describes: a detector; with a classifier after it; or an ensemble of detectors.

Every part is an ordinary run of the one training loop, in a directory of its own under the system's, so that each
resumes, is validated and is inspected like any other.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxdefect import config as config_lib
from jaxdefect import models
from jaxdefect.config import Config, DataConfig, EnsembleConfig, LossConfig, SplitConfig
from jaxdefect.data import annotation, checks, pipeline, readers, splits
from jaxdefect.data.sources import ArrayImage
from jaxdefect.inference import choosing, ensemble, four_stage, windows
from jaxdefect.inference.evaluation import score
from jaxdefect.inference.predictor import Predictor
from jaxdefect.models import pretrained
from jaxdefect.training import checkpoint, loop, runs, stacked
from jaxdefect.training.logging import CONSOLE
from jaxdefect.types import InputError, Sample, Split

_MANIFEST = "manifest.json"
_CROPS = "data"  # under the classifier's run
_BATCH = 8


def train(config: Config, workdir: Path, *, goes_on: bool = False) -> int:
    """Trains, or resumes, the system in `workdir`, up to its end.

    Args:
      config: of the system.
      workdir: its directory.
      goes_on: as `loop.train`.

    Returns:
      As `loop.train`.

    Raises:
      InputError: as `loop.train`.
    """
    if config.ensemble.kind == "per_class":
        return _train_ensemble(config, workdir, goes_on=goes_on)
    if not config.classifier.is_enabled:
        return loop.train(config, workdir, goes_on=goes_on)
    _check_classifier(config)
    return loop.train(config, workdir, goes_on=True) or _train_classifier(config, workdir, goes_on=goes_on)


def _train_ensemble(config: Config, workdir: Path, *, goes_on: bool) -> int:
    """One binary detector per class of the training images, each with every other image as good."""
    checks.check_writable(workdir)
    runs.check_config(workdir, config)
    samples = readers.read(config.data)
    run = runs.open_run(workdir, config, samples)
    by_id = {sample.id: sample for sample in samples}
    classes = sorted({name for id in run.split.train for name in by_id[id].classes})
    if not classes:
        raise InputError(
            "config.ensemble.kind = 'per_class': no training image has a class; the reader must give classes (for a "
            "plain folder: the column classes of labels.csv)"
        )
    parts = {name: _part_of_class(run.split, samples, name) for name in classes}
    # Members share the length of an epoch, so that they can be trained side by side.
    steps_per_epoch = config.training.steps_per_epoch or max(
        pipeline.steps_per_epoch(
            pipeline.training_samples(part.samples, part.split, config.data), batch_size=config.training.batch_size
        )
        for part in parts.values()
    )
    member = dataclasses.replace(
        config,
        ensemble=EnsembleConfig(),
        training=dataclasses.replace(config.training, steps_per_epoch=steps_per_epoch),
    )
    directories = {ensemble.member_directory(workdir, name): name for name in classes}
    configs = {
        directory: dataclasses.replace(member, data=dataclasses.replace(config.data, only_class=name))
        for directory, name in directories.items()
    }
    CONSOLE.print(f"{workdir}: an ensemble of {len(classes)} detectors, for {', '.join(classes)}")
    if config.ensemble.training == "stacked":
        by_directory = {directory: parts[name] for directory, name in directories.items()}
        try:
            return stacked.train(configs, parts=by_directory, goes_on=goes_on)
        except stacked.Apart as error:
            CONSOLE.print(f"one after another: {error}")
    loop.check_disk(configs)
    *_, last = directories
    for directory, name in directories.items():
        if code := loop.train(configs[directory], directory, part=parts[name], goes_on=goes_on or directory != last):
            return code
    return 0


def _part_of_class(split: Split, samples: Sequence[Sample], name: str) -> loop.Part:
    """The data as the member for one class sees it: only its own positives can carry masks."""
    of_class = [annotation.of_class(sample, name) for sample in samples]
    positive = {sample.id for sample in of_class if sample.label}
    masked = tuple(id for id in split.masked if id in positive)
    return loop.Part(of_class, dataclasses.replace(split, masked=masked, source=f"{split.source}, class {name}"))


def _train_classifier(config: Config, workdir: Path, *, goes_on: bool) -> int:
    """Stage 4, on the windows that the finished detector gives reason to look at."""
    directory = four_stage.classifier_directory(workdir)
    manifest = directory / _MANIFEST
    if not manifest.exists():  # written last
        _write_classifier_data(config, workdir, directory)
    data = dataclasses.replace(_classifier_data(config), root=str(directory / _CROPS))
    samples = readers.read(data)
    classes = tuple(sorted({name for sample in samples for name in sample.classes}))
    # The path is not part of the config: the run may be moved.
    own = _classifier_config(config, classes)
    return loop.train(own, directory, part=loop.Part(samples, splits.load(manifest)), goes_on=goes_on)


def _classifier_data(config: Config) -> DataConfig:
    return DataConfig(
        reader="folder",
        root=_CROPS,
        image_size=(config.classifier.window_px, config.classifier.window_px),
        num_channels=config.data.num_channels,
        augment=config.classifier.augment,
    )


def _classifier_config(config: Config, classes: tuple[str, ...]) -> Config:
    """The config of the classifier's run."""
    return Config(
        data=dataclasses.replace(_classifier_data(config), classes=classes),
        split=SplitConfig(kind="manifest", path=_MANIFEST),
        model=dataclasses.replace(config.classifier.model, num_classes=len(classes) + 1),
        loss=LossConfig(balance="none"),
        optimizer=config.classifier.optimizer,
        training=config.classifier.training,
    )


def _check_classifier(config: Config) -> None:
    """Finds what is wrong with the classifier's settings before its detector is trained.

    Raises:
      InputError: its pretrained weights are missing or do not fit; or its run could not be read again.
    """
    own = config_lib.from_dict(config_lib.to_dict(_classifier_config(config, ("defect",))))
    wanted = checkpoint.template(models.build(own.model), own)
    pretrained.load_pretrained(own.model, wanted, setting="config.classifier.model")


def _write_classifier_data(config: Config, workdir: Path, directory: Path) -> None:
    """Cuts the windows of the training and the validation images, and splits them as the images are."""
    run = runs.load(workdir)
    samples = readers.read(config.data)
    predictor = Predictor.load(workdir, is_calibrating=True, stages="detector").on_all_devices()
    with CONSOLE.status("Looking for the detector's false alarms"):
        calibration = choosing.calibrate_run(predictor, samples, split=run.split, batch_size=_BATCH)
        by_id = {sample.id: sample for sample in samples}
        masked = frozenset(run.split.masked)
        train = [by_id[id] for id in run.split.train if id in masked or by_id[id].label == 0]
        validation = [by_id[id] for id in run.split.validation if by_id[id].label == 0 or by_id[id].mask is not None]
        crops = _crops(predictor, [*train, *validation], config, calibration.pixel_threshold)
        written = four_stage.write_crops(crops, directory / _CROPS)
    split = split_windows(written, {sample.group for sample in validation}, source=f"windows of {workdir}")
    splits.save(split, directory / _MANIFEST)
    num_defects = sum(sample.label for sample in written)
    CONSOLE.print(f"{directory}: {num_defects} windows over true defects, {len(written) - num_defects} over none")


def split_windows(crops: Sequence[Sample], validation_groups: set[str], *, source: str) -> Split:
    """Cut windows to train on and to choose the classifier's checkpoint by.

    Where the validation images do not show both, defects and none, every fifth group with a defect validates instead;
    if that leaves one of the two without both, there is no validation.
    """
    fifth = set(sorted({crop.group for crop in crops if crop.label})[::5])
    for groups in (validation_groups, fifth):
        validation = [crop for crop in crops if crop.group in groups]
        train = [crop for crop in crops if crop.group not in groups]
        if all({crop.label for crop in part} == {0, 1} for part in (train, validation)):
            ids = (tuple(crop.id for crop in part) for part in (train, validation))
            return Split(*ids, test=(), masked=(), source=source)
    return Split(tuple(crop.id for crop in crops), (), (), (), source=source)


def _crops(
    predictor: Predictor, samples: Sequence[Sample], config: Config, pixel_threshold: float
) -> Iterator[tuple[four_stage.Crop, np.ndarray]]:
    rng = np.random.default_rng(config.classifier.training.seed)
    for scored in score(predictor, samples, batch_size=_BATCH):
        if scored.mask is None:
            continue
        image, _ = pipeline.load(scored.sample, config.data)
        crops = four_stage.training_crops(
            scored.sample,
            scored.mask,
            scored.upsampled,
            settings=config.classifier,
            threshold=pixel_threshold,
            join_distance_px=config.inference.join_distance_px,
            rng=rng,
        )
        places = [crop.window for crop in crops]
        cuts = windows.cut_windows(ArrayImage(image), places, window_px=config.classifier.window_px)
        yield from zip(crops, cuts, strict=True)
