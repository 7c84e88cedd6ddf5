"""Two virtual CPU devices and cheap compilation for the whole suite; where the reference material lies."""

import atexit
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling dominates tests on small images
# Every program in one piece and, up to JAX 0.11.0, XLA's older way to write loops: a training step compiles in less
# than half the time. XLA ends a process that asks for a flag which it does not know.
_HAS_OLDER_LOOPS = tuple(int(part) for part in version("jaxlib").split(".")[:3]) < (0, 11, 1)
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false" if _HAS_OLDER_LOOPS else "",
    )
)

# Trace and compile once a run: the workers of pytest-xdist and what the tests start have this environment. Only a cache
# with a limit is locked, so that none reads what another has written in part.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxdefect_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAXDEFECT_TRACED_DIR", str(Path(os.environ["JAX_COMPILATION_CACHE_DIR"], "traced")))
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**32)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

# Tracing makes very many objects, and JAX keeps what it traced: looking through all of that each time takes a tenth.
gc.set_threshold(50_000, 20, 100)

SHARED = Path(os.environ.get("JAXDEFECT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files and real data sets; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED} (set JAXDEFECT_SHARED)")
    return SHARED


@pytest.fixture
def optimized() -> Iterator[dict[str, bool]]:
    """Options for `jax.jit`: what is compiled with them is optimised as for a user, and not as little as else here."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield {"xla_cpu_use_fusion_emitters": True} if _HAS_OLDER_LOOPS else {}
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def untrained_run() -> Callable[..., None]:
    """Writes the directory of a run of a config with initial weights in its checkpoint, and no data set."""
    from jaxdefect import config as config_lib
    from jaxdefect import models
    from jaxdefect.data import splits
    from jaxdefect.training import checkpoint, state
    from jaxdefect.types import Split

    def write(workdir: Path, config: config_lib.Config) -> None:
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
        splits.save(Split(("a", "b"), (), ("c",), ("a",)), workdir / "split.json")
        (stage, *_) = state.stages(config, steps_per_epoch=1)
        checkpoints = checkpoint.open_checkpoints(workdir)
        checkpoints.save(1, state.initial_state(models.build(config.model), config, stage), metrics=None)
        checkpoints.close()

    return write
