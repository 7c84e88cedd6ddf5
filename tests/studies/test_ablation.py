"""A study from its file to its tables, its runs imitated: what is run, what is shared, what survives."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.studies import ablation, design, results, running
from jaxdefect.types import InputError

STUDY = {
    "axes": {
        "attention": [{"off": {"model.attention": False}}, {"on": {"model.attention": True}}],
        "positives": [{"6": {"split.num_positives": 6}}, {"3": {"split": {"num_positives": 3}}}],
    },
    "seeds": [0, 1],
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    synthetic = {"layout": "folder", "num_images": 24, "height": 64, "width": 64}
    data = {"reader": "synthetic", "root": str(tmp_path / "data"), "image_size": (64, 64), "synthetic": synthetic}
    return config_lib.from_dict({"data": data, "split": {"kind": "folds", "num_folds": 2}})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configs of all trainings, which are imitated: attention helps, and with 3 positives fails on fold 1."""
    started: list[Config] = []

    def train(config: Config, directory: Path, *, goes_on: bool) -> int:
        assert goes_on  # a signal while the last step is taken ends the study too
        directory.mkdir(parents=True, exist_ok=True)
        started.append(config)
        if config.model.attention and config.split.num_positives == 3 and config.split.fold == 1:
            raise RuntimeError("out of memory")
        return 130 if len(started) == 3 else 0

    def evaluate(directory: Path) -> results.Result:
        config, rng = started[-1], np.random.default_rng([started[-1].split.fold, started[-1].training.seed])
        labels = np.array([0, 1] * 20)
        scores = rng.random(40) + labels * (0.6 if config.model.attention else 0.3)
        ids = tuple(f"{config.split.fold}/{i}" for i in range(40))
        result = results.Result(ids, labels, scores, 0.5, "train")
        results.save(result, directory)
        return result

    monkeypatch.setattr(running.system, "train", train)
    monkeypatch.setattr(running.results, "evaluate", evaluate)
    return started


def test_a_study_resumes_survives_a_failure_and_shares_its_runs(
    config: Config, trained: list[Config], tmp_path: Path
) -> None:
    study = design.parse(STUDY, name="first")
    assert ablation.ablate(study, config, tmp_path / "work") == 130  # interrupted in the third run
    report = ablation.ablate(study, config, tmp_path / "work")
    assert isinstance(report, ablation.Report)
    assert len(trained) == 16 + 1  # 4 settings x 2 folds x 2 seeds, and the third again
    assert report.num_failed == 2
    directory = tmp_path / "work" / "first"
    text = (directory / "table.md").read_text()
    assert "2/4, failed: RuntimeError: out of memory" in text
    log = next((tmp_path / "work" / "runs").glob("*/error.log"))
    assert "Traceback" in log.read_text()
    assert log.parent.name in text
    with (directory / "table.csv").open() as file:
        rows = {(row["attention"], row["positives"]): row for row in csv.DictReader(file)}
    assert rows["on", "3"]["average_precision_mean"] == ""  # no seed with both folds
    assert float(rows["on", "6"]["change"]) > 0
    assert [rows[key]["num_pairs"] for key in (("off", "3"), ("on", "6"), ("on", "3"))] == ["4", "4", "2"]
    content = json.loads((directory / "results.json").read_text())
    assert [effect["label"] for effect in content["effects"]] == ["on", "3"]
    assert {path.name for path in directory.glob("*.png")} == {
        "average_precision.png",
        "effects.png",
        "average_precision_by_positives.png",
    }
    assert "\\begin{tabular}{llr" in (directory / "table.tex").read_text()

    # Another study, other labels, the same configs: only what failed is tried again.
    values = {"axes": {"squeeze": [{"yes": {"model.attention": True, "split.num_positives": 6}}]}, "seeds": [1, 0]}
    second = design.parse(values, name="second")
    assert isinstance(ablation.ablate(second, config, tmp_path / "work"), ablation.Report)
    assert len(trained) == 17
    ablation.ablate(study, config, tmp_path / "work")
    assert len(trained) == 19


def test_runs_of_other_test_images_are_not_compared(config: Config, trained: list[Config], tmp_path: Path) -> None:
    study = design.parse({"axes": {"attention": STUDY["axes"]["attention"]}, "seeds": [0]}, name="grown")
    trained += [config] * 3  # no interruption
    report = ablation.ablate(study, config, tmp_path)
    assert isinstance(report, ablation.Report)
    (_, row) = report.rows
    assert row.difference.num_pairs == 2
    directory = row.directories[1, 0]
    old = row.results[1, 0]
    results.save(dataclasses.replace(old, labels=old.labels[::-1]), directory)  # the labels of other data
    (tmp_path / "grown" / "average_precision_by_masks.png").touch()  # of an axis that was there before
    ablation.ablate(study, config, tmp_path)
    assert {path.name for path in (tmp_path / "grown").glob("*.png")} == {"average_precision.png", "effects.png"}
    content = json.loads((tmp_path / "grown" / "results.json").read_text())
    assert content["settings"][1]["difference"]["num_pairs"] == 1
    assert [len(effect["changes"]) for effect in content["effects"]] == [1]
    text = (tmp_path / "grown" / "table.md").read_text()
    assert f"on: 1 of 2 runs were tested on other images or labels than the baseline's, e.g. {directory} and" in text


def test_a_default_gained_later_leaves_the_hash_as_it_was(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ablation.config_hash(config)
    to_dict = config_lib.to_dict
    monkeypatch.setattr(config_lib, "to_dict", lambda config: to_dict(config) | {"newer": {"setting": 3}})
    assert ablation.config_hash(config) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {}}, "must name at least one axis"),
        ({"axes": {"a": []}}, "axis 'a' must be a list"),
        ({"axes": {"a": [{}]}}, "axis 'a' has no labels"),
        ({"axis": {}}, "no such key: 'axis'; the nearest is 'axes'"),
        ({"baseline": {"attentoin": "on"}}, "no such axis: 'attentoin'; the nearest is 'attention'"),
        ({"baseline": {"attention": "onn"}}, "no such label: 'onn'; the nearest is 'on'"),
        ({"combinations": "gird"}, "must be 'grid', 'one_at_a_time'"),
        ({"combinations": [{"attention": "on"}]}, "is not among its combinations"),
        ({"seeds": [0, 0]}, "seed 0 is given twice"),
        ({"seeds": []}, "seeds: none given"),
        ({"folds": [2]}, "fold 2: there is none; config.split has the folds 0 to 1"),
        ({"axes": {"a": [{"b": {"model.attentoin": True}}]}}, "nearest is config.model.attention"),
        ({"axes": {"a": [{"b": {"modle.attention": True}}]}}, "nearest is config.model"),
        ({"axes": {"a": [{"b": {"loss.balance": "liner"}}]}}, "did you mean 'linear'"),
        (
            {"axes": {"a": [{"b": {"training.epochs": 1}}], "c": [{"d": {"training.epochs": 2}}]}},
            "two axes set training.epochs",
        ),
    ],
)
def test_mistakes_are_named(changes: dict, message: str, config: Config) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        ablation.cells(design.parse(STUDY | changes, name="x"), config)


def test_alike_runs_are_trained_at_once(config: Config) -> None:
    def place(name: str, **overrides: object) -> tuple[Path, Config]:
        return Path(name), design.override(config, {key.replace("__", "."): value for key, value in overrides.items()})

    configs = dict(
        [
            place("a"),
            place("few", split__num_positives=3),
            place("b", training__seed=1, data__dilation_px=5, optimizer__learning_rate=0.3),
            place("attention", model__attention=True),
            place("patience", training__patience_epochs=2),
            place("resident", training__scan_steps=2),
            place("c", loss__decision_weight=0.5),
            place("wrong", split__num_positives=99),
            place("large", data__image_size=(128, 64)),
        ]
    )
    found = [[str(directory) for directory in group] for group in running.groups(configs, 2)]
    assert sorted(found) == [
        ["a", "b"],
        ["attention"],
        ["c"],
        ["few"],
        ["large"],
        ["patience"],
        ["resident"],
        ["wrong"],
    ]
    assert len(running.groups(configs, 1)) == len(configs)


def test_a_split_without_folds_is_run_once_a_seed(config: Config) -> None:
    plain = design.override(config, {"split.kind": "random"})
    cells = ablation.cells(design.parse(STUDY, name="x"), plain)
    assert [list(of_setting) for of_setting in cells.values()] == [[(None, 0), (None, 1)]] * 4
    with pytest.raises(InputError, match="has no folds"):
        ablation.cells(design.parse(STUDY | {"folds": [0]}, name="x"), plain)


def test_combinations_and_files(tmp_path: Path) -> None:
    grid = design.parse(STUDY, name="x").settings
    assert grid == (("off", "6"), ("off", "3"), ("on", "6"), ("on", "3"))
    one = design.parse(STUDY | {"combinations": "one_at_a_time", "baseline": {"attention": "on"}}, name="x")
    assert one.settings == (("on", "6"), ("off", "6"), ("on", "3"))
    path = tmp_path / "study.py"
    for text, message in (
        ("def get_study(:", "study.py, line 1: "),
        ("x = 1", r"defines no get_study\(\)"),
        ("def get_study():\n  return {'axes': undefined}", "study.py, line 2: NameError"),
        ("def get_study():\n  return [1]", r"must return a dict"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            design.load(path)
    with pytest.raises(InputError, match=r"no such file; there are: .*study\.py"):
        design.load(tmp_path / "studdy.py")
