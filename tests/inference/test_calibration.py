"""A calibration survives the disk, and a broken file says so."""

import json

import pytest

from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference.calibration import Calibration
from jaxdefect.types import InputError


def test_round_trip_leaves_one_file_with_every_digit(tmp_path):
    calibration = Calibration(threshold=0.1 + 0.2, pixel_threshold=1 / 3, source="train", checkpoint_step=1320)
    assert calibrations.load(tmp_path) is None
    calibrations.save(calibration, tmp_path)
    assert calibrations.load(tmp_path) == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "change", [{"threshold": 1.5}, {"threshold": "high"}, {"source": "test"}, {"checkpoint_step": None}]
)
def test_a_broken_file_names_itself_and_the_way_out(tmp_path, change):
    values = {"threshold": 0.5, "pixel_threshold": 0.5, "source": "validation", "checkpoint_step": 1}
    (tmp_path / "calibration.json").write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=r"calibration\.json: not a calibration .*launch\.evaluate"):
        calibrations.load(tmp_path)
