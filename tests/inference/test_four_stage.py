"""The classifier's training data: which windows, and class names that survive their way through the files."""

import dataclasses
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect.config import ClassifierConfig, Config, DataConfig
from jaxdefect.data import readers
from jaxdefect.inference import four_stage
from jaxdefect.inference.defects import UNKNOWN_CLASS
from jaxdefect.training import runs
from jaxdefect.types import Sample, Shape, ShapeMask, Split, Targets

SETTINGS = ClassifierConfig(is_enabled=True, window_px=8, window_stride_px=8)
NAMES = ("deep scratch", "100% dent", "Blase/Riß", UNKNOWN_CLASS)


def square(left: int) -> ShapeMask:
    """An 8 x 8 defect in the rows 16 to 23."""
    return ShapeMask((Shape("polygon", (left, 16, left + 7, 16, left + 7, 23, left, 23)),), f"at {left}")


def crops_of(sample: Sample) -> list[four_stage.Crop]:
    """Of an image with defects at the columns 8, 24 and 40, and a false alarm at 56."""
    mask = np.zeros((48, 80), np.uint8)
    for left in (8, 24, 40):
        mask[16:24, left : left + 8] = 1
    probability = mask.astype(np.float32)
    probability[16:24, 56:64] = 1
    return four_stage.training_crops(
        sample,
        mask,
        probability,
        settings=SETTINGS,
        threshold=0.5,
        join_distance_px=0,
        rng=np.random.default_rng(0),
    )


def test_defects_of_unknown_class_among_named_ones_give_no_windows(tmp_path: Path):
    image = tmp_path / "a.png"
    assert cv2.imwrite(str(image), np.zeros((48, 80), np.uint8))
    masks = (("dent", square(8)), ("deep scratch", square(40)))
    named = Sample("a", image, square(8), 1, "a", ("dent", "deep scratch"), masks)

    def classes(sample: Sample) -> dict[int, str | None]:
        return {crop.window.left: crop.class_name for crop in crops_of(sample) if crop.window.top == 16}

    assert {k: v for k, v in classes(named).items() if v} == {8: "dent", 40: "deep scratch"}
    assert classes(named)[56] is None
    assert {crop.class_name for crop in crops_of(dataclasses.replace(named, class_masks=()))} == {None}
    # Where no class is named, or one is called like that, nothing is unknown.
    for names in ((), (UNKNOWN_CLASS,)):
        sample = dataclasses.replace(named, classes=names, class_masks=())
        assert {k: v for k, v in classes(sample).items() if v} == dict.fromkeys((8, 24, 40), UNKNOWN_CLASS)


def test_class_names_survive_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sample = Sample("a", Path("a.png"), None, 1, "a", NAMES)
    crops = [four_stage.Crop(sample, four_stage.Window(0, 0, 8, 8), name) for name in (*NAMES, None)]
    pixels = np.full((8, 8, 1), 0.5, np.float32)
    folder = tmp_path / "classifier" / "data"
    written = four_stage.write_crops([(crop, pixels) for crop in crops], folder)
    read = readers.read(DataConfig(reader="folder", root=str(folder)))
    assert read == written
    assert [len(each.classes) for each in read] == [1, 1, 1, 1, 0]

    data = DataConfig(classes=tuple(name for each in read for name in each.classes))
    split = Split((), (), (), ())
    own = runs.Run(tmp_path / "classifier", Config(data=data), split, Targets(8))
    monkeypatch.setattr(runs, "load", lambda directory: {own.workdir: own}[directory])
    monkeypatch.setattr(four_stage.checkpoints, "restore_variables", lambda *_, config: ({"w": jnp.zeros(1)}, 7))
    classifier = four_stage.load_classifier(runs.Run(tmp_path, Config(classifier=SETTINGS), split, Targets(8)))
    assert (classifier.classes, classifier.settings, classifier.step) == (NAMES, SETTINGS, 7)
