"""What the README shows of the Python interface works as written."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from jaxdefect import config as config_lib

README = Path(__file__).resolve().parents[1] / "README.md"


def test_five_lines_load_a_run_and_predict(tmp_path, untrained_run, monkeypatch, capsys):
    section = README.read_text().split("## From Python", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    lines = [line for line in code[1].splitlines() if line]
    assert len(lines) == 5
    untrained_run(
        tmp_path / "runs" / "mine",
        config_lib.from_dict({"data": {"image_size": (64, 64)}, "model": {"kernels": "atrous"}}),
    )
    cv2.imwrite(str(tmp_path / "part.png"), np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    exec(code[1], {})
    score, verdict, shape = capsys.readouterr().out.split(maxsplit=2)
    assert verdict == ("reject" if float(score) >= 0.5 else "accept")
    assert shape == "(90, 70)\n"


def test_importing_the_package_imports_no_jax():
    code = "import sys, jaxdefect; assert 'jax' not in sys.modules; print(jaxdefect.Predictor.__name__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout == "Predictor\n", done.stderr
