"""Times the small convolutions that training spends its time in and both their gradients, XLA's and ours, in turns.

    python -m benchmarks.small_kernel [--repetitions=7 --out=FILE.json]

The layers of the steel detector (3x3) and of SegDecNet (5x5) at 704x256, transposed as in training, and the widest one
of the regression. The gradients' times include the convolution, as in training.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags

from benchmarks import turns
from jaxdefect.benchmark import environment, results
from jaxdefect.models.small_kernel import convolve_small
from jaxdefect.models.xla import convolve_directly

_REPETITIONS = flags.DEFINE_integer("repetitions", 7, "Timed calls of each; both alternate.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")

# [B, H, W, I], features, kernel, dilation
_LAYERS = (
    ((1, 256, 704, 32), 32, 3, 2),
    ((1, 128, 352, 32), 64, 3, 2),
    ((1, 128, 352, 64), 64, 3, 2),
    ((1, 64, 176, 64), 64, 3, 2),
    ((1, 32, 88, 64), 1024, 3, 7),
    ((1, 256, 704, 32), 32, 5, 1),
    ((1, 128, 352, 64), 64, 5, 1),
    ((1, 64, 176, 64), 64, 5, 1),
    ((4, 64, 64, 64), 512, 3, 1),
)


def main(argv: Sequence[str]) -> None:
    """Prints two lines for each layer."""
    del argv
    rows = []
    for shape, features, side, dilation in _LAYERS:
        keys = jax.random.split(jax.random.key(0), 3)
        image = jax.random.normal(keys[0], shape)
        kernel = jax.random.normal(keys[1], (side, side, shape[-1], features))
        cotangent = jax.random.normal(keys[2], (*shape[:-1], features))

        ways = {
            "XLA": functools.partial(convolve_directly, dilation=dilation),
            "ours": functools.partial(convolve_small, dilation=dilation),
        }
        name = f"{side}x{side}, dilation {dilation}, {list(shape)} -> {features}"
        forward = {way: functools.partial(jax.jit(run), image, kernel) for way, run in ways.items()}
        rows += turns.report(name, forward, repetitions=_REPETITIONS.value)
        both = {way: functools.partial(_with_gradients(run), image, kernel, cotangent) for way, run in ways.items()}
        rows += turns.report(f"{name}, with both gradients", both, repetitions=_REPETITIONS.value)
    if _OUT.value:
        results.save(Path(_OUT.value), {"rows": rows, "environment": environment.describe()})


def _with_gradients(convolve: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    @jax.jit
    def run(image: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        value, pull_back = jax.vjp(convolve, image, kernel)
        return value, *pull_back(cotangent)

    return run


if __name__ == "__main__":
    app.run(main)
