"""How far raters of the same images agree: kappas, and each rater against the majority."""

import numpy as np


def majority(votes: np.ndarray) -> np.ndarray:
    """What at least half of the raters say: [A, ...] of 0 and 1 -> [...] bool; a tie counts as a defect."""
    return np.asarray(2 * np.sum(votes, axis=0, dtype=np.int64) >= len(votes))


def cohen_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Agreement of two raters beyond chance, (p_o - p_e) / (1 - p_e).

    Args:
      first: [N] of 0 and 1.
      second: [N] of 0 and 1, of the same images.

    Returns:
      At most 1; 0 is what chance gives. None where both say the same one thing of all images: chance explains it whole.

    References:
      Cohen 1960, "A coefficient of agreement for nominal scales".
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    observed = np.mean(first == second)
    expected = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return None if expected == 1 else float((observed - expected) / (1 - expected))


def fleiss_kappa(votes: np.ndarray) -> float | None:
    """Agreement of all raters beyond chance.

    Args:
      votes: [A, N] of 0 and 1, by A >= 2 raters of N images.

    Returns:
      As `cohen_kappa`, with whose value it does not quite agree for two raters: it knows one rate of defects for all.

    References:
      Fleiss 1971, "Measuring nominal scale agreement among many raters".
    """
    num_raters = len(votes)
    counts = np.stack([(np.asarray(votes) == value).sum(axis=0) for value in (0, 1)], axis=1)  # [N, 2]
    observed = np.mean((np.square(counts).sum(axis=1) - num_raters) / (num_raters * (num_raters - 1)))
    expected = np.square(counts.mean(axis=0) / num_raters).sum()
    return None if expected == 1 else float((observed - expected) / (1 - expected))
