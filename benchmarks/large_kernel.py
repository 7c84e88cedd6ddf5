"""Times the ways to compute a 15x15 convolution, 64 -> 1024 channels, and its gradients, in turns.

    python -m benchmarks.large_kernel [--height=88 --width=32 --repetitions=5 --out=FILE.json]

Prints the median seconds of XLA's own convolution, of `convolve_by_rows`, of `convolve_by_spectrum` with the kernel's
spectrum computed anew ("spectrum") or at hand ("known spectrum"), and how often each fits into the first.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags

from benchmarks import turns
from jaxdefect.benchmark import environment, results
from jaxdefect.models import large_kernel
from jaxdefect.models.xla import convolve_directly

_HEIGHT = flags.DEFINE_integer("height", 88, "Height of the map: an eighth of the image's.")
_WIDTH = flags.DEFINE_integer("width", 32, "Width of the map.")
_TILE = flags.DEFINE_integer("tile", 24, "Side of the tiles where the spectrum is computed anew.")
_KNOWN_TILE = flags.DEFINE_integer("known_tile", 32, "Side of the tiles where the spectrum is at hand.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Timed calls of each; the ways alternate.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")


def main(argv: Sequence[str]) -> None:
    """Prints a line for each way, of the value and of both gradients."""
    del argv
    keys = jax.random.split(jax.random.key(0), 3)
    image = jax.random.normal(keys[0], (1, _HEIGHT.value, _WIDTH.value, 64))
    kernel = jax.random.normal(keys[1], (15, 15, 64, 1024))
    cotangent = jax.random.normal(keys[2], (1, _HEIGHT.value, _WIDTH.value, 1024))

    def gradients(convolve: Callable[..., jax.Array]) -> Callable[[], tuple[jax.Array, ...]]:
        compiled = jax.jit(lambda image, kernel, cotangent: jax.vjp(convolve, image, kernel)[1](cotangent))
        return lambda: compiled(image, kernel, cotangent)

    def value(convolve: Callable[..., jax.Array]) -> Callable[[], jax.Array]:
        compiled = jax.jit(convolve)
        return lambda: compiled(image, kernel)

    def by_spectrum(image: jax.Array, kernel: jax.Array) -> jax.Array:
        spectrum = large_kernel.spectrum(kernel, tile=_TILE.value)
        return large_kernel.convolve_by_spectrum(image, spectrum, side=15)

    spectrum = large_kernel.spectrum(kernel, tile=_KNOWN_TILE.value)
    known = jax.jit(lambda image, spectrum: large_kernel.convolve_by_spectrum(image, spectrum, side=15))
    direct, rows = convolve_directly, large_kernel.convolve_by_rows
    values = {"direct": value(direct), "rows": value(rows), "spectrum": value(by_spectrum)}
    values["known spectrum"] = lambda: known(image, spectrum)
    figures = turns.report("value", values, repetitions=_REPETITIONS.value)
    ways = {"direct": gradients(direct), "rows": gradients(rows), "spectrum": gradients(by_spectrum)}
    figures += turns.report("gradients", ways, repetitions=_REPETITIONS.value)
    if _OUT.value:
        results.save(Path(_OUT.value), {"rows": figures, "environment": environment.describe()})


if __name__ == "__main__":
    app.run(main)
