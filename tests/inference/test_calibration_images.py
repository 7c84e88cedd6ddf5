"""What a run can be calibrated on, and what is said of it."""

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.config import from_dict
from jaxdefect.data import readers
from jaxdefect.inference import calibration_images
from jaxdefect.inference.calibration_images import read_scores, select, tiling_of_scores
from jaxdefect.training.runs import Run
from jaxdefect.types import InputError, Sample, Split, Targets

SPLIT = Split(train=("a", "b"), validation=("c", "d"), test=("e", "f"), masked=("a",))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Run, list[Sample]]:
    """Images a to f, the first of each part defective; c and d show one item."""
    root = tmp_path / "data"
    root.mkdir()
    lines = ["image,label,group"]
    for i, name in enumerate("abcdef"):
        cv2.imwrite(str(root / f"{name}.png"), np.full((8, 8), 10 * i, np.uint8))
        lines.append(f"{name}.png,{1 if name == 'd' else 1 - i % 2},{'c' if name == 'd' else name}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    config = from_dict({"data": {"reader": "folder", "root": str(root)}, "training": {"select": "best"}})
    return Run(tmp_path, config, SPLIT, Targets(8)), readers.read(config.data)


def test_parts_lists_and_folders_are_found_and_their_weakness_is_said(run, tmp_path):
    opened, samples = run
    validation = select(opened, samples, "validation")
    assert [sample.id for sample in validation.samples] == ["c", "d"]
    assert validation.num_trained == 0
    assert "2 defective calibration images belong to no more than 1 items" in validation.notes[0]
    assert "checkpoint was selected on 2 of the 2 calibration images" in validation.notes[1]

    train = select(opened, samples, "train")
    assert (train.source, train.num_trained) == ("train", 2)
    assert "was trained on 2 of the 2" in train.notes[0]
    assert "2 of the 2 calibration images are test images" in select(opened, samples, "test").notes[0]

    ids = tmp_path / "ids.txt"
    ids.write_text("d\n\na\ne\n")
    listed = select(opened, samples, str(ids))
    assert ([sample.id for sample in listed.samples], listed.num_trained) == (["d", "a", "e"], 1)
    assert listed.source == f"the images listed in {ids}"

    own = select(opened, samples, opened.config.data.root)
    assert (len(own.samples), own.num_trained) == (6, 2)
    other = tmp_path / "other"
    other.mkdir()
    for name in "ab":  # other images under ids that the run knows
        cv2.imwrite(str(other / f"{name}.png"), np.full((8, 8), 99, np.uint8))
    (other / "labels.csv").write_text("image,label\na.png,1\nb.png,0\n")
    elsewhere = select(opened, samples, str(other))
    assert ([sample.image.parent for sample in elsewhere.samples], elsewhere.num_trained) == ([other, other], 0)
    shutil.copy(samples[0].image, other / "b.png")  # "a", which the network was trained on
    assert select(opened, samples, str(other)).num_trained == 1
    same = [dataclasses.replace(samples[0])]  # as a part of the run's own folder names it
    assert calibration_images._copied(samples, same) == {"a"}


def test_what_is_not_there_is_named(run, tmp_path):
    opened, samples = run
    empty = dataclasses.replace(opened, split=dataclasses.replace(SPLIT, validation=()))
    with pytest.raises(InputError, match=r"no validation images \(it has train, test\)"):
        select(empty, samples, "validation")
    with pytest.raises(InputError, match="--on=valid: must be validation, train, test, a folder"):
        select(opened, samples, "valid")
    (tmp_path / "ids.txt").write_text("a\nz\n")
    with pytest.raises(InputError, match="1 of 2 images are not in the run's data set"):
        select(opened, samples, str(tmp_path / "ids.txt"))
    (tmp_path / "ids.txt").write_text("a\na\n")
    with pytest.raises(InputError, match="'a' stands there twice"):
        select(opened, samples, str(tmp_path / "ids.txt"))


HEADER = "id,fold,seed,label,score\n"


def test_out_of_fold_scores_are_those_of_other_folds_and_of_one_seed(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(HEADER + "a,0,0,1,0.9\nb,1,0,0,0.1\ne,2,0,1,0.8\na,0,1,1,0.7\nb,1,1,0,0.2\n")
    images, source, notes = read_scores([path], split=SPLIT, seed=0)
    assert (images.ids, images.labels, images.scores) == (("a", "b"), (1, 0), (0.9, 0.1))  # e is tested by the run
    assert source == f"out-of-fold scores in {path}, folds 0, 1"
    assert "other networks" in notes[0]
    assert "1 images that this run tests were left out" in notes[1]
    assert read_scores([path], split=SPLIT, seed=1, folds=[0])[0].scores == (0.7,)
    with pytest.raises(InputError, match="'a' stands there twice; choose one seed"):
        read_scores([path], split=SPLIT)
    with pytest.raises(InputError, match="no row of fold 3"):
        read_scores([path], split=SPLIT, seed=0, folds=[0, 3])
    with pytest.raises(InputError, match="all 1 images there are test images of this run"):
        read_scores([path], split=SPLIT, folds=[2])


def test_scores_of_evaluations_are_taken_raw_and_joined(tmp_path):
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("id,label,score,prediction,raw_score\na,1,0.9,1,0.6\n")
    second.write_text("id,label,score,prediction\nb,0,0.2,0\n")
    assert read_scores([first, second], split=SPLIT)[0].scores == (0.6, 0.2)
    assert tiling_of_scores([first]) is None
    (tmp_path / "metrics.json").write_text('{"split": "test", "tiling": [[64, 96], [32, 48]]}')
    assert tiling_of_scores([first, second]) == ((64, 96), (32, 48))
    with pytest.raises(InputError, match="different tiles"):
        tiling_of_scores([first, tmp_path / "elsewhere" / "3.csv"])
    with pytest.raises(InputError, match="no column 'fold'"):
        read_scores([first], split=SPLIT, folds=[0])
    (tmp_path / "metrics.json").write_text('{"split": "train"}')
    with pytest.raises(InputError, match="scores of images that their network was trained on"):
        read_scores([first], split=SPLIT)
    (tmp_path / "metrics.json").unlink()
    for text in ("id,label,score\nb,2,0.2\n", "label,score\n1,0.2\n"):
        second.write_text(text)
        with pytest.raises(InputError, match=r"--scores_csv=.*2\.csv: not a table of scores"):
            read_scores([second], split=SPLIT)
    second.write_text("\ufeffid,label,score\nb,1,0.2\n", encoding="utf-8")  # Excel's UTF-8
    assert read_scores([second], split=SPLIT)[0].ids == ("b",)
