"""A whole evaluation with a predictor that knows what to say: figures worked out by hand, and the page's content."""

import base64
import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import browser
import cv2
import numpy as np
import pytest

from jaxdefect.config import Config, from_dict, to_dict
from jaxdefect.data import readers, splits
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import choosing, policies
from jaxdefect.inference.calibration import Calibration, CalibrationImages
from jaxdefect.inference.choosing import calibrate_run
from jaxdefect.inference.evaluation import (
    Evaluation,
    GalleryEntry,
    GallerySize,
    evaluate,
    select_gallery,
    worst_masks,
)
from jaxdefect.inference.judgement import Judgement
from jaxdefect.reports import evaluation as report
from jaxdefect.reports import pages, plots
from jaxdefect.reports.breakdown import Breakdown
from jaxdefect.reports.evaluation import evaluation_metrics, render_html, select_samples, write_report
from jaxdefect.training import runs
from jaxdefect.types import InputError, Sample, Split

# Each image is flat, and its gray level is its key to what the predictor says of it.
_MIXED = Judgement(0.6, np.tile(np.float32([0, 1]), (8, 8)), stride=8)
_SCORES = {10: 0.9, 30: 0.2, 50: 0.7, 70: 0.4, 90: 0.1}


@dataclasses.dataclass(frozen=True)
class FakePredictor:
    """Scores by gray level; its map is 1 on the left half of the 64 x 128 input at 1/8, and 0 on the right."""

    config: Config = dataclasses.field(default_factory=lambda: from_dict({"data": {"image_size": (64, 128)}}))
    checkpoint_step: int = 7
    weights_sha256: str = "abc"
    classes: tuple[str, ...] = ()

    classifier: None = None
    tiling: None = None
    calibration: Calibration | None = None

    def judge_each(self, images: Iterable[np.ndarray], *, batch_size: int) -> Iterator[Judgement]:
        probability = np.zeros((8, 16), np.float32)
        probability[:, :8] = 1
        for image in images:
            assert image.shape == (64, 128, 1)
            yield Judgement(_SCORES[round(float(image[0, 0, 0]) * 255)], probability, stride=8)

    def on_all_devices(self) -> "FakePredictor":
        return self


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Defective 10 (mask: the right half), 30 (without mask), 50 (mask: all); good 70 and 90."""
    made = []
    for level in _SCORES:
        image, mask = tmp_path / f"{level}.png", None
        cv2.imwrite(str(image), np.full((64, 128), level, np.uint8))
        label = int(level <= 50)
        if level in (10, 50):
            mask = tmp_path / f"{level}_mask.png"
            pixels = np.zeros((64, 128), np.uint8)
            pixels[:, 64 if level == 10 else 0 :] = 255
            cv2.imwrite(str(mask), pixels)
        made.append(Sample(f"part<{level}>", image, mask, label, group=str(level)))
    return made


def _report(samples: list[Sample], directory: Path, source: str) -> tuple[dict, str]:
    calibration = Calibration(threshold=0.3, pixel_threshold=0.25, source=source, checkpoint_step=3)
    evaluation = evaluate(FakePredictor(), samples, calibration=calibration, batch_size=2)
    metrics = evaluation_metrics(evaluation, calibration, part="test", workdir=directory)
    write_report(evaluation, metrics, directory=directory, num_channels=1)
    return json.loads((directory / "metrics.json").read_text()), (directory / "report.html").read_text()


def test_metrics_and_scores_are_those_worked_out_by_hand(samples, tmp_path):
    directory = tmp_path / "evaluation" / "test"
    _report(samples, directory, "train")
    (directory / "reliability.png").touch()  # scores were calibrated then
    metrics, _ = _report(samples, directory, "validation")  # the second time replaces the first
    plots = {"precision_recall.png", "score_histogram.png", "defects_by_iou.png"}
    assert {path.name for path in directory.iterdir()} == {
        "metrics.json",
        "report.html",
        "scores.csv",
        "groups.csv",
        *plots,
    }
    # Scores in order: 0.9 +, 0.7 +, 0.4 -, 0.2 +, 0.1 -. At 0.3: TP 2, FP 1, FN 1.
    expected = {
        "split": "test",
        "num_images": 5,
        "num_defective": 3,
        "average_precision": pytest.approx((1 + 1 + 3 / 4) / 3),
        "roc_auc": pytest.approx(5 / 6),
        "f1": pytest.approx(2 / 3),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "threshold": 0.3,
        "threshold_source": "validation",
        "false_positives": 1,
        "false_negatives": 1,
        "false_positives_at_full_recall": 1,
        "num_defective_with_mask": 2,
        "checkpoint_step": 7,
        "pixel_threshold": 0.25,
    }
    assert {key: metrics[key] for key in expected} == expected
    # All three defects and one good: F1 6/7; the middle between 0.1 and 0.2.
    oracle = {key: value for key, value in metrics["oracle"].items() if key != "note"}
    assert oracle == pytest.approx({"threshold": 0.15, "f1": 6 / 7, "false_positives": 1, "false_negatives": 0})
    # Cell i stands at pixel 8 i, so the map falls from 1 at column 56 to 0 at 64, and passes 1/4 at column 62: 63
    # columns are predicted (up to 62, where it is 0.25 itself). Hits: those of the mask that covers everything; the
    # left half in vain: mask "right half" and the two good images; the one without a mask does not count.
    true_positives, false_positives, false_negatives = 63, 3 * 63, 64 + (128 - 63)
    assert metrics["pixel_iou"] == pytest.approx(true_positives / (true_positives + false_positives + false_negatives))
    assert metrics["pixel_f1"] == pytest.approx(
        2 * true_positives / (2 * true_positives + false_positives + false_negatives)
    )
    with (directory / "scores.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["id", "label", "score", "prediction"],
        ["part<10>", "1", "0.9", "1"],
        ["part<30>", "1", "0.2", "0"],
        ["part<50>", "1", "0.7", "1"],
        ["part<70>", "0", "0.4", "1"],
        ["part<90>", "0", "0.1", "0"],
    ]


def test_page_needs_no_other_file_and_shows_every_image_worst_first(samples, tmp_path):
    _, page = _report(samples, tmp_path, "validation")
    assert not re.search(r"""(?:src|href)\s*=(?!\s*["']?(?:data:|#))""", page)
    assert not re.search(r"url\((?!#)|@import", page)
    # The miss is a third of the way wrong (0.1 of 0.3), the false alarm a seventh; then the right ones, nearest first.
    shown = re.findall(r"<h3>(.*?)</h3>", page)
    assert shown == [f"part&lt;{level}&gt;" for level in (30, 70, 50, 90, 10)]
    assert re.findall(r'data-verdict="(\w+)"', page) == ["missed", "false_alarm", "correct", "correct", "correct"]
    assert page.count("data:image/jpeg;base64,") == 2 * len(samples)
    assert page.count("<path d=") >= 2 * 2  # outlines on both pictures of both masks
    assert "chosen on the training images" not in page


def test_page_says_that_the_threshold_comes_from_the_training_images(samples, tmp_path):
    _, page = _report(samples, tmp_path, "train")
    assert '<p class="note">The threshold was chosen on the training images' in page


def test_page_stays_below_20_mb_with_the_noisiest_images(tmp_path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "10.png"), rng.integers(0, 256, (600, 600, 3), np.uint8))
    sample = Sample("noise", tmp_path / "10.png", None, 1, group="noise")
    entry = GalleryEntry(sample, 0.1, False, 0.5, rng.integers(0, 256, (75, 75), np.uint8), 8)
    evaluation = Evaluation(("noise",), np.array([1]), np.array([0.1]), np.zeros(3, np.int64), 0, (entry,))
    calibration = Calibration(threshold=0.3, pixel_threshold=0.5, source="validation", checkpoint_step=7)
    metrics = evaluation_metrics(evaluation, calibration, part="test", workdir=tmp_path)
    write_report(evaluation, metrics, directory=tmp_path, num_channels=3)
    size, empty = GallerySize(), {"precision_recall": "", "score_histogram": ""}
    empty_page = len(render_html(metrics, [], figures=empty, rows=Breakdown((), ())))
    per_image = (tmp_path / "report.html").stat().st_size - empty_page
    assert empty_page + per_image * (size.worst + 2 * size.best_of_each + size.worst_masks) < 20e6


def test_a_page_above_the_limit_gets_smaller_pictures(samples, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    monkeypatch.setattr(FakePredictor, "judge_each", lambda self, images, batch_size: (_MIXED for _ in images))
    for sample in samples:
        cv2.imwrite(str(sample.image), noise)
        if sample.mask is not None:
            cv2.imwrite(str(sample.mask), noise // 255 * 255)
    limit = 400_000  # without it ten pictures of 60 kB, in base64
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", limit)
    _, page = _report(samples, tmp_path, "validation")
    assert len(page.encode()) < limit
    pictures = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    assert len(pictures) == 2 * len(samples)
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None for data in pictures)


def test_page_on_a_phone_with_the_longest_names(samples, tmp_path):
    named = [
        dataclasses.replace(
            sample,
            id=f"{sample.image.stem}_{'long' * 40}",
            group="a_group_without_any_break" * (1 + i % 2),
            classes=(f"{'class' * 12}{i}",) if sample.label else (),
        )
        for i, sample in enumerate(samples)
    ]
    _report(named, tmp_path, "train")
    shown = browser.check_on_phone(tmp_path / "report.html")
    assert shown.num_images == 2 * len(samples)
    # The last filter: the worst masks first. Of 10 the wrong half is found, of 50, nearer to a wrong decision, half.
    assert [name.split("_")[0] for name in shown.shown] == ["10", "50"]


def test_a_curve_of_very_many_images_stays_small_and_in_place():
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < 0.2).astype(int)
    figure = plots.precision_recall(labels, rng.random(50_000) + 0.5 * labels, threshold=0.5)
    assert len(plots.to_svg(figure, name="a")) < 300_000
    recall, precision = figure.axes[0].lines[0].get_data()
    assert (recall[0], recall[-1], precision[-1]) == (1, 0, 1)
    assert max(np.abs(np.diff(recall)).max(), 0) < 0.01


def test_worst_masks_are_the_smallest_overlaps_of_images_that_are_called_defective():
    def entry(name: str, iou: float | None, *, label: int = 1, is_predicted: bool = True) -> GalleryEntry:
        sample = Sample(name, Path("image"), None, label, group="")
        error = -0.5 if is_predicted == bool(label) else 0.5
        return GalleryEntry(sample, 0.5, is_predicted, error, np.zeros((1, 1), np.uint8), 8, iou)

    entries = [entry("good", 0.0, label=0), entry("missed", 0.0, is_predicted=False), entry("unmasked", None)]
    entries += [entry(f"{iou}", iou) for iou in (0.7, 0.2, 0.9, 0.4)]
    size = GallerySize(worst=0, best_of_each=0, worst_masks=2)
    assert [each.sample.id for each in worst_masks(entries, size=size)] == ["0.2", "0.4"]
    assert [each.sample.id for each in select_gallery(entries, size=size)] == ["0.2", "0.4"]


def test_gallery_chosen_one_by_one_is_the_gallery_chosen_from_all():
    rng = np.random.default_rng(0)
    size = GallerySize(worst=8, best_of_each=2, worst_masks=3)
    for share_wrong in (0.05, 0.3, 0.9):
        entries = []
        for index in range(200):
            is_wrong, label = rng.random() < share_wrong, int(rng.random() < 0.3)
            error = float(rng.integers(0, 20)) / 20 * (1 if is_wrong else -1)
            sample = Sample(f"{index:03}", Path("image"), None, label, group="")
            is_called, iou = bool(label) != is_wrong, float(rng.integers(0, 9)) / 9
            entries.append(GalleryEntry(sample, 0.5, is_called, error, np.zeros((1, 1), np.uint8), 8, iou))
        kept: list[GalleryEntry] = []
        for entry in entries:
            kept = select_gallery([*kept, entry], size=size)
        chosen = select_gallery(entries, size=size)
        assert [entry.sample.id for entry in kept] == [entry.sample.id for entry in chosen]
        num_wrong = {name: sum(e.verdict == name for e in entries) for name in ("missed", "false_alarm")}
        for name, total in num_wrong.items():  # half of the places to either kind, all if there are fewer
            assert sum(entry.verdict == name for entry in chosen) >= min(total, 4)


def test_without_a_defective_validation_image_the_training_images_give_the_threshold(samples):
    ids = [sample.id for sample in samples]
    train = Split(train=tuple(ids[:4]), validation=(ids[4],), test=(), masked=())
    calibration = calibrate_run(FakePredictor(), samples, split=train, batch_size=4)
    # 0.9 +, 0.7 +, 0.4 -, 0.2 +: all called defective has F1 6/7, the best. No mask may be used: 0.5.
    assert (calibration.threshold, calibration.pixel_threshold, calibration.source) == (0.2, 0.5, "train")
    assert (calibration.num_trained, calibration.promise) == (4, None)
    assert calibration.images == CalibrationImages(tuple(ids[:4]), (1, 1, 1, 0), (0.9, 0.2, 0.7, 0.4))
    promise = choosing.Wish(policies.make("conformal", alpha=0.5))
    with pytest.raises(InputError, match="the network was trained on 4 of the 4 calibration images"):
        calibrate_run(FakePredictor(), samples, split=train, batch_size=4, wish=promise)
    validation = Split(train=(ids[1], ids[4]), validation=(ids[0], ids[3]), test=(), masked=())
    calibration = calibrate_run(FakePredictor(), samples, split=validation, batch_size=4)
    assert (calibration.threshold, calibration.source) == (pytest.approx(0.65), "validation")


def test_a_run_is_calibrated_once_for_its_checkpoint_and_anew_for_another(samples, tmp_path, monkeypatch):
    root, workdir = tmp_path / "data", tmp_path / "run"
    for folder in (root / "images", root / "masks", workdir):
        folder.mkdir(parents=True)
    for sample in samples:
        shutil.copy(sample.image, root / "images")
        if sample.mask is not None:
            shutil.copy(sample.mask, root / "masks" / sample.image.name)
    config = from_dict({"data": {"image_size": (64, 128), "reader": "folder", "root": str(root)}})
    rows = [f"images/{s.image.name},{s.label},{f'masks/{s.image.name}' if s.mask else ''}" for s in samples]
    (root / "labels.csv").write_text("\n".join(["image,label,mask", *rows]) + "\n")
    ids = {int(Path(sample.image).stem): sample.id for sample in readers.read(config.data)}
    split = Split(train=(), validation=(ids[10], ids[70]), test=(ids[30], ids[50], ids[90]), masked=())
    (workdir / "config.json").write_text(json.dumps(to_dict(config)))
    splits.save(split, workdir / "split.json")
    steps = {None: 7, "last": 9}

    def load(path: Path, *, checkpoint: str | None, is_calibrating: bool) -> FakePredictor:
        assert is_calibrating
        return FakePredictor(config, steps[checkpoint], calibration=calibrations.load(path))

    monkeypatch.setattr(choosing.Predictor, "load", load)
    metrics = report.run_evaluation(workdir)
    assert (metrics["num_images"], metrics["threshold"]) == (3, pytest.approx(0.65))  # between 0.9 + and 0.4 -
    chosen = Calibration(
        threshold=0.15, pixel_threshold=0.5, source="validation", checkpoint_step=7, weights_sha256="another training"
    )
    calibrations.save(chosen, workdir)
    assert report.run_evaluation(workdir)["threshold"] == pytest.approx(0.65)
    chosen = dataclasses.replace(chosen, weights_sha256="abc")
    calibrations.save(chosen, workdir)
    assert report.run_evaluation(workdir)["threshold"] == 0.15  # its own checkpoint's: used as it is
    metrics = report.run_evaluation(workdir, part="validation", checkpoint="last")
    assert (metrics["threshold"], metrics["checkpoint_step"]) == (pytest.approx(0.65), 9)
    assert calibrations.load(workdir) == chosen  # what prediction uses stays with the weights that the run selects
    assert (workdir / "evaluation" / "validation" / "report.html").exists()

    three_way = policies.make("recall", recall=1.0, reject_precision=1.0)
    calibrations.save(dataclasses.replace(chosen, policy=three_way, reject_threshold=0.8), workdir)
    metrics = report.run_evaluation(workdir)
    assert (metrics["policy"], metrics["num_calibration_images"]) == (str(three_way), 0)
    decided = metrics["decisions"][0]["figures"]  # 0.2 +, 0.7 + are inspected, 0.1 - is accepted
    assert (decided["num_inspected"], decided["num_inspected_good"], decided["false_negatives"]) == (2, 0, 0)
    run = runs.load(workdir)
    anew = choosing.calibrated(run, checkpoint="last", batch_size=4).calibration  # other weights, the same policy
    assert anew is not None
    assert (anew.policy, anew.threshold, anew.reject_threshold) == (three_way, pytest.approx(0.65), anew.threshold)
    elsewhere = dataclasses.replace(chosen, source="out-of-fold scores in x.csv", checkpoint_step=5)
    calibrations.save(elsewhere, workdir)
    with pytest.raises(InputError, match=r"for the checkpoint of step 5 on out-of-fold .* run launch\.calibrate again"):
        choosing.calibrated(run, batch_size=4)


def test_an_empty_or_incomplete_part_is_refused(samples):
    split = Split(train=(samples[0].id,), validation=(), test=("gone",), masked=())
    with pytest.raises(InputError, match="no validation images; parts that have some: test, train"):
        select_samples(samples, split=split, part="validation")
    with pytest.raises(InputError, match="'gone'"):
        select_samples(samples, split=split, part="test")
