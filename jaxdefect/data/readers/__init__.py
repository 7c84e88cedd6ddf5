"""Readers: one file per data set or label format, each giving `Sample` records; `read` picks one by the config."""

from pathlib import Path

from jaxdefect.config import DataConfig
from jaxdefect.data.readers import folder, kolektor, severstal, synthetic
from jaxdefect.types import InputError, Sample

_READERS = {"kolektor": kolektor.read, "severstal": severstal.read, "folder": folder.read}

_WHERE_TO_GET = {
    "kolektor": "KolektorSDD can be had from https://www.vicos.si/resources/kolektorsdd/ ; unpack it",
    "severstal": 'Severstal is the Kaggle competition "severstal-steel-defect-detection"; after accepting its rules, '
    "unpack train.csv and train_images/",
    "folder": "put your images into images/ and their masks into masks/, or list them in labels.csv",
}


def read(config: DataConfig) -> list[Sample]:
    """Reads the samples of the data set that the config names, without decoding the images.

    Raises:
      InputError: the folder is missing or empty (with where the data can be had), or whatever the reader finds wrong.
    """
    if config.reader == "synthetic":
        return synthetic.read(config)
    where = _WHERE_TO_GET[config.reader]
    root = Path(config.root)
    if not config.root:
        raise InputError(f"config.data.root is not set. {where} and set config.data.root to that folder")
    if not root.is_dir():
        raise InputError(f"config.data.root = {config.root!r}: no such folder. {where} there, or correct the path")
    if not any(root.iterdir()):
        raise InputError(f"config.data.root = {config.root!r}: the folder is empty. {where} there")
    return _READERS[config.reader](root)
