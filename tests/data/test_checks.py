"""Checks of a data set's files and of the disk name everything that is wrong."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.data import checks
from jaxdefect.types import InputError, MaskFile, RunLengthMask, Sample, Shape, ShapeMask


def write(path: Path, value: int, *, shape: tuple[int, int] = (16, 24)) -> Path:
    assert cv2.imwrite(str(path), np.full(shape, value, np.uint8))
    return path


def test_all_problems_come_in_one_error(tmp_path: Path):
    values = {"image": 9, "full": 1, "empty": 0, "gray": 128}
    image, full, empty, gray = (write(tmp_path / f"{name}.png", value) for name, value in values.items())
    good = [
        Sample("a", image, full, 1, "a"),
        Sample("b", image, empty, 0, "b"),
        Sample("c", image, None, 1, "c"),
        Sample("d", image, RunLengthMask(((1, 5),), "train.csv, line 2"), 1, "d"),
        Sample("d", image, MaskFile(gray, is_soft=True), 1, "d"),
        Sample("d", image, MaskFile(empty, is_soft=True), 0, "d"),
        Sample("d", image, ShapeMask((Shape("polyline", (3, 3)),), "via.json, image d"), 1, "d"),
    ]
    checks.check_samples(good)

    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:-20])
    small = write(tmp_path / "small.png", 1, shape=(8, 24))
    bad = [
        Sample("e", tmp_path / "gone.png", None, 0, "e"),
        Sample("f", tmp_path / "zero.png", None, 0, "f"),
        Sample("g", tmp_path / "cut.png", None, 0, "g"),
        Sample("h", image, small, 1, "h"),
        Sample("i", image, empty, 1, "i"),
        Sample("j", image, full, 0, "j"),
        Sample("k", image, RunLengthMask(((380, 9),), "train.csv, line 3"), 1, "k"),
        Sample("l", image, ShapeMask((Shape("polyline", (25, 3)),), "via.json, image l"), 1, "l"),
        Sample("m", image, MaskFile(full, above=1), 1, "m"),
        Sample("n", image, MaskFile(full, is_soft=True), 1, "n"),
    ]
    with pytest.raises(InputError) as caught:
        checks.check_samples([*good, *bad])
    heading, *lines = str(caught.value).splitlines()
    assert heading.startswith("10 of 17 images have a problem")
    wanted = [
        "gone.png: no such image file",
        "zero.png: the image file is empty (0 bytes)",
        "cut.png: truncated image",
        "small.png: the mask is 8 x 24",
        "empty.png: the mask is empty but the image is labelled defective",
        "full.png: the mask marks a defect",
        "train.csv, line 3: the run 380 9 leaves the image",
        "via.json, image l: shape 1, a polyline at x 25, y 3, lies outside the image of 16 x 24",
        "full.png: the mask is empty but the image is labelled defective",
        "full.png: the soft mask's largest degree is 0.00392, so it marks no defect",
    ]
    assert len(lines) == len(wanted)
    for line, text in zip(lines, wanted, strict=True):
        assert text in line
    assert "hard mask: set config.data.masks = 'hard'" in lines[-1]


def test_a_long_list_is_cut_after_ten(tmp_path: Path):
    samples = [Sample(str(i), tmp_path / f"{i}.png", None, 0, str(i)) for i in range(25)]
    with pytest.raises(InputError) as caught:
        checks.check_samples(samples)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "and 15 more"


def test_a_disk_without_room_is_named(tmp_path: Path):
    checks.check_disk(tmp_path / "not" / "yet", needed_bytes=1)
    with pytest.raises(InputError, match=r"not/yet: the disk has \d+ MiB left but about 1099511627776 MiB are needed"):
        checks.check_disk(tmp_path / "not" / "yet", needed_bytes=2**60)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    checks.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/below: cannot write there"):
        checks.check_writable(tmp_path / "file" / "below")
    # Root may write anywhere, so the kernel's own file system stands for a folder without permission.
    locked = Path("/proc/self") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        locked.mkdir(mode=0o500)
    with pytest.raises(InputError, match=f"{locked}: cannot write there"):
        checks.check_writable(locked)
