"""Differences between settings, paired over runs of the same fold and seed, with bootstrap intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdefect.metrics.paired import percentile_interval

NUM_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of N paired differences; its 95 % bootstrap interval, None below two pairs."""

    num_pairs: int
    mean: float | None
    low: float | None
    high: float | None


def paired_difference(values: Mapping[Any, float | None], baseline: Mapping[Any, float | None]) -> Difference:
    """values - baseline over the keys (fold, seed, what was tested) at which both are known.

    The interval is the percentile bootstrap: pairs are drawn with replacement `NUM_RESAMPLES` times, by a fixed seed.
    With the few pairs of a small study it is too narrow; it says how much the pairs differ, and no more.
    """
    pairs = [(values[key], baseline[key]) for key in values if key in baseline]
    differences = np.array([a - b for a, b in pairs if a is not None and b is not None], np.float64)
    if not len(differences):
        return Difference(0, None, None, None)
    mean = float(differences.mean())
    if len(differences) == 1:
        return Difference(1, mean, None, None)
    drawn = np.random.default_rng(0).integers(0, len(differences), (NUM_RESAMPLES, len(differences)))
    return Difference(len(differences), mean, *percentile_interval(differences[drawn].mean(axis=1)))


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one label of an axis changes against the baseline's: the differences [N] over all else that stays the same.

    `changes` are of runs alike in every other axis, in fold, seed and test images (Tabernik 2019, figure 6).
    """

    axis: str
    label: str
    changes: np.ndarray


def effects(
    runs: Mapping[tuple[str, ...], Mapping[Any, float | None]], *, axes: Sequence[str], baseline: tuple[str, ...]
) -> list[Effect]:
    """The effect of every label that is not the baseline's, where there are runs to compare.

    Args:
      runs: by setting (a label for each axis), a figure by what has to be the same: fold, seed, the images tested.
      axes: their names.
      baseline: the setting whose labels the others are compared with.
    """
    found = []
    for i, axis in enumerate(axes):
        for label in dict.fromkeys(setting[i] for setting in runs):
            if label == baseline[i]:
                continue
            changes = [
                value - before
                for setting, values in runs.items()
                if setting[i] == label and (other := runs.get((*setting[:i], baseline[i], *setting[i + 1 :])))
                for key, value in values.items()
                if value is not None and (before := other.get(key)) is not None
            ]
            if changes:
                found.append(Effect(axis, label, np.array(changes)))
    return found
