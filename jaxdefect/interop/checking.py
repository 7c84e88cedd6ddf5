"""Whether an exported network computes what the original does: both on the same images, on the CPU."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

from jaxdefect.data import pipeline
from jaxdefect.interop.runtimes import Network, Run
from jaxdefect.types import InputError

TOLERANCE = 1e-4
_LOGITS = ("decision", "classes")

_Pair = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]


class Check(NamedTuple):
    """How far an exported network is from the original over some images, and how fast both are.

    `probability`: the largest absolute difference of what lies in [0, 1]: pixels of the maps, and the scores or class
    probabilities that the logits stand for. `logit`: of the logits z, max |z' - z| / max(1, |z|).
    `original_ms`, `exported_ms`: the median time of an image, computed in batches of one (or of the fixed size).
    """

    num_images: int
    probability: float
    logit: float
    original_ms: float
    exported_ms: float

    @property
    def is_passed(self) -> bool:
        """Both differences are at most 1e-4; NaN is not."""
        return self.probability <= TOLERANCE and self.logit <= TOLERANCE


def check(network: Network, run: Run, images: np.ndarray, *, batch: int | None) -> Check:
    """Runs both on the images.

    Args:
      network: the original.
      run: the exported one in its runtime.
      images: [N, H, W, C] float32 in [0, 1].
      batch: the number of images that the graph takes; None: any, then one by one, and two at once as well.

    Raises:
      InputError: JAX was told to leave the CPU alone.
    """
    original = jax.jit(network.function)
    size = batch or 1
    chunks = [pipeline.pad(images[start : start + size], size) for start in range(0, len(images), size)]
    with jax.default_device(cpu()):
        variables = jax.device_put(network.variables)  # not constants: XLA takes seconds to compile those
        timed = _compare(lambda chunk: jax.device_get(original(variables, chunk)), run, chunks)
        pairs = [pair for pair, _ in timed]
        if batch is None and len(pairs) > 1:
            both = {name: np.concatenate([pair[0][name] for pair in pairs[:2]]) for name in pairs[0][0]}
            pairs.append((both, run(images[:2])))
    probability, logit = np.max([_difference(*pair) for pair in pairs], axis=0)
    original_ms, exported_ms = np.median([times for _, times in timed], axis=0) / size
    return Check(len(images), float(probability), float(logit), float(original_ms), float(exported_ms))


def cpu() -> Any:
    """The CPU device of JAX.

    Raises:
      InputError: JAX was told to leave it alone.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise InputError("the comparison runs on the CPU, which JAX_PLATFORMS leaves out; add it: cuda,cpu") from error


def _compare(original: Run, exported: Run, chunks: list[np.ndarray]) -> list[tuple[_Pair, tuple[float, float]]]:
    """What both make of each chunk, in turn, and the milliseconds that each took, compilation apart."""
    for run in (original, exported):
        run(chunks[0])
    results = []
    for chunk in chunks:
        outputs, times = [], [time.perf_counter()]
        for run in (original, exported):
            outputs.append(run(chunk))
            times.append(time.perf_counter())
        results.append((tuple(outputs), tuple(1000 * np.diff(times))))
    return results


def _difference(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Of probabilities and of logits; infinite where an output is missing, misshapen or not a number."""
    probability = logit = 0.0
    for name, original in wanted.items():
        ours, theirs = (np.asarray(value, np.float64) for value in (original, found.get(name, np.nan)))
        if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            return np.inf, np.inf
        if name in _LOGITS:
            logit = max(logit, float(np.max(np.abs(theirs - ours) / np.maximum(1, np.abs(ours)))))
            to_probability = special.expit if name == "decision" else lambda z: special.softmax(z, axis=-1)
            ours, theirs = to_probability(ours), to_probability(theirs)
        probability = max(probability, float(np.max(np.abs(theirs - ours))))
    return probability, logit
