"""The cheapest mix of labels, on precisions whose answer is known by hand."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.data import splits
from jaxdefect.studies import budget
from jaxdefect.types import InputError, Split

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
    with pytest.raises(InputError, match="--mask_minutes=nan"):
        budget.weigh(tmp_path, price=budget.Price(0.1, math.nan), target=0.98)
    (tmp_path / "results.json").write_text('{"settings": [{"labels": {"masks": "5"}}]}')
    with pytest.raises(InputError, match=r"results\.json: not of a study \(KeyError: 'runs'\)"):
        budget.weigh(tmp_path, price=budget.Price(0.1, 3.0), target=0.98)


def write_study(directory: Path, folds: dict[str, list[int]]) -> None:
    """A study over numbers of masks, as launch.ablate leaves it when called from another directory."""
    settings = []
    for label, numbers in folds.items():
        names = [f"{label}_{fold}" for fold in numbers]
        for name in names:
            run = directory.parent / "runs" / name
            run.mkdir(parents=True)
            (run / "config.json").write_text(json.dumps(config_lib.to_dict(Config())))
            splits.save(Split(("a", "b"), ("c",), ("d",), ("a",)), run / "split.json")
        of_runs = [
            {"fold": fold, "seed": 0, "directory": f"work/runs/{name}", "figures": {"average_precision": 0.9}}
            for fold, name in zip(numbers, names, strict=True)
        ]
        settings.append({"labels": {"masks": label}, "runs": of_runs})
    directory.mkdir()
    (directory / "results.json").write_text(json.dumps({"settings": settings}))


def test_a_study_that_was_moved_and_one_run_a_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_study(tmp_path / "work" / "masks", {"5": [0]})
    shutil.move(tmp_path / "work", tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved" / "masks")
    content = budget.weigh(Path("."), price=budget.Price(1.0, 10.0), target=0.8)
    assert content["cheapest_minutes"] == 3 * 1.0 + 10.0
    assert (content["mixes"][0]["interval"], content["minutes_interval"], content["unreached"]) == (None, None, None)
    assert "13 minutes (a single run each, which says nothing of chance)" in budget.conclusion(content)
    assert "| 90.00 | n/a | n/a |" in Path("budget.md").read_text()


def test_mixes_of_other_folds_are_refused(tmp_path: Path):
    write_study(tmp_path / "masks", {"5": [0, 1], "9": [0, 1, 2]})
    with pytest.raises(InputError, match="5 and 9 were not run on the same folds and seeds"):
        budget.weigh(tmp_path / "masks", price=budget.Price(0.1, 3.0), target=0.98)
