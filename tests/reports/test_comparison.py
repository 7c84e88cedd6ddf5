"""A whole comparison of two runs that say what the test wants: figures worked out by hand, files, and every mistake."""

import csv
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import browser
import cv2
import numpy as np
import pytest

from jaxdefect.config import Config, from_dict, to_dict
from jaxdefect.data import readers, splits
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.judgement import Judgement
from jaxdefect.inference.predictor import Predictor
from jaxdefect.reports import comparison_page, evaluation, files, pages
from jaxdefect.reports.comparison_page import run_comparison
from jaxdefect.training import runs
from jaxdefect.types import InputError, Split

# The gray level of an image is the key to what each run says of it; 10, 30 and 50 are defective.
SCORES = {
    "a": {10: 0.9, 30: 0.2, 50: 0.8, 70: 0.1, 90: 0.6, 110: 0.3, 130: 0.05},
    "b": {10: 0.7, 30: 0.6, 50: 0.45, 70: 0.2, 90: 0.3, 110: 0.3, 130: 0.1},
}


@dataclasses.dataclass(frozen=True)
class FakePredictor:
    """Scores by gray level; the map is 1 on the left half of the 64 x 64 input."""

    config: Config
    scores: dict[int, float]
    calibration: Calibration | None
    checkpoint_step: int = 7
    classifier: None = None
    tiling: None = None
    weights_sha256: str = "abc"
    classes: tuple[str, ...] = ()

    @property
    def threshold(self) -> float:
        return self.calibration.threshold if self.calibration else 0.5

    @property
    def pixel_threshold(self) -> float:
        return 0.5

    def judge_each(self, images: Iterable[np.ndarray], *, batch_size: int) -> Iterator[Judgement]:
        probability = np.tile((np.arange(8) < 4).astype(np.float32), (8, 1))
        return (Judgement(self.scores[round(float(image[0, 0, 0]) * 255)], probability, 8) for image in images)

    def on_all_devices(self) -> "FakePredictor":
        return self


def _make_run(
    workdir: Path, root: Path, *, flipped: int | None = None, levels: Sequence[int] = tuple(SCORES["a"])
) -> Path:
    """A run directory and its data: `flipped` changes one label."""
    root.mkdir()
    rows = ["image,label,mask"]
    for level in levels:
        cv2.imwrite(str(root / f"{level}.png"), np.full((64, 64), level, np.uint8))
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :16] = 255
        cv2.imwrite(str(root / f"{level}_mask.png"), mask)
        label = int((level <= 50) != (level == flipped))
        rows.append(f"{level}.png,{label},{f'{level}_mask.png' if label else ''}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    workdir.mkdir()
    config = from_dict({"data": {"image_size": (64, 64), "reader": "folder", "root": str(root)}})
    ids = tuple(sample.id for sample in readers.read(config.data))
    (workdir / "config.json").write_text(json.dumps(to_dict(config)))
    splits.save(Split(train=(), validation=(), test=ids, masked=()), workdir / "split.json")
    calibrations.save(Calibration(0.5, 0.5, "validation", 7), workdir)
    return workdir


@pytest.fixture(autouse=True)
def fake_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(workdir: Path, *, checkpoint: str | None = None, is_calibrating: bool = False) -> FakePredictor:
        config = from_dict(json.loads((workdir / "config.json").read_text()))
        return FakePredictor(config, SCORES[workdir.name], calibrations.load(workdir))

    monkeypatch.setattr(Predictor, "load", load)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were evaluated, without the plots and the page that this is not about."""
    names = []

    def run_evaluation(workdir: Path, *, part: str) -> dict:
        names.append(workdir.name)
        run, calibration = runs.load(workdir), calibrations.load(workdir)
        assert calibration is not None
        samples = [sample for sample in readers.read(run.config.data) if sample.id in run.split.test]
        rows = [(s.id, s.label, SCORES[workdir.name][int(Path(s.image).stem)]) for s in samples]
        metrics = {key: getattr(calibration, key) for key in ("threshold", "pixel_threshold", "checkpoint_step")}
        metrics |= {"threshold_source": calibration.source, "pixel_iou": 0.5, "pixel_f1": 0.6, "weights_sha256": "abc"}
        directory = evaluation.report_directory(workdir, part)
        files.write(directory / "scores.csv", files.to_csv(("id", "label", "score"), rows))
        files.write(directory / "metrics.json", json.dumps(metrics))
        return metrics

    monkeypatch.setattr(evaluation, "run_evaluation", run_evaluation)
    return names


def test_figures_decisions_and_files_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    a, b = (_make_run(tmp_path / name, tmp_path / f"data_{name}") for name in "ab")
    out = tmp_path / "out"
    content = run_comparison([a, b], out=out)
    assert content == json.loads((out / "comparison.json").read_text())
    assert (content["num_images"], content["num_defective"]) == (7, 3)
    metrics = content["metrics"]
    # A in order: + + - - + - -; B: all defective ones first.
    expected = {"average_precision": ((1 + 1 + 3 / 5) / 3, 1.0), "roc_auc": (10 / 12, 1.0), "f1": (2 / 3, 4 / 5)}
    for name, (first, second) in expected.items():
        assert (metrics[name]["a"], metrics[name]["b"]) == pytest.approx((first, second))
        assert metrics[name]["difference"] == pytest.approx(second - first)
        assert metrics[name]["low"] <= metrics[name]["difference"] <= metrics[name]["high"]
    assert [metrics[name]["difference"] for name in ("false_positives", "false_negatives")] == [-1, 0]
    assert metrics["pixel_iou"]["difference"] == 0  # the same maps
    # Only A finds 50, only B finds 30 and passes 90.
    assert content["mcnemar"] == {
        "all": {"num_only_first": 1, "num_only_second": 2, "p_value": 1.0},
        "defective": {"num_only_first": 1, "num_only_second": 1, "p_value": 1.0},
        "good": {"num_only_first": 0, "num_only_second": 1, "p_value": 1.0},
    }
    with (out / "comparison.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    (id_30,) = (item for item in rows if "30" in item and "130" not in item)
    assert list(rows[id_30].values())[1:] == ["1", "0.2", "0.6", "0", "1"]
    assert len(rows) == 7

    page = (out / "comparison.html").read_text()
    # Distances from the threshold, in parts of the way: 0.8 (30), 0.7 (50), 0.6 (90).
    assert [re.sub(r"\D", "", name) for name in re.findall(r"<h3>(.*?)</h3>", page)] == ["30", "50", "90"]
    assert "They decide differently on 3 of 7 images" in page
    assert page.count("data:image/jpeg;base64,") == 3 * 3
    shown = browser.check_on_phone(out / "comparison.html")
    assert shown.num_images == 9
    assert [re.sub(r"\D", "", name) for name in shown.shown] == ["30", "90"]  # the last filter: B is right


def test_a_run_is_evaluated_anew_only_when_its_thresholds_or_labels_have_changed(
    tmp_path: Path, evaluated: list[str]
) -> None:
    a, b = (_make_run(tmp_path / name, tmp_path / f"data_{name}") for name in "ab")
    run_comparison([a, b], out=tmp_path / "out")
    run_comparison([a, b], out=tmp_path / "out")
    calibrations.save(Calibration(0.25, 0.5, "validation", 7), b)
    content = run_comparison([a, b], out=tmp_path / "out")
    assert evaluated == ["a", "b", "b"]
    assert content["metrics"]["false_positives"]["b"] == 2
    labels = tmp_path / "data_b" / "labels.csv"
    labels.write_text(labels.read_text().replace("70.png,0,", "70.png,1,"))
    with pytest.raises(InputError, match="good to one run and defective to the other"):
        run_comparison([a, b], out=tmp_path / "out")
    assert evaluated == ["a", "b", "b", "b"]


def test_only_common_images_count_and_the_page_of_runs_that_agree_says_so(tmp_path: Path, evaluated: list[str]) -> None:
    (tmp_path / "other").mkdir()
    runs_of_one_kind = [
        _make_run(tmp_path / "a", tmp_path / "data_a"),
        _make_run(tmp_path / "other" / "a", tmp_path / "data_b", levels=(10, 30, 70, 130)),
    ]
    content = run_comparison(runs_of_one_kind, out=tmp_path / "out")
    assert [run["num_evaluated"] - content["num_images"] for run in content["runs"]] == [3, 0]
    assert content["metrics"]["pixel_iou"]["a"] is None  # known for all its images together only
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "They decide alike" in page
    assert "3 images that A was evaluated on are not in the other" in page


def test_too_many_disagreements_are_cut_on_both_sides(
    tmp_path: Path, evaluated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [_make_run(tmp_path / name, tmp_path / f"data_{name}") for name in "ab"]
    monkeypatch.setattr(comparison_page, "_MAX_CARDS", 2)
    monkeypatch.setattr(comparison_page, "_MAX_LINES", 1)
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 10_000)  # no picture is small enough: it ends all the same
    run_comparison(both, out=tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert [re.sub(r"\D", "", name) for name in re.findall(r"<h3>(.*?)</h3>", page)] == ["30", "50"]
    assert "2 more in comparison.csv" in page


def test_every_mistake_says_what_to_do(tmp_path: Path, evaluated: list[str]) -> None:
    a = _make_run(tmp_path / "a", tmp_path / "data_a", levels=(10, 30, 70))
    flipped = _make_run(tmp_path / "b", tmp_path / "data_b", flipped=30)
    (tmp_path / "other").mkdir()
    disjoint = _make_run(tmp_path / "other" / "b", tmp_path / "data_c", levels=(50, 90))
    for given, message in (
        ([a], "1 given; two trained runs are compared, as --runs A B"),
        ([a, a / ".." / "a"], "are the same run"),
        ([a, tmp_path / "none"], f"^--runs: {tmp_path}/none: not the directory of a run"),
        ([a, flipped], r"1 of 3 images are good to one run and defective to the other, e\.g\. '30"),
        ([a, disjoint], "no image was evaluated with both"),
    ):
        with pytest.raises(InputError, match=message):
            run_comparison(given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
