"""Times the two ways to compute a 15x15 convolution, 64 -> 1024 channels, and its gradients, one after the other.

    python -m benchmarks.large_kernel [--height=88 --width=32 --repetitions=5]

Prints the median seconds of XLA's own convolution and of `large_kernel.convolve_by_rows`, and their ratio.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from absl import app, flags

from jaxdefect.models import large_kernel

_HEIGHT = flags.DEFINE_integer("height", 88, "Height of the map: an eighth of the image's.")
_WIDTH = flags.DEFINE_integer("width", 32, "Width of the map.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Timed calls of each; the two ways alternate.")


def main(argv: Sequence[str]) -> None:
    """Prints a line for the value and one for both gradients."""
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

    for name, make in (("value", value), ("gradients", gradients)):
        ways = {"direct": make(large_kernel.convolve_directly), "rows": make(large_kernel.convolve_by_rows)}
        difference = max(
            float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)))
            for a, b in zip(*(jax.tree.leaves(way()) for way in ways.values()), strict=True)
        )
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(_REPETITIONS.value):
            for way, run in ways.items():
                start = time.perf_counter()
                jax.block_until_ready(run())
                seconds[way].append(time.perf_counter() - start)
        direct, rows = (statistics.median(seconds[way]) for way in ("direct", "rows"))
        print(
            f"{name}: direct {direct:.3f} s, rows {rows:.3f} s, ratio {direct / rows:.2f}, difference {difference:.1e}"
        )


if __name__ == "__main__":
    app.run(main)
