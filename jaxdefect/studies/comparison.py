"""Differences between settings, paired over runs of the same fold and seed, with Student's intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of N paired differences; the ends of its 95 % interval, None below two pairs."""

    num_pairs: int
    mean: float | None
    low: float | None
    high: float | None


def paired_difference(values: Mapping[Any, float | None], baseline: Mapping[Any, float | None]) -> Difference:
    """values - baseline over the keys (fold, seed, what was tested) at which both are known.

    The interval is Student's, mean ± t s / sqrt(N): exact for normal differences, however few. (Resampling the pairs
    would cover half of the time with two pairs, and three quarters with four.) It says what other trainings would
    give; that folds share their training images it does not know.

    References:
      Student 1908, "The probable error of a mean".
    """
    pairs = [(values[key], baseline[key]) for key in values if key in baseline]
    differences = np.array([a - b for a, b in pairs if a is not None and b is not None], np.float64)
    if not len(differences):
        return Difference(0, None, None, None)
    mean = float(differences.mean())
    if len(differences) == 1:
        return Difference(1, mean, None, None)
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(differences) - 1) * stats.sem(differences))
    return Difference(len(differences), mean, mean - half, mean + half)


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
