"""Whole systems, small, trained and evaluated: an ensemble side by side and in turn, and the four stages."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect import system
from jaxdefect.config import Config
from jaxdefect.inference import batch, policies
from jaxdefect.inference.choosing import Wish
from jaxdefect.inference.predictor import Predictor
from jaxdefect.reports.calibration import Images, run_calibration
from jaxdefect.reports.evaluation import run_evaluation
from jaxdefect.training import runs
from jaxdefect.types import InputError

SIDE = 96  # of the images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 surfaces: a third with a bright bar, a third with a dark spot, a third good."""
    root = tmp_path_factory.mktemp("surfaces")
    rng = np.random.default_rng(0)
    rows = ["image,label,mask,classes"]
    for i in range(36):
        pixels = rng.normal(120, 8, (SIDE, SIDE))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = rng.integers(8, 70, 2)
        kind = ("bar", "spot", "")[i % 3]
        if kind == "bar":
            mask[top : top + 4, left : left + 16] = 255
            pixels[mask > 0] += 90
        elif kind == "spot":
            cv2.circle(mask, (int(left), int(top)), 5, 255, -1)
            pixels[mask > 0] -= 90
        cv2.imwrite(str(root / f"{i}.png"), np.clip(pixels, 0, 255).astype(np.uint8))
        cv2.imwrite(str(root / f"{i}_mask.png"), mask)
        rows.append(f"{i}.png,{int(bool(kind))},{f'{i}_mask.png' if kind else ''},{kind}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def make_config(folder: Path, **sections) -> Config:
    values = {
        "data": {"reader": "folder", "root": str(folder), "image_size": (64, 64)},
        "split": {"test_fraction": 0.35, "validation_fraction": 0.25},
        "training": {"epochs": 2, "batch_size": 4},
        "optimizer": {"name": "adam", "learning_rate": 3e-3},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return config_lib.from_dict(values)


def losses(workdir: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return np.array([[line["loss"], line["gradient_norm"]] for line in lines if line["kind"] == "train"])


@pytest.mark.slow
def test_an_ensemble_trained_side_by_side_is_the_one_trained_in_turn(folder: Path, tmp_path: Path) -> None:
    # SGD: Adam's first steps are as long for a gradient of 1e-9 as for one of 1.
    sections = {
        "model": {"kernels": "atrous"},
        "loss": {"balance": "none"},
        "optimizer": {"name": "sgd", "learning_rate": 0.05},
        "training": {"epochs": 2, "steps_per_epoch": 3, "batch_size": 2},
    }
    stacked = make_config(folder, ensemble={"kind": "per_class", "training": "stacked"}, **sections)
    sequential = dataclasses.replace(stacked, ensemble=config_lib.EnsembleConfig("per_class", "sequential"))
    assert system.train(stacked, tmp_path / "stacked") == 0
    assert system.train(sequential, tmp_path / "sequential") == 0
    for name in ("bar", "spot"):
        first, second = (losses(tmp_path / kind / "members" / name) for kind in ("stacked", "sequential"))
        np.testing.assert_allclose(first[0], second[0], rtol=1e-5)
        # A rounding error that switches one ReLU or maximum shows from the second step on.
        np.testing.assert_allclose(first, second, rtol=1e-2)
        assert np.ptp(first[:, 0]) > 1e-2
    # What is trained already is not trained again.
    before = (tmp_path / "stacked/members/bar/metrics.jsonl").read_text()
    assert system.train(stacked, tmp_path / "stacked") == 0
    assert (tmp_path / "stacked/members/bar/metrics.jsonl").read_text() == before

    # A lost member is trained by itself, and what the other has is not thrown away.
    trained = losses(tmp_path / "stacked/members/bar")
    shutil.rmtree(tmp_path / "stacked/members/bar")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stacked/members/spot/checkpoints").rglob("*")}
    assert system.train(stacked, tmp_path / "stacked") == 0
    np.testing.assert_allclose(losses(tmp_path / "stacked/members/bar"), trained, rtol=1e-2)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())

    wish, images = Wish(policies.make("recall", recall=1.0)), Images()
    calibrated = run_calibration(tmp_path / "stacked", wish, images)
    assert [result.path.parent.name for result in calibrated] == ["bar", "spot"]
    for result in calibrated:  # on its own defects against all else
        of_class = result.calibration.images
        assert of_class is not None
        defective = [score for score, label in zip(of_class.scores, of_class.labels, strict=True) if label]
        assert 0 < len(defective) < len(of_class.ids) - len(defective)
        assert result.calibration.threshold <= min(defective)
    with pytest.raises(InputError, match=r"class bar: validation: .* 59 are needed"):
        run_calibration(tmp_path / "stacked", Wish(policies.make("guarantee")), images)
    with pytest.raises(InputError, match=r"--scores=platt: not for the members of an ensemble.* --joint"):
        run_calibration(tmp_path / "stacked", Wish(scores="platt"), images)
    with pytest.raises(InputError, match=r"members/bar/calibration\.json: not chosen for the joined score"):
        Predictor.load(tmp_path / "stacked", calibration=tmp_path / "stacked/members/bar/calibration.json")
    with pytest.raises(InputError, match=r"--joint: .* is no ensemble"):
        run_calibration(tmp_path / "stacked/members/bar", wish, images, is_joint=True)

    metrics = run_evaluation(tmp_path / "stacked")
    assert list(metrics["classes"]) == ["bar", "spot"]
    assert metrics["threshold"] == 0.5
    assert any("no miss" in note for note in metrics["calibration_notes"])
    ensemble = Predictor.load(tmp_path / "stacked")
    members = {name: Predictor.load(tmp_path / "stacked/members" / name) for name in ("bar", "spot")}
    assert members["bar"].forward is members["spot"].forward  # compiled once for all runs of one architecture
    for i in range(6):
        image = cv2.imread(str(folder / f"{i}.png"), cv2.IMREAD_GRAYSCALE)
        alone = {name: member(image) for name, member in members.items()}
        assert ensemble(image).is_defective == any(prediction.is_defective for prediction in alone.values())
        (judgement,) = ensemble.judge([image[..., None].astype(np.float32) / 255])
        for name, prediction in alone.items():
            assert (judgement.class_scores[name] >= 0.5) == prediction.is_defective
    check_joint_calibration(tmp_path / "stacked", folder)


def check_joint_calibration(workdir: Path, folder: Path) -> None:
    """Of images another decision, three ways and with probabilities; of classes and pixels the same."""
    image = cv2.imread(str(folder / "0.png"), cv2.IMREAD_GRAYSCALE)
    before = Predictor.load(workdir)(image)
    wish = Wish(policies.make("recall", recall=1.0, reject_precision=1.0))
    (result,) = run_calibration(workdir, wish, Images(), is_joint=True)
    joint = result.calibration
    assert (result.path, joint.pixel_threshold) == (workdir / "calibration.json", 0.5)
    assert joint.images is not None
    assert set(joint.images.labels) == {0, 1}
    after = Predictor.load(workdir)(image)
    assert (after.class_scores, after.defects) == (before.class_scores, before.defects)
    np.testing.assert_array_equal(after.probability, before.probability)
    assert after.score == before.score
    assert after.verdict == joint.verdict(after.score)
    assert run_evaluation(workdir)["threshold"] == joint.threshold

    scores = workdir / "scores.csv"
    rows = [f"{n},{int(n > 8)},{0.4 + n / 50 + n % 2 / 10}" for n in range(20)]
    scores.write_text("\n".join(["id,label,score", *rows]))
    out, out_of_fold = workdir / "platt.json", Images(scores_csv=(scores,))
    (result,) = run_calibration(workdir, Wish(scores="platt"), out_of_fold, is_joint=True, out=out)
    score = Predictor.load(workdir, calibration=out)(image).score
    assert score == pytest.approx(result.calibration.calibrated(before.score))
    assert abs(score - before.score) > 1e-3

    # Other thresholds of a member make other joined scores: an evaluation chooses anew, and what cannot, refuses.
    run_calibration(workdir, Wish(policies.make("cost", cost_ratio=1.0)), Images())
    with pytest.raises(InputError, match=r"calibration\.json: not chosen for the joined score .* --joint"):
        Predictor.load(workdir)
    run_evaluation(workdir)
    chosen = Predictor.load(workdir).calibration
    assert chosen is not None
    assert chosen.policy == joint.policy
    assert chosen.weights_sha256 != joint.weights_sha256


@pytest.mark.slow
def test_four_stages_are_trained_by_one_command_and_judged_with_and_without_the_classifier(
    folder: Path, tmp_path: Path
) -> None:
    config = make_config(
        folder,
        data={
            "reader": "folder",
            "root": str(folder),
            "image_size": (64, 64),
            "fit": "patches",
            "patch_stride_px": 32,
            "target": "severity",
        },
        model={"architecture": "regression"},
        loss={"segmentation": "l2", "balance": "none", "decision_weight": 0.0},
        training={"epochs": 5, "batch_size": 8, "select_by": "segmentation_loss"},
        inference={"pixel_criterion": "mean_iou", "join_distance_px": 4},
        classifier={
            "is_enabled": True,
            "model": {"depth": 18, "input_norm": "none"},
            "training": {"epochs": 1, "batch_size": 16, "select_by": "accuracy"},
        },
    )
    assert system.train(config, tmp_path) == 0
    targets = json.loads((tmp_path / "targets.json").read_text())
    assert targets["stride"] == 4
    assert 60 < targets["severity_scale"] < 500  # 90 gray levels apart, both d0 and d1
    assert runs.load(tmp_path / "classifier").config.data.classes == ("bar", "spot")
    metrics = run_evaluation(tmp_path)
    detected, kept = metrics["defects_before_classifier"], metrics["defects"]
    assert detected["num_true"] == kept["num_true"] == metrics["num_defective"]
    assert detected["pixel_recall"] > 0.5  # it has learnt to see them
    assert kept["num_predicted"] <= detected["num_predicted"]
    assert (tmp_path / "evaluation/test/confusion_matrix.png").stat().st_size > 1000

    # The same images through files: what the classifier accepted is what COCO's file holds, and the map shows no more.
    predictor, images = Predictor.load(tmp_path), folder.glob("[0-9].png")
    batch.predict_files(predictor, {path.name: path for path in images}, out=tmp_path / "out", batch_size=4)
    document = json.loads((tmp_path / "out/defects.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    num_defects = 0
    for image in document["images"]:
        pixels = cv2.imread(str(folder / image["file_name"]), cv2.IMREAD_GRAYSCALE)
        (judgement,) = predictor.judge([pixels[..., None].astype(np.float32) / 255])
        found = [each for each in document["annotations"] if each["image_id"] == image["id"]]
        assert [(names[each["category_id"]], each["area"]) for each in found] == [
            (defect.class_name, defect.area_px) for defect in judgement.defects
        ]
        assert all(0 < each["vote"] <= 1 and 0 < each["score"] <= 1 for each in found)
        num_defects += len(found)
        shown = cv2.imread(str(tmp_path / "out/maps" / f"{image['file_name']}.png"), cv2.IMREAD_UNCHANGED)
        is_defect = shown / 65535 >= predictor.pixel_threshold + 1e-5
        assert is_defect.sum() <= sum(each["area"] for each in found)
    assert num_defects
