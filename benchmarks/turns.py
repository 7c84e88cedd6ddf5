"""Several ways to compute the same, timed in turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def report(name: str, ways: Mapping[str, Callable[[], Any]], *, repetitions: int) -> list[dict[str, Any]]:
    """Prints for each way the median seconds, how often they fit into the first's, and the difference from its results.

    Args:
      name: what the ways compute.
      ways: functions that return arrays of the same shapes; their first call, which may compile, is not timed.
      repetitions: of each.

    Returns:
      A row for each way, for a JSON file.
    """
    outputs = {way: jax.tree.leaves(run()) for way, run in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repetitions):
        for way, run in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[way].append(time.perf_counter() - start)
    first = next(iter(ways))
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    rows = []
    for way, values in outputs.items():
        pairs = zip(values, outputs[first], strict=True)
        difference = float(np.max([jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)) for a, b in pairs]))
        ratio = medians[first] / medians[way]
        print(f"{name}, {way}: {1e3 * medians[way]:.1f} ms, ratio {ratio:.2f}, difference {difference:.1e}")
        rows.append({"name": name, "way": way, "seconds": medians[way], "ratio": ratio, "difference": difference})
    return rows
