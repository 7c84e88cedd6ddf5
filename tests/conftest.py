"""Two virtual CPU devices and cheap compilation for the whole suite; where the reference material lies."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling dominates tests on small images
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jaxdefect_tests_"))  # compile once a run
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import pytest

SHARED = Path(os.environ.get("JAXDEFECT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files and real data sets; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED} (set JAXDEFECT_SHARED)")
    return SHARED
