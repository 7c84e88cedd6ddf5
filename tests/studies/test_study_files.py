"""Every study that comes with the project names settings that exist, of the config that its docstring names."""

import re
from pathlib import Path

import pytest

from jaxdefect import config as config_lib
from jaxdefect.studies import ablation, design
from launch import cli

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.py"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_cell_resolves_against_its_base_config(path: Path) -> None:
    command = re.search(r"--config=(\S+)[\s\\]+--study=(\S+)", path.read_text())
    assert command
    source, named = command.groups()
    assert named == f"configs/studies/{path.name}"
    config = config_lib.from_dict(cli.read_config(str(ROOT / source)).to_dict())
    cells = ablation.cells(design.load(path), config)
    hashes = {ablation.config_hash(own) for of_setting in cells.values() for own in of_setting.values()}
    assert len(hashes) == sum(map(len, cells.values()))  # no two of a study's settings are the same run
