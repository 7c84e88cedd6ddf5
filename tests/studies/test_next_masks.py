"""The order in which masks are to be drawn, on signs whose order is known by hand."""

import numpy as np
import pytest

from jaxdefect.inference.predictor import Judgement
from jaxdefect.studies import next_masks
from jaxdefect.types import InputError


def test_places_by_either_sign_are_averaged_and_a_sign_that_says_nothing_changes_nothing():
    ids = ["a", "b", "c"]
    ranked = next_masks.rank(ids, np.array([[5.0, 0.1], [9.0, 0.2], [1.0, 0.9]]))
    # Places by disagreement: b, a, c; by conflict: c, b, a.
    assert [(one.id, one.rank) for one in ranked] == [("b", 1.5), ("c", 2.0), ("a", 2.5)]
    single = next_masks.rank(ids, np.array([[0.0, 0.1], [0.0, 0.2], [0.0, 0.9]]))
    assert [one.id for one in single] == ["c", "b", "a"]


def test_signs_of_two_runs():
    sure = Judgement(score=0.9, probability=np.array([[0.9, 0.0]], np.float32), stride=8)
    blind = Judgement(score=0.9, probability=np.array([[0.1, 0.0]], np.float32), stride=8)
    disagreement, conflict = next_masks._signs([sure, blind])
    assert (disagreement, conflict) == pytest.approx((0.4, 0.4))


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one trained run"):
        next_masks.rank_runs([], num_masks=1, out=tmp_path)
