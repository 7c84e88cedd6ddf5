"""Readers: one file per data set or label format, each giving `Sample` records; `read` picks one by the config."""

import dataclasses
from pathlib import Path

from jaxdefect.config import DataConfig
from jaxdefect.data import annotation
from jaxdefect.data.readers import (
    aiglern,
    coco,
    crackforest,
    dagm,
    files,
    folder,
    kolektor,
    kolektor2,
    labelme,
    magnetic_tile,
    mvtec,
    severstal,
    synthetic,
    via,
)
from jaxdefect.types import InputError, Mask, MaskFile, Sample

_READERS = {
    "kolektor": kolektor.read,
    "kolektor2": kolektor2.read,
    "severstal": severstal.read,
    "dagm": dagm.read,
    "aiglern": aiglern.read,
    "crackforest": crackforest.read,
    "magnetic_tile": magnetic_tile.read,
    "mvtec": mvtec.read,
    "via": via.read,
    "coco": coco.read,
    "labelme": labelme.read,
    "folder": folder.read,
}

_WHERE_TO_GET = {
    "kolektor": "KolektorSDD can be had from https://www.vicos.si/resources/kolektorsdd/ ; unpack it",
    "kolektor2": "KolektorSDD2 can be had from https://www.vicos.si/resources/kolektorsdd2/ ; unpack it",
    "severstal": 'Severstal is the Kaggle competition "severstal-steel-defect-detection"; after accepting its rules, '
    "unpack train.csv and train_images/",
    "dagm": "DAGM 2007 can be had from "
    "https://hci.iwr.uni-heidelberg.de/content/weakly-supervised-learning-industrial-optical-inspection , in its older "
    "layout from https://conferences.mpi-inf.mpg.de/dagm/2007/prizes.html ; unpack it",
    "aiglern": "AigleRN is part of https://www.irit.fr/~Sylvie.Chambon/Crack_Detection_Database.html ; unpack it",
    "crackforest": "CrackForest can be had from https://github.com/cuilimeng/CrackForest-dataset ; unpack it",
    "magnetic_tile": "the magnetic-tile data can be had from "
    "https://github.com/abin24/Magnetic-tile-defect-datasets. (the dot belongs to it); unpack the folders MT_*",
    "mvtec": "MVTec AD can be had from https://www.mvtec.com/company/research/datasets/mvtec-ad ; unpack it",
    "via": "put your images and the JSON or CSV file that VIA (https://www.robots.ox.ac.uk/~vgg/software/via/) exports",
    "coco": "put your images and their annotations, one JSON file in COCO's format (https://cocodataset.org),",
    "labelme": "put your images and the JSON files that labelme (https://github.com/wkentaro/labelme) writes",
    "folder": "put your images into images/ and their masks into masks/, or list them in labels.csv",
}


class SettingError(InputError):
    """A setting in `config.data` that the data set does not suit, where the data set itself may be sound."""


def read(config: DataConfig, *, as_they_stand: bool = False) -> list[Sample]:
    """Reads the samples of the data set that the config names, without decoding the images.

    With `config.masks` "soft" the masks that are image files become soft ones; with `config.only_class` every image
    without a defect of that class is good. `as_they_stand`: for an audit, also where masks cannot be used or
    contradict the label.

    Raises:
      SettingError: the folder is missing or empty (with where the data can be had); soft masks are asked for where none
        is an image file; no image has a defect of the class asked for.
      InputError: whatever the reader finds wrong.
    """
    try:
        samples = synthetic.read(config) if config.reader == "synthetic" else _READERS[config.reader](_root(config))
    except files.MasksError as error:
        if not as_they_stand:
            raise
        samples = error.samples
    if config.masks == "soft":
        samples = _with_soft_masks(samples, config)
    return _of_one_class(samples, config) if config.only_class else samples


def _root(config: DataConfig) -> Path:
    where = _WHERE_TO_GET[config.reader]
    root = Path(config.root)
    if not config.root:
        raise SettingError(f"config.data.root is not set. {where} and set config.data.root to that folder")
    if not root.is_dir():
        raise SettingError(f"config.data.root = {config.root!r}: no such folder. {where} there, or correct the path")
    if not any(root.iterdir()):
        raise SettingError(f"config.data.root = {config.root!r}: the folder is empty. {where} there")
    return root


def _with_soft_masks(samples: list[Sample], config: DataConfig) -> list[Sample]:
    softened = [
        dataclasses.replace(
            sample,
            mask=sample.mask and _soft(sample.mask),
            class_masks=tuple((name, _soft(mask)) for name, mask in sample.class_masks),
        )
        for sample in samples
    ]
    if softened == samples:
        raise SettingError(
            f"config.data.masks = 'soft': the masks of the reader {config.reader!r} are not gray images, so they have "
            "no degrees between 0 and 1; leave it at 'hard'"
        )
    return softened


def _soft(mask: Mask) -> Mask:
    if isinstance(mask, MaskFile) and mask.path.suffix != ".mat":
        return dataclasses.replace(mask, is_soft=True)
    return MaskFile(mask, is_soft=True) if isinstance(mask, Path) else mask


def _of_one_class(samples: list[Sample], config: DataConfig) -> list[Sample]:
    classes = sorted({name for sample in samples for name in sample.classes})
    if config.only_class not in classes:
        present = f"its classes are {', '.join(classes)}" if classes else "it gives no classes"
        raise SettingError(f"config.data.only_class = {config.only_class!r}: the data set has none such; {present}")
    return [annotation.of_class(sample, config.only_class) for sample in samples]
