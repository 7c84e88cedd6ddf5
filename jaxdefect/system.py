"""Trains all that one config describes: a detector; with a classifier after it; or an ensemble of detectors.

Every part is an ordinary run of the one training loop, in a directory of its own under the system's, so that each
resumes, is validated and is inspected like any other.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxdefect.config import Config, DataConfig, EnsembleConfig, SplitConfig
from jaxdefect.data import annotation, checks, pipeline, readers, splits
from jaxdefect.inference import choosing, ensemble, four_stage
from jaxdefect.inference.evaluation import score
from jaxdefect.inference.predictor import Predictor
from jaxdefect.training import loop, runs, stacked
from jaxdefect.training.logging import CONSOLE
from jaxdefect.types import InputError, Sample, Split

_MANIFEST = "manifest.json"
_CROPS = "data"  # under the classifier's run
_BATCH = 8


def train(config: Config, workdir: Path) -> int:
    """Trains, or resumes, the system in `workdir`, up to its end.

    Returns:
      0 when finished, 128 + the signal's number when interrupted (then the same call resumes).

    Raises:
      InputError: as `loop.train`.
    """
    if config.ensemble.kind == "per_class":
        return _train_ensemble(config, workdir)
    code = loop.train(config, workdir)
    if code == 0 and config.classifier.is_enabled:
        return _train_classifier(config, workdir)
    return code


def _train_ensemble(config: Config, workdir: Path) -> int:
    """One binary detector per class of the training images, each with every other image as good."""
    member_config = dataclasses.replace(config, ensemble=EnsembleConfig())
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
    splits_by_class = {name: _split_of_class(run.split, samples, name) for name in classes}
    # Members share the length of an epoch, so that they can be trained side by side.
    train_samples = {
        name: _train_samples(member_config, samples, split, name) for name, split in splits_by_class.items()
    }
    steps_per_epoch = config.training.steps_per_epoch or max(
        pipeline.steps_per_epoch(of_class, batch_size=config.training.batch_size) for of_class in train_samples.values()
    )
    members = {}
    for name, split in splits_by_class.items():
        directory = ensemble.member_directory(workdir, name)
        directory.mkdir(parents=True, exist_ok=True)
        splits.save(split, directory / _MANIFEST)
        members[directory] = dataclasses.replace(
            member_config,
            data=dataclasses.replace(config.data, only_class=name),
            split=SplitConfig(kind="manifest", path=str(directory / _MANIFEST)),
            training=dataclasses.replace(config.training, steps_per_epoch=steps_per_epoch),
        )
    CONSOLE.print(f"{workdir}: an ensemble of {len(classes)} detectors, for {', '.join(classes)}")
    if config.ensemble.training == "stacked":
        return stacked.train(members)
    for directory, member in members.items():
        if code := loop.train(member, directory):
            return code
    return 0


def _split_of_class(split: Split, samples: Sequence[Sample], name: str) -> Split:
    """The ensemble's split as the member for one class has it: only its own positives can carry masks."""
    positive = {sample.id for sample in samples if name in sample.classes}
    masked = tuple(id for id in split.masked if id in positive)
    return dataclasses.replace(split, masked=masked, source=f"{split.source}, class {name}")


def _train_samples(config: Config, samples: Sequence[Sample], split: Split, name: str) -> list[Sample]:
    of_class = [annotation.of_class(sample, name) for sample in samples]
    return pipeline.training_samples(of_class, split, config.data)


def _train_classifier(config: Config, workdir: Path) -> int:
    """Stage 4, on the windows that the finished detector gives reason to look at."""
    directory = four_stage.classifier_directory(workdir)
    if not (directory / _MANIFEST).exists():  # written last
        _write_classifier_data(config, workdir, directory)
    data = DataConfig(
        reader="folder",
        root=str(directory / _CROPS),
        image_size=(config.classifier.window_px, config.classifier.window_px),
        num_channels=config.data.num_channels,
        augment=config.classifier.augment,
    )
    classes = tuple(sorted({name for sample in readers.read(data) for name in sample.classes}))
    classifier = Config(
        data=dataclasses.replace(data, classes=classes),
        split=SplitConfig(kind="manifest", path=str(directory / _MANIFEST)),
        model=dataclasses.replace(config.classifier.model, num_classes=len(classes) + 1),
        optimizer=config.classifier.optimizer,
        training=config.classifier.training,
    )
    return loop.train(classifier, directory)


def _write_classifier_data(config: Config, workdir: Path, directory: Path) -> None:
    """Cuts the windows of the training and the validation images, and splits them as the images are.

    Without validation images every fifth training group serves to choose the classifier's checkpoint.
    """
    run = runs.load(workdir)
    samples = readers.read(config.data)
    predictor = Predictor.load(workdir, is_calibrating=True, stages="detector")
    with CONSOLE.status("Looking for the detector's false alarms"):
        calibration = choosing.calibrate_run(predictor, samples, split=run.split, batch_size=_BATCH)
        by_id = {sample.id: sample for sample in samples}
        masked = frozenset(run.split.masked)
        parts = {
            "train": [by_id[id] for id in run.split.train if id in masked or by_id[id].label == 0],
            "validation": [by_id[id] for id in run.split.validation if by_id[id].label == 0 or by_id[id].mask],
        }
        groups = {part: {sample.group for sample in chosen} for part, chosen in parts.items()}
        if not groups["validation"]:
            groups["validation"] = set(sorted(groups["train"])[::5])
        crops = _crops(predictor, [*parts["train"], *parts["validation"]], config, calibration.pixel_threshold)
        written = four_stage.write_crops(crops, directory / _CROPS)
    train = tuple(sample.id for sample in written if sample.group not in groups["validation"])
    validation = tuple(sample.id for sample in written if sample.group in groups["validation"])
    splits.save(Split(train, validation, (), (), source=f"windows of {workdir}"), directory / _MANIFEST)
    num_defects = sum(sample.label for sample in written)
    CONSOLE.print(f"{directory}: {num_defects} windows over true defects, {len(written) - num_defects} over none")


def _crops(
    predictor: Predictor, samples: Sequence[Sample], config: Config, pixel_threshold: float
) -> Iterator[tuple[four_stage.Crop, np.ndarray]]:
    rng = np.random.default_rng(config.classifier.training.seed)
    for scored in score(predictor, samples, batch_size=_BATCH):
        if scored.mask is None:
            continue
        image, _ = pipeline.load(scored.sample, config.data)
        for crop in four_stage.training_crops(
            scored.sample,
            image,
            scored.mask,
            scored.upsampled,
            settings=config.classifier,
            threshold=pixel_threshold,
            join_distance_px=config.inference.join_distance_px,
            rng=rng,
        ):
            yield crop, four_stage.cut_crop(crop, image, settings=config.classifier)
