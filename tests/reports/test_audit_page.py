"""The audit's page and audit.json: complete, safe to open, and of no other file."""

import dataclasses
import json
import re
from pathlib import Path

import browser
import cv2
import numpy as np
import pytest

from jaxdefect.config import Config, DataConfig
from jaxdefect.data import readers
from jaxdefect.data.audit import audit
from jaxdefect.data.inspection import inspect
from jaxdefect.reports import audit as report
from jaxdefect.types import InputError, Sample, Split


def test_page_and_json_show_every_kind_of_finding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)
    samples = []
    for name in ("<b>one", "two"):
        path = tmp_path / f"{name[-3:]}.png"
        cv2.imwrite(str(path), pixels)
        samples.append(Sample(name, path, None, 0, name))
    samples += [Sample(f"lost{i}", tmp_path / f"lost{i}.png", None, 1, f"lost{i}", ("dent",)) for i in range(9)]
    split = Split(("<b>one", "lost1"), (), ("two", "lost0"), ())
    result = audit(inspect(samples), {"here": split}, Config())
    report.write_report(result, tmp_path / "out", split=split, num_channels=1)

    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (content["num_errors"], content["num_warnings"]) == (10, 0)
    assert content["findings"][0]["images"] == ["<b>one", "two"]
    assert content["findings"][0]["severity"] == "error"
    assert content["summary"]["parts"]["test"] == {
        "num_images": 2,
        "num_groups": 2,
        "num_good": 1,
        "num_defective": 1,
        "num_defective_with_mask": 0,
        "classes": {"dent": 1},
    }
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert page.count('unread">') == 8
    assert "1 more in audit.json" in page
    assert "&lt;b&gt;one, train, good" in page
    assert "<b>one" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert browser.check_on_phone(tmp_path / "out" / "audit.html").num_images == 2


def test_an_empty_or_clean_data_set_has_a_page_too(tmp_path: Path) -> None:
    report.write_report(audit([], {}, Config()), tmp_path, split=None, num_channels=3)
    assert "0 errors, 0 warnings" in (tmp_path / "audit.html").read_text()


def test_masks_that_keep_a_training_from_starting_are_all_findings(tmp_path: Path) -> None:
    """The reader refuses such a data set; the audit shows every image of it that is wrong."""
    rows = ["image,label,mask"]
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (12, 64, 64), np.uint8)):
        mask = np.full((64, 64), 255 * (number < 6), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        cv2.imwrite(str(tmp_path / f"{number}_mask.png"), mask)
        rows.append(f"{number}.png,{int(number < 6)},{number}_mask.png")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "1_mask.png").write_bytes(b"x")
    for number, value in ((2, 0), (3, 0), (8, 255)):
        cv2.imwrite(str(tmp_path / f"{number}_mask.png"), np.full((64, 64), value, np.uint8))
    config = Config(data=DataConfig(reader="folder", root=str(tmp_path)))
    with pytest.raises(InputError, match=r"4 of 12 images or their masks .*(\n.*labels\.csv, line \d+: .*){4}"):
        readers.read(config.data)
    result = report.run_audit(config, tmp_path / "out")
    errors = [(finding.kind, *finding.images) for finding in result.findings if finding.is_error]
    assert errors == [("mask_unusable", "1"), ("mask_label", "2"), ("mask_label", "3"), ("mask_label", "8")]


def test_what_a_reader_cannot_read_is_an_error_and_a_wrong_setting_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\ngone.png,1\n")
    config = Config(data=DataConfig(reader="folder", root=str(tmp_path)))
    (finding,) = report.run_audit(config, tmp_path / "out").findings
    assert finding.is_error
    assert "labels.csv, line 2: the image 'gone.png' does not exist" in finding.text
    with pytest.raises(InputError, match="no such folder"):
        report.run_audit(Config(data=DataConfig(reader="folder", root=str(tmp_path / "gone"))), tmp_path / "out")
    (tmp_path / "labels.csv").write_text("image,label,classes\na.png,1,dent\n")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64), np.uint8))
    sound = DataConfig(reader="folder", root=str(tmp_path))
    for data, error in (
        (dataclasses.replace(sound, only_class="scratch"), "none such; its classes are dent"),
        (dataclasses.replace(sound, masks="soft"), "config.data.masks = 'soft'"),
    ):
        with pytest.raises(InputError, match=error):
            report.run_audit(Config(data=data), tmp_path / "out")
