"""The order in which masks are to be drawn, on signs whose order is known by hand."""

import json

import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.data import splits
from jaxdefect.inference.judgement import Judgement
from jaxdefect.studies import next_masks
from jaxdefect.types import InputError, Split


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


def test_runs_that_differ_or_are_one_are_refused(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for workdir in (first, second):
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(Config())))
        splits.save(Split((workdir.name, "x"), (), ("c",), ("x",)), workdir / "split.json")
    with pytest.raises(InputError, match=f"^--workdirs: {first} and {second} differ in config.data or in their splits"):
        next_masks.rank_runs([first, second], num_masks=1, out=tmp_path)
    with pytest.raises(InputError, match=r"^--workdirs: .*a is given twice"):
        next_masks.rank_runs([first, second / ".." / "a"], num_masks=1, out=tmp_path)


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one trained run"):
        next_masks.rank_runs([], num_masks=1, out=tmp_path)
