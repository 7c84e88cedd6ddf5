"""Joined figures, thresholds and differences against scikit-learn and plain loops."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jaxdefect.studies import comparison, out_of_fold
from jaxdefect.studies.results import Result
from jaxdefect.types import InputError


def result(fold: int, *, seed: int = 0, offset: float = 0.0) -> Result:
    rng = np.random.default_rng([fold, seed])
    labels = (rng.random(40) < 0.3).astype(int)
    scores = 0.3 * labels + 0.5 * rng.random(40) + offset
    return Result(tuple(f"{fold}/{i}" for i in range(40)), labels, scores, 0.4, "train")


def best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    return max(sklearn_metrics.f1_score(labels, scores >= threshold) for threshold in scores)


def test_joined_figures_are_those_of_scikit_learn_and_thresholds_come_from_the_other_folds() -> None:
    results = {fold: result(fold, offset=0.05 * fold) for fold in range(3)}
    figures = out_of_fold.figures(results)
    labels, scores = out_of_fold.joined(list(results.values()))
    whole = figures["all"]
    assert whole["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
    assert whole["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    assert whole["false_positives_at_full_recall"] == sum(scores[labels == 0] >= scores[labels == 1].min())
    assert whole["oracle"]["f1"] == pytest.approx(best_f1(labels, scores))

    predicted = []
    for fold, own in results.items():
        others = out_of_fold.joined([other for number, other in results.items() if number != fold])
        judged = figures["folds"][fold]
        assert judged["threshold_source"] == "other folds"
        assert sklearn_metrics.f1_score(others[0], others[1] >= judged["threshold"]) == pytest.approx(best_f1(*others))
        predicted.append(own.scores >= judged["threshold"])
        assert judged["oracle"]["f1"] == pytest.approx(best_f1(own.labels, own.scores))
        assert judged["oracle"]["f1"] >= judged["f1"]
    (_, false_positives), (false_negatives, _) = sklearn_metrics.confusion_matrix(labels, np.concatenate(predicted))
    assert (whole["false_positives"], whole["false_negatives"]) == (false_positives, false_negatives)
    assert whole["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, np.concatenate(predicted)))
    of_folds = [sklearn_metrics.average_precision_score(one.labels, one.scores) for one in results.values()]
    assert out_of_fold.row(figures)["mean_fold_average_precision"] == pytest.approx(np.mean(of_folds))


def test_one_fold_is_decided_by_its_own_threshold_and_seeds_give_mean_and_deviation() -> None:
    by_seed = {seed: out_of_fold.figures({1: result(1, seed=seed)}) for seed in range(4)}
    assert by_seed[0]["folds"][1]["threshold"] == 0.4
    spread = out_of_fold.summary(by_seed)["average_precision"]
    known = [
        sklearn_metrics.average_precision_score(result(1, seed=s).labels, result(1, seed=s).scores) for s in range(4)
    ]
    assert (spread.mean, spread.std) == (pytest.approx(np.mean(known)), pytest.approx(np.std(known, ddof=1)))
    assert out_of_fold.spread([0.5, None]).std is None
    with pytest.raises(InputError, match="tested in two folds"):
        out_of_fold.figures({0: result(1), 1: result(1)})


def test_differences_are_paired_and_their_interval_is_students() -> None:
    rng = np.random.default_rng(0)
    baseline = {(fold, seed): float(rng.random()) for fold in range(3) for seed in range(4)}
    shifts = {place: 0.05 + 0.02 * float(rng.normal()) for place in baseline}
    values = {place: baseline[place] + shifts[place] for place in baseline}
    values[(7, 7)] = 1.0  # the baseline failed there
    difference = comparison.paired_difference(values, baseline)
    expected = stats.ttest_rel([values[place] for place in baseline], list(baseline.values())).confidence_interval()
    assert difference.num_pairs == 12
    assert difference.mean == pytest.approx(np.mean(list(shifts.values())))
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert comparison.paired_difference({(0, 0): 0.5}, baseline).low is None


def test_the_interval_of_two_pairs_covers_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(0.05, 0.02, (500, 2))
    found = [comparison.paired_difference(dict(enumerate(pair)), {0: 0.0, 1: 0.0}) for pair in drawn.tolist()]
    covered = np.mean([one.low < 0.05 < one.high for one in found if one.low is not None and one.high is not None])
    assert 0.92 < covered < 0.98


def test_an_effect_is_averaged_over_all_that_stays_the_same() -> None:
    additive = {"off": 0.0, "on": 0.1}, {"0": 0.0, "5": 0.2, "9": 0.3}
    runs = {
        (a, b): {(fold, 0): 0.4 + additive[0][a] + additive[1][b] + 0.01 * fold for fold in range(2)}
        for a in additive[0]
        for b in additive[1]
    }
    found = {
        (one.axis, one.label): one.changes for one in comparison.effects(runs, axes=["x", "y"], baseline=("off", "5"))
    }
    assert {key: len(changes) for key, changes in found.items()} == {("x", "on"): 6, ("y", "0"): 4, ("y", "9"): 4}
    for (_, label), change in zip(found, (0.1, -0.2, 0.1), strict=True):
        key = next(key for key in found if key[1] == label)
        np.testing.assert_allclose(found[key], change)
