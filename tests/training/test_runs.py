"""Directories of runs, read again."""

import json
from pathlib import Path

import pytest

from jaxdefect.config import Config, from_dict, to_dict
from jaxdefect.data import splits
from jaxdefect.training import runs
from jaxdefect.types import InputError, Split


def test_a_run_of_settings_that_are_refused_today_is_still_read(tmp_path: Path) -> None:
    values = to_dict(Config())
    values["loss"]["decay_feedback"] = 0.1  # without an effect beside this balance
    with pytest.raises(InputError, match="decay_feedback"):
        from_dict(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    splits.save(Split(train=("a",), validation=(), test=(), masked=()), tmp_path / "split.json")
    assert runs.load(tmp_path).config.loss.decay_feedback == 0.1
