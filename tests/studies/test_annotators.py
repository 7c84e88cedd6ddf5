"""Annotators compared over folders of real files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.config import DataConfig
from jaxdefect.studies import agreement
from jaxdefect.types import InputError


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
