"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"types", "structure", "config", "config_checks", "config_conflicts", "model_config"}
ALLOWED = {
    "types": set(),
    "structure": {"types"},
    "user_files": {"types"},
    "processor": set(),
    "model_config": {"types"},
    "config_checks": {"types"},
    "config_conflicts": {"types", "model_config", "config"},  # config: only its types
    "config": {"structure", "config_checks", "config_conflicts", "model_config"},
    "overlay": BASE,
    "losses": BASE,
    "schedules": BASE,
    "metrics": BASE,
    "data": BASE,
    "models": {*BASE, "processor"},
    "training": {*BASE, "data", "models", "losses", "schedules", "metrics", "overlay"},
    "inference": {*BASE, "data", "models", "metrics", "overlay", "training"},
    "system": {*BASE, "data", "models", "training", "inference"},
    "interop": {*BASE, "data", "models", "training", "inference"},
    "reports": {*BASE, "data", "metrics", "overlay", "training", "inference"},
    "benchmark": {*BASE, "data", "models", "training", "reports"},
    "studies": {*BASE, "data", "metrics", "training", "inference", "system", "reports", "user_files"},
}
FILES = sorted((ROOT / "jaxdefect").rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "jaxdefect").with_suffix("").parts
    room = parts[0]
    if room == "__init__":
        return
    names = imported_modules(path)
    rooms = {name.split(".")[1] for name in names if name.startswith("jaxdefect.")}
    assert rooms - {room} <= ALLOWED[room]
    assert not any(name.split(".")[0] == "launch" for name in names)
    assert not any(
        name.split(".")[0] in ("torch", "tensorflow", "albumentations", "clu", "chex") for name in names - {"torch"}
    )


def test_data_knows_no_jax_and_orbax_is_in_one_file() -> None:
    for path in FILES:
        packages = {name.split(".")[0] for name in imported_modules(path)}
        if "data" in path.relative_to(ROOT / "jaxdefect").parts:
            assert not packages & {"jax", "flax", "optax", "orbax"}, path
        assert "orbax" not in packages or path.name == "checkpoint.py", path


def test_configs_import_nothing_of_the_library() -> None:
    for path in (ROOT / "configs").rglob("*.py"):
        assert not any(name.startswith(("jaxdefect", "launch")) for name in imported_modules(path)), path


def test_a_trainings_start_imports_no_slow_library(tmp_path: Path) -> None:
    """PyTorch, which tensorboardX imports where it finds it, takes 2 s and 570 MB; scikit-learn and its like 0.8 s."""
    (tmp_path / "torch.py").write_text("")
    code = (
        "import pathlib, sys, jaxdefect.system\n"
        "from jaxdefect.training.logging import MetricWriter\n"
        "MetricWriter(pathlib.Path('run'), step=0).close()\n"
        "print(sorted({'torch', 'sklearn', 'scipy.stats'} & sys.modules.keys()))"
    )
    (tmp_path / "run").mkdir()
    # The folder of a command's code is the first that Python searches: the torch.py above.
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
