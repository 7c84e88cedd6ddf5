"""Annotators compared over folders of real files."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect.config import Config, DataConfig
from jaxdefect.data import splits
from jaxdefect.inference.calibration import Calibration
from jaxdefect.studies import agreement
from jaxdefect.types import InputError, Prediction, Split


def annotate(root: Path, boxes: dict[str, tuple[slice, slice] | None], *, side: int = 64) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name, box in boxes.items():
        mask = np.zeros((side, side), np.uint8)
        if box is not None:
            mask[box] = 255
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.full((side, side), 90, np.uint8))
        cv2.imwrite(str(root / "masks" / f"{name}.png"), mask)
    return root


def test_annotators_are_compared_by_image_and_pixel(tmp_path: Path) -> None:
    whole, left = (slice(0, 8), slice(0, 8)), (slice(0, 8), slice(0, 4))
    roots = [
        annotate(tmp_path / "anna", {"a": whole, "b": whole, "c": None}),
        annotate(tmp_path / "ben", {"a": left, "b": None, "c": None}),
        annotate(tmp_path / "cleo", {"a": whole, "b": None, "c": None}),
    ]
    content = agreement.compare(DataConfig(reader="folder"), roots, workdir=None, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "agreement.json").read_text()) == content
    assert (content["num_images"], content["num_defective_by_consensus"]) == (3, 1)
    assert content["disputed_images"] == {"b": {"anna": 1, "ben": 0, "cleo": 0}}
    by_pair = {tuple(pair["raters"]): pair for pair in content["pairs"]}
    assert by_pair["anna", "ben"]["pixel_iou"] == 32 / 128  # anna marks 64 in a and 64 in b, ben half of the first
    assert by_pair["ben", "cleo"] == {"raters": ["ben", "cleo"], "cohen_kappa": 1.0, "pixel_iou": 0.5}
    ben = content["raters"]["ben"]
    assert (ben["pixels_against_consensus"]["precision"], ben["pixels_against_consensus"]["recall"]) == (1.0, 0.5)
    assert content["raters"]["anna"]["images_against_others"]["precision"] == 0.5
    assert "| ben | 100.00 |" in (tmp_path / "out" / "agreement.md").read_text()


@dataclasses.dataclass(frozen=True)
class FakePredictor:
    """Calls every image defective, everywhere."""

    config: Config = dataclasses.field(default_factory=Config)
    calibration: Calibration = dataclasses.field(default_factory=lambda: Calibration(0.5, 0.5, "validation", 1))

    def __call__(self, image: np.ndarray) -> Prediction:
        return Prediction(1.0, True, "reject", np.ones(image.shape[:2], np.float32))


def test_a_run_that_knows_the_images_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement.Predictor, "load", lambda _: FakePredictor())
    boxes = {"a": (slice(0, 8), slice(0, 8)), "b": None, "c": None}
    roots = [annotate(tmp_path / name, boxes) for name in ("anna", "ben", "model")]
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(Config())))
    splits.save(Split(train=("a", "c", "x"), validation=("b",), test=(), masked=()), workdir / "split.json")
    config = DataConfig(reader="folder")
    content = agreement.compare(config, roots[:2], workdir=workdir, out=tmp_path / "out")
    assert (content["model"]["num_trained"], content["model"]["num_validated"]) == (2, 1)
    assert content["raters"]["model"]["images_against_consensus"]["precision"] == pytest.approx(1 / 3)
    assert "Of the 3 images 2 are among those" in (tmp_path / "out" / "agreement.md").read_text()
    with pytest.raises(InputError, match="model has the name that the run has"):
        agreement.compare(config, roots, workdir=workdir, out=tmp_path / "out")
    agreement.compare(config, roots, workdir=None, out=tmp_path / "out")


def test_annotators_of_different_images_are_refused(tmp_path: Path) -> None:
    box = (slice(0, 8), slice(0, 8))
    roots = [annotate(tmp_path / "anna", {"a": box, "b": None}), annotate(tmp_path / "ben", {"a": box, "c": None})]
    config = DataConfig(reader="folder")
    with pytest.raises(InputError, match=r"2 images are rated by one of them only, e\.g\. 'b'"):
        agreement.compare(config, roots, workdir=None, out=tmp_path)
    with pytest.raises(InputError, match=r"--annotators, nobody: .*no such folder"):
        agreement.compare(config, [roots[0], tmp_path / "nobody"], workdir=None, out=tmp_path)
    with pytest.raises(InputError, match="two or more folders"):
        agreement.compare(config, roots[:1], workdir=None, out=tmp_path)


def test_annotators_of_images_of_two_sizes_are_told_so(tmp_path: Path) -> None:
    box = (slice(0, 8), slice(0, 8))
    roots = [annotate(tmp_path / "anna", {"a": box}), annotate(tmp_path / "ben", {"a": box}, side=32)]
    with pytest.raises(InputError, match=r"ben/images/a\.png is 32 x 32 .* but .*anna/images/a\.png is 64 x 64"):
        agreement.compare(DataConfig(reader="folder"), roots, workdir=None, out=tmp_path)
