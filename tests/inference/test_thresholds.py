"""Thresholds against trying every cut, and what is promised of them against the exact interval and simulation."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sklearn_metrics

from jaxdefect.inference import thresholds
from jaxdefect.inference.thresholds import NEVER, best_f1_threshold


def _brute_force(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The best F1 of all cuts, and the width of the widest gap between scores in which it is reached."""
    distinct = np.unique(scores)
    f1 = [sklearn_metrics.f1_score(labels, scores >= cut) for cut in distinct]
    gaps = [0.0, *np.diff(distinct)]
    return max(f1), max(gap for value, gap in zip(f1, gaps, strict=True) if np.isclose(value, max(f1), rtol=1e-12))


def random_images(rng: np.random.Generator, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
    num_images = int(rng.integers(1, 30))
    labels = rng.integers(0, 2, num_images)
    labels[rng.integers(num_images)] = 1
    return labels, np.clip(np.round(rng.normal(0.3 + 0.3 * labels, 0.25) * num_levels) / num_levels, 0, 1)


LEVELS = [3, 20, 10**9]  # few levels: many ties


@pytest.mark.parametrize("num_levels", LEVELS)
def test_has_the_best_f1_in_the_middle_of_the_widest_gap(num_levels):
    rng = np.random.default_rng(num_levels)
    for _ in range(100):
        labels, scores = random_images(rng, num_levels)
        threshold = best_f1_threshold(labels, scores)
        best, widest = _brute_force(labels, scores)
        assert sklearn_metrics.f1_score(labels, scores >= threshold) == pytest.approx(best, rel=1e-12)
        if threshold != scores.min():  # with everything called defective there is no gap to be in the middle of
            assert np.abs(scores - threshold).min() == pytest.approx(widest / 2, rel=1e-9)


@pytest.mark.parametrize("num_levels", LEVELS)
def test_other_thresholds_are_the_best_of_all_cuts(num_levels):
    rng = np.random.default_rng(num_levels)
    for _ in range(100):
        labels, scores = random_images(rng, num_levels)
        cuts = [*np.unique(scores), NEVER]
        misses = np.array([np.sum(labels[scores < cut]) for cut in cuts])
        alarms = np.array([np.sum(1 - labels[scores >= cut]) for cut in cuts])

        num_misses = int(rng.integers(labels.sum()))
        threshold = thresholds.threshold_of_misses(labels, scores, num_misses=num_misses)
        assert np.sum(labels[scores < threshold]) <= num_misses
        assert np.sum(1 - labels[scores >= threshold]) == alarms[misses <= num_misses].min()

        ratio = float(rng.choice([0.2, 1, 7]))
        threshold = thresholds.lowest_cost_threshold(labels, scores, cost_ratio=ratio)
        cost = ratio * np.sum(labels[scores < threshold]) + np.sum(1 - labels[scores >= threshold])
        assert cost == pytest.approx((ratio * misses + alarms).min())

        precision = float(rng.choice([0.5, 0.8, 1]))
        threshold = thresholds.precise_threshold(labels, scores, precision=precision)
        num_called = np.array([np.sum(scores >= cut) for cut in cuts])
        is_precise = num_called - alarms >= precision * num_called
        assert np.sum(scores >= threshold) == num_called[is_precise].max()


def test_a_saturated_good_image_lets_nothing_be_rejected_without_mistake():
    threshold = thresholds.precise_threshold(np.array([1, 0]), np.array([0.5, 1.0]), precision=1)
    assert threshold > 1


def test_separable_classes_get_the_middle_between_them():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.3, 0.5])
    assert best_f1_threshold(labels, scores) == pytest.approx(0.4)
    assert thresholds.threshold_of_misses(labels, scores, num_misses=0) == pytest.approx(0.4)


def test_neighbouring_floats_are_still_told_apart():
    low = 0.7
    high = np.nextafter(low, 1)
    threshold = best_f1_threshold(np.array([0, 1]), np.array([low, high]))
    assert low < threshold <= high


def test_only_defective_images_are_all_called_defective():
    assert best_f1_threshold(np.array([1, 1]), np.array([0.4, 0.6])) == 0.4


def test_no_defective_image_is_refused():
    with pytest.raises(ValueError, match="no defective image"):
        best_f1_threshold(np.array([0, 0]), np.array([0.4, 0.6]))
    with pytest.raises(ValueError, match="1 misses of 1 defective images"):
        thresholds.threshold_of_misses(np.array([0, 1]), np.array([0.4, 0.6]), num_misses=1)


@pytest.mark.parametrize(
    ("alpha", "delta", "num_images"),  # the classical tables of sample sizes for "success runs"
    [(0.05, 0.05, 59), (0.1, 0.05, 29), (0.01, 0.05, 299), (0.05, 0.1, 45), (0.01, 0.01, 459), (0.5, 0.5, 1)],
)
def test_as_many_are_needed_as_the_tables_say(alpha, delta, num_images):
    assert thresholds.num_needed(alpha=alpha, delta=delta) == num_images
    assert thresholds.guaranteed_misses(num_images, alpha=alpha, delta=delta) == 0
    assert thresholds.guaranteed_misses(num_images - 1, alpha=alpha, delta=delta) is None


def test_the_guarantee_is_the_one_of_the_exact_binomial_interval():
    for num_images in (59, 93, 94, 400):
        for alpha, delta in ((0.05, 0.05), (0.1, 0.01), (0.2, 0.3)):
            bounds = [
                stats.binomtest(k, num_images, alternative="less").proportion_ci(1 - delta, method="exact").high
                for k in range(min(num_images, 90))
            ]
            kept = [k for k, bound in enumerate(bounds) if bound <= alpha]
            assert thresholds.guaranteed_misses(num_images, alpha=alpha, delta=delta) == (kept[-1] if kept else None)
            assert thresholds.miss_rate_bound(3, num_images, delta=delta) == pytest.approx(bounds[3])


def test_on_average_needs_fewer():
    assert thresholds.num_needed_on_average(0.05) == 19
    assert thresholds.conformal_misses(19, alpha=0.05) == 0
    assert thresholds.conformal_misses(18, alpha=0.05) is None
    assert thresholds.conformal_misses(99, alpha=0.1) == 9


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "uniform": lambda rng, n: rng.random(n),
    "near one": lambda rng, n: rng.beta(20, 1, n),
    "two kinds": lambda rng, n: np.where(rng.random(n) < 0.1, rng.beta(1, 30, n), rng.beta(30, 1, n)),
    "heavy tails of the logit": lambda rng, n: special.expit(rng.standard_cauchy(n)),
    "ties: ten levels": lambda rng, n: np.round(rng.beta(4, 2, n), 1),
    "ties: saturated": lambda rng, n: np.where(rng.random(n) < 0.8, 1.0, np.round(rng.random(n), 1)),
}
NUM_RESAMPLINGS, NUM_DEFECTIVE, NUM_GOOD = 1000, 100, 60


def miss_rates(draw: Callable[[np.random.Generator, int], np.ndarray], *, num_misses: int) -> np.ndarray:
    """[R] the true miss rate of the threshold from each of R draws of calibration images."""
    rng = np.random.default_rng(0)
    population = np.sort(draw(rng, 200_000))
    labels = np.repeat([1, 0], [NUM_DEFECTIVE, NUM_GOOD])
    chosen = [
        thresholds.threshold_of_misses(
            labels, np.append(draw(rng, NUM_DEFECTIVE), 0.5 * draw(rng, NUM_GOOD)), num_misses=num_misses
        )
        for _ in range(NUM_RESAMPLINGS)
    ]
    return np.searchsorted(population, chosen) / len(population)  # those that score below


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_over_resamplings_the_miss_rate_exceeds_alpha_no_more_often_than_promised(name):
    alpha, delta = 0.1, 0.1
    num_misses = thresholds.guaranteed_misses(NUM_DEFECTIVE, alpha=alpha, delta=delta)
    assert num_misses is not None
    rates = miss_rates(DISTRIBUTIONS[name], num_misses=num_misses)
    exceeding = np.mean(rates > alpha)
    nominal = stats.binom.cdf(num_misses, NUM_DEFECTIVE, alpha)  # what a continuous distribution comes to
    slack = 3 * np.sqrt(nominal * (1 - nominal) / NUM_RESAMPLINGS)
    assert exceeding <= nominal + slack < delta
    if "ties" not in name:  # ties are never parted, so they can only be safer
        assert exceeding >= nominal / 2 - slack
        assert rates.mean() >= 0.7 * (num_misses + 1) / (NUM_DEFECTIVE + 1)  # not bought by rejecting everything
        one_more = miss_rates(DISTRIBUTIONS[name], num_misses=num_misses + 2)
        assert np.mean(one_more > alpha) > delta  # so this simulation can tell


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_over_resamplings_the_mean_miss_rate_is_what_conformal_risk_control_says(name):
    alpha = 0.08
    num_misses = thresholds.conformal_misses(NUM_DEFECTIVE, alpha=alpha)
    assert num_misses is not None
    rates = miss_rates(DISTRIBUTIONS[name], num_misses=num_misses)
    assert rates.mean() <= alpha + 3 * rates.std() / np.sqrt(NUM_RESAMPLINGS)
    if "ties" not in name:
        assert rates.mean() >= 0.8 * alpha
