"""The cheapest mix of labels, on precisions whose answer is known by hand."""

from pathlib import Path

import numpy as np
import pytest

from jaxdefect.studies import budget
from jaxdefect.types import InputError

MIXES = [
    budget.Mix("few", 100, 0, 10.0, np.array([0.80, 0.90])),
    budget.Mix("some", 100, 10, 40.0, np.array([0.99, 0.93])),
    budget.Mix("all", 100, 30, 100.0, np.array([0.97, 0.97])),
]


def test_the_cheapest_that_reaches_the_target_and_how_sure_that_is():
    """Of two places drawn twice, "some" has the mean .99 (1/4), .96 (1/2) or .93 (1/4)."""
    content = budget.choose(MIXES, target=0.95)
    assert (content["cheapest"], content["cheapest_minutes"], content["unreached"]) == ("some", 40.0, 0.0)
    chosen = {mix["name"]: mix["chosen"] for mix in content["mixes"]}
    assert chosen == pytest.approx({"few": 0.0, "some": 0.75, "all": 0.25}, abs=0.02)
    assert content["minutes_interval"] == [40.0, 100.0]
    assert "some, 40 minutes" in budget.conclusion(content | {"target": 0.95})


def test_a_target_that_nothing_reaches():
    content = budget.choose(MIXES, target=0.995) | {"target": 0.995}
    assert (content["cheapest"], content["unreached"]) == (None, 1.0)
    assert budget.conclusion(content) == (
        "No mix reaches 99.5 % on average; 100 % of the resamplings reach it nowhere either."
    )


def test_what_is_no_study_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"results\.json: cannot be read \(No such file"):
        budget.weigh(tmp_path, price=budget.Price(0.1, 3.0), target=0.98)
    with pytest.raises(InputError, match="--target=98"):
        budget.weigh(tmp_path, price=budget.Price(0.1, 3.0), target=98)
