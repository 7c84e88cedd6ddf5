"""The audit's page and audit.json: complete, safe to open, and of no other file."""

import json
import re
from pathlib import Path

import browser
import cv2
import numpy as np

from jaxdefect.data.audit import audit
from jaxdefect.data.inspection import inspect
from jaxdefect.reports import audit as report
from jaxdefect.types import Sample, Split


def test_page_and_json_show_every_kind_of_finding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)
    samples = []
    for name in ("<b>one", "two"):
        path = tmp_path / f"{name[-3:]}.png"
        cv2.imwrite(str(path), pixels)
        samples.append(Sample(name, path, None, 0, name))
    samples += [Sample(f"lost{i}", tmp_path / f"lost{i}.png", None, 1, f"lost{i}", ("dent",)) for i in range(9)]
    split = Split(("<b>one",), (), ("two", "lost0"), ())
    result = audit(inspect(samples), {"here": split})
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
    report.write_report(audit([], {}), tmp_path, split=None, num_channels=3)
    assert "0 errors, 0 warnings" in (tmp_path / "audit.html").read_text()
