"""A calibration survives the disk, old files still load, and a broken file says so."""

import json

import pytest

from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import policies
from jaxdefect.inference.calibration import Calibration, CalibrationImages
from jaxdefect.inference.score_maps import Isotonic, Platt
from jaxdefect.types import InputError


@pytest.mark.parametrize("score_map", [Platt(1 / 3, -0.1), Isotonic((0.1, 1 / 3), (0.0, 1.0))])
def test_round_trip_leaves_one_file_with_every_digit(tmp_path, score_map):
    calibration = Calibration(
        threshold=0.1 + 0.2,
        pixel_threshold=1 / 3,
        source="the images listed in ids.txt",
        checkpoint_step=1320,
        reject_threshold=2 / 3,
        policy=policies.make("guarantee", alpha=0.1, reject_precision=1.0),
        promise="that",
        notes=("but",),
        score_map=score_map,
        images=CalibrationImages(("a", 'b"'), (0, 1), (0.1 + 0.2, 1e-9)),
        num_trained=1,
    )
    assert calibrations.load(tmp_path) is None
    calibrations.save(calibration, tmp_path)
    assert calibrations.load(tmp_path) == calibrations.read(tmp_path / "calibration.json") == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    written = json.loads((tmp_path / "calibration.json").read_text())
    assert (written["num_defective"], written["num_good"]) == (1, 1)
    assert written["policy"] == {"name": "guarantee", "alpha": 0.1, "delta": 0.05, "reject_precision": 1.0}


def test_a_file_of_before_policies_were_kept_still_loads(tmp_path):
    old = {"threshold": 0.25, "pixel_threshold": 0.5, "source": "train", "checkpoint_step": 7, "logistic": None}
    (tmp_path / "calibration.json").write_text(json.dumps(old))
    assert calibrations.load(tmp_path) == Calibration(0.25, 0.5, "train", 7)


def test_verdicts_change_at_the_thresholds():
    three_way = Calibration(0.25, 0.5, "train", 7, reject_threshold=0.75)
    assert [three_way.verdict(score) for score in (0.2, 0.25, 0.7, 0.75)] == ["accept", "inspect", "inspect", "reject"]
    two_way = Calibration(0.25, 0.5, "train", 7)
    assert [two_way.verdict(score) for score in (0.2, 0.25, 0.75)] == ["accept", "reject", "reject"]


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.5},
        {"threshold": "high"},
        {"source": ""},
        {"checkpoint_step": None},
        {"reject_threshold": 0.4},
        {"policy": {"name": "luck"}},
        {"score_map": {"method": "platt", "slope": -1, "intercept": 0}},
        {"score_map": {"method": "isotonic", "scores": [0.2, 0.1], "shares": [0, 1]}},
        {"images": {"ids": ["a"], "labels": [], "scores": [0.5]}},
    ],
)
def test_a_broken_file_names_itself_and_the_way_out(tmp_path, change):
    values = {"threshold": 0.5, "pixel_threshold": 0.5, "source": "validation", "checkpoint_step": 1}
    (tmp_path / "calibration.json").write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=r"calibration\.json: not a calibration .*launch\.evaluate"):
        calibrations.load(tmp_path)


def test_a_missing_file_says_how_to_write_it(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no calibration there .*launch\.calibrate"):
        calibrations.read(tmp_path / "none.json")
