"""Which folds and seeds there are, and the config of the run of one of each."""

import dataclasses
from collections.abc import Sequence

from jaxdefect.config import Config, SplitConfig
from jaxdefect.data.splits import KOLEKTOR_TEST_FOLDS
from jaxdefect.types import InputError

_KINDS = ("folds", "kolektor_published")


def has_folds(split: SplitConfig) -> bool:
    """Whether the kind of split divides the groups into folds of which every one can be the test part."""
    return split.kind in _KINDS


def check_folds(split: SplitConfig, wanted: Sequence[int] | None = None) -> tuple[int, ...]:
    """The folds to go through: those wanted, or all.

    Raises:
      InputError: the split has no folds, or not these.
    """
    if not has_folds(split):
        raise InputError(
            f"config.split.kind = {split.kind!r}: has no folds to go through; use --config.split.kind=folds with "
            "--config.split.num_folds=3 (KolektorSDD also has kind 'kolektor_published')"
        )
    count = len(KOLEKTOR_TEST_FOLDS) if split.kind == "kolektor_published" else split.num_folds
    if wanted is None:
        return tuple(range(count))
    if not wanted:
        raise InputError("folds: none given; leave the setting out for all of them")
    if unknown := [fold for fold in wanted if fold not in range(count)]:
        raise InputError(f"fold {unknown[0]}: there is none; config.split has the folds 0 to {count - 1}")
    _check_once("fold", wanted)
    return tuple(wanted)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds of the trainings.

    Raises:
      InputError: none, one below 0, or one twice.
    """
    if not seeds:
        raise InputError("seeds: none given; at least one is wanted, e.g. 0")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise InputError(f"seed {wrong[0]}: must be between 0 and {2**32 - 1}")
    _check_once("seed", seeds)
    return tuple(seeds)


def _check_once(name: str, numbers: Sequence[int]) -> None:
    if repeated := [number for i, number in enumerate(numbers) if number in numbers[:i]]:
        raise InputError(f"{name} {repeated[0]} is given twice")


def run_config(config: Config, *, fold: int | None, seed: int) -> Config:
    """The config of one run; `fold` None: of a split without folds.

    The seed is that of the training: initial weights, the order of the images, their augmentation. The split's own
    stays, so that the runs of all seeds are tested on the same images.
    """
    split = config.split if fold is None else dataclasses.replace(config.split, fold=fold)
    return dataclasses.replace(config, split=split, training=dataclasses.replace(config.training, seed=seed))
