"""The synthetic data set: its layouts, its determinism, its masks, and that pixel statistics do not solve it."""

import csv
import dataclasses
import hashlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jaxdefect.config import DataConfig, SyntheticConfig
from jaxdefect.data import readers, synthetic
from jaxdefect.data.surfaces import render
from jaxdefect.types import InputError, RunLengthMask

SMALL = SyntheticConfig(num_images=10, height=128, width=400, seed=3)
LAUNCH = [sys.executable, "-m", "launch.synthesize"]


def write(root: Path, **changes: object) -> Path:
    synthetic.write(root, **dataclasses.asdict(dataclasses.replace(SMALL, **changes)))
    return root


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def decode(text: str, *, height: int, width: int) -> np.ndarray:
    """Severstal's run lengths, one pixel at a time."""
    mask = np.zeros((height, width), bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for position in range(start - 1, start - 1 + length):
            assert not mask[position % height, position // height]
            mask[position % height, position // height] = True
    return mask


def test_severstal_layout_holds_what_was_rendered(tmp_path: Path) -> None:
    root = write(tmp_path / "steel")
    with (root / "train.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["ImageId", "ClassId", "EncodedPixels"]
    assert rows == sorted(rows, key=lambda row: (row[0], int(row[1])))
    by_image: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for name, class_id, runs in rows:
        assert int(class_id) not in by_image[name]
        by_image[name][int(class_id)] = decode(runs, height=128, width=400)
    assert len(list((root / "train_images").glob("*.jpg"))) == 10
    assert len(by_image) == 5
    for index in range(10):
        positive = synthetic.is_positive(index, positive_fraction=0.5)
        surface = render(seed=3, index=index, is_positive=positive, height=128, width=400)
        name = f"{synthetic.image_id(index)}.jpg"
        assert len(name) == len("0002cc93b.jpg")
        stored = cv2.imread(str(root / "train_images" / name), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        assert stored.shape == (128, 400, 3)
        assert np.abs(stored[..., 0].astype(float) - surface.image).mean() < 4
        assert (name in by_image) == positive
        assert by_image.get(name, {}).keys() == surface.masks.keys()
        for class_id, mask in surface.masks.items():
            np.testing.assert_array_equal(by_image[name][class_id], mask)


def test_folder_layout_has_the_union_as_mask(tmp_path: Path) -> None:
    root = write(tmp_path / "plain", layout="folder")
    for index in range(10):
        surface = render(seed=3, index=index, is_positive=index % 2 == 1, height=128, width=400)
        name = f"{synthetic.image_id(index)}.png"
        stored = cv2.imread(str(root / "images" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, surface.image)
        mask = cv2.imread(str(root / "masks" / name), cv2.IMREAD_UNCHANGED)
        union = np.any([np.zeros((128, 400), bool), *surface.masks.values()], axis=0)
        np.testing.assert_array_equal(mask, union * np.uint8(255))


def test_same_seed_same_bytes_and_more_images_only_extend(tmp_path: Path) -> None:
    first, again = digests(write(tmp_path / "a")), digests(write(tmp_path / "b"))
    assert first == again
    longer = digests(write(tmp_path / "c", num_images=14))
    pictures = {name: digest for name, digest in first.items() if name.endswith(".jpg")}
    assert len(pictures) == 10
    assert pictures.items() <= longer.items()
    other = digests(write(tmp_path / "d", seed=4))
    assert not set(pictures.values()) & set(other.values())
    rows = (tmp_path / "a" / "train.csv").read_text().splitlines()
    assert set(rows) <= set((tmp_path / "c" / "train.csv").read_text().splitlines())


@pytest.mark.parametrize(("height", "width"), [(256, 800), (128, 400)])
def test_masks_lie_where_the_defects_show(height: int, width: int) -> None:
    seen, coverage = set(), []
    for index in range(30):
        surface = render(seed=0, index=index, is_positive=True, height=height, width=width)
        plain = render(seed=0, index=index, is_positive=False, height=height, width=width)
        assert plain.masks == {}
        seen |= surface.masks.keys()
        # The same surface without its defects: the difference is what a defect changed, in gray levels.
        change = np.abs(surface.image.astype(float) - plain.image)
        union = np.any(list(surface.masks.values()), axis=0)
        margin = 1 + 2 * round(6 * height / 256)
        near = cv2.dilate(union.astype(np.uint8), np.ones((margin, margin))) > 0
        assert (change[~near] > 1).mean() < 0.001
        assert np.median(change[union]) >= 8
        coverage.append((union & (change > 4)).sum() / (change > 4).sum())
    assert seen == {1, 2, 3, 4}
    assert np.mean(coverage) > 0.7


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 300), (300, 100)])
def test_every_positive_has_pixels_of_one_or_two_classes(height: int, width: int) -> None:
    for index in range(60):
        surface = render(seed=1, index=index, is_positive=True, height=height, width=width)
        assert surface.image.shape == (height, width)
        assert 1 <= len(surface.masks) <= 2
        assert all(mask.any() for mask in surface.masks.values())


def test_ids_are_distinct_and_neither_their_order_nor_their_parity_gives_the_label() -> None:
    ids = [synthetic.image_id(index) for index in range(4000)]
    assert len(set(ids)) == 4000
    labels = [index % 2 for index in range(4000)]
    by_order = [label for _, label in sorted(zip(ids, labels, strict=True))]
    assert abs(np.mean(by_order[:2000]) - 0.5) < 0.05
    assert abs(np.corrcoef([int(name, 16) % 2 for name in ids], labels)[0, 1]) < 0.1


def test_statistics_of_the_pixels_do_not_tell_positives_from_negatives() -> None:
    scores, labels = defaultdict(list), []
    for index in range(80):
        surface = render(seed=0, index=index, is_positive=index % 2 == 1, height=128, width=400)
        labels.append(bool(surface.masks))
        image = surface.image.astype(np.float32) / 255
        mean = cv2.blur(image, (9, 9))
        local_deviation = np.sqrt(np.maximum(cv2.blur(image * image, (9, 9)) - mean * mean, 0))
        scores["max"].append(image.max())
        scores["min"].append(image.min())
        scores["mean"].append(image.mean())
        scores["std"].append(image.std())
        scores["max of the local std"].append(local_deviation.max())
        scores["max of the relative local std"].append((local_deviation / (mean + 0.02)).max())
    for name, values in scores.items():
        for sign in (1, -1):
            assert average_precision_score(labels, sign * np.array(values)) < 0.8, name


@pytest.mark.parametrize("layout", ["severstal", "folder"])
def test_reader_writes_once_then_reads_the_same(tmp_path: Path, layout: str) -> None:
    config = DataConfig(
        reader="synthetic", root=str(tmp_path / "data"), synthetic=dataclasses.replace(SMALL, layout=layout)
    )
    samples = readers.read(config)
    assert len(samples) == 10
    assert sum(sample.label for sample in samples) == 5
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert readers.read(config) == samples
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before
    masked = [sample for sample in samples if sample.label]
    assert all(isinstance(sample.mask, RunLengthMask if layout == "severstal" else Path) for sample in masked)


def test_reader_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    root = tmp_path / "data"
    config = DataConfig(reader="synthetic", root=str(root), synthetic=SMALL)
    readers.read(config)
    other = dataclasses.replace(config, synthetic=dataclasses.replace(SMALL, seed=9))
    with pytest.raises(InputError, match=r"other parameters \(seed is 3, wanted 9\); delete the folder"):
        readers.read(other)
    (root / synthetic.PARAMETERS_FILE).write_text("{")
    with pytest.raises(InputError, match=r"synthetic\.json: cannot be read"):
        readers.read(config)
    (root / synthetic.PARAMETERS_FILE).unlink()
    with pytest.raises(InputError, match="not a synthetic data set"):
        readers.read(config)
    with pytest.raises(InputError, match=r"config\.data\.root is empty"):
        readers.read(DataConfig(reader="synthetic"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_images": 0}, "num_images = 0: must be 1 or more"),
        ({"positive_fraction": 1.5}, "positive_fraction = 1.5"),
        ({"height": 32}, "height = 32: must be 64 or more"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_wrong_parameters_are_named_and_leave_nothing(tmp_path: Path, changes: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        write(tmp_path / "data", **changes)
    assert list(tmp_path.iterdir()) == []


def test_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        write(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_launcher_writes_and_refuses_a_folder_in_use(tmp_path: Path) -> None:
    flags = ["--layout=folder", f"--out={tmp_path / 'new'}", "--num_images=3", "--height=64", "--width=96"]
    done = subprocess.run([*LAUNCH, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wrote 3 images of 64 x 96, 1 of them defective" in done.stdout
    assert "python -m launch.train --config=configs/folder.py" in done.stdout
    assert len(list((tmp_path / "new" / "images").iterdir())) == 3
    again = subprocess.run([*LAUNCH, *flags], capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "not an empty folder" in again.stderr
    assert "Traceback" not in again.stderr
