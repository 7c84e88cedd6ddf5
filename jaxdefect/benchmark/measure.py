"""Timing of compiled programs, what XLA says of their cost, and what the device can do at best."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdefect.benchmark import programs
from jaxdefect.model_config import Dtype
from jaxdefect.models import precision

_COPY_BYTES = 2**28  # beyond every cache
WARM_S = 0.3  # until an accelerator's clock is up
_IN_FLIGHT = 20  # of short calls


@dataclasses.dataclass(frozen=True)
class Times:
    """Of repeated calls, in seconds: half of them, 99 of 100, all of them lay at or below; `fastest` is the least.

    Of fewer than a hundred calls `p99` lies between the two slowest.
    """

    median: float
    p99: float
    slowest: float
    fastest: float
    mean: float
    repetitions: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """From the seconds of every call."""
        p50, p99 = np.percentile(seconds, [50, 99])
        return cls(float(p50), float(p99), max(seconds), min(seconds), float(np.mean(seconds)), len(seconds))


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one call of a compiled program, as XLA counts: operations of all devices, bytes read and written by them, and
    of one device the memory for arguments, results and what lies between. None where the backend does not say.
    """

    flops: float | None
    bytes_accessed: float | None
    argument_bytes: int | None
    output_bytes: int | None
    temporary_bytes: int | None

    def repeated(self, count: int) -> "Cost":
        """That of a program of which XLA counted one of `count` turns of a loop, or one of as many devices."""
        flops, num_bytes = (None if x is None else count * x for x in (self.flops, self.bytes_accessed))
        return dataclasses.replace(self, flops=flops, bytes_accessed=num_bytes)


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """The best of the devices in this run: a large matrix product in `dtype`, and a copy of memory."""

    dtype: str
    flops_per_second: float
    bytes_per_second: float


def time_calls(call: Callable[[], Any], *, repetitions: int, warmup: int = 1, is_short: bool = False) -> Times:
    """Calls, waiting for every result, `warmup` times and then `repetitions` times; an accelerator, whose clock falls
    while it waits, for `WARM_S` at least before it is timed.

    Args:
      call: returns arrays.
      repetitions: timed ones.
      warmup: others, before, which are not timed; 0: the caller has seen to it.
      is_short: a repetition is the mean of many calls on an accelerator, of which only the last is waited for; starting
        one and waiting takes about as long as a layer.
    """
    in_flight = _IN_FLIGHT if is_short and jax.default_backend() != "cpu" else 1
    start, is_on_cpu = time.perf_counter(), jax.default_backend() == "cpu"
    for _ in range(warmup):
        jax.block_until_ready(call())
    while warmup and not is_on_cpu and time.perf_counter() - start < WARM_S:
        jax.block_until_ready(call())
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        for _ in range(in_flight - 1):
            call()
        jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / in_flight)
    return Times.of(seconds)


def compile_program(
    function: Any, *arguments: Any, num_devices: int = 1, counted: Callable[[], Any] | None = None
) -> tuple[Callable[..., Any], float, Cost]:
    """Compiles a jitted function for arguments: the program, the seconds that took, and its cost.

    The operations are those of the formulas that accelerators get: the ways of a CPU take fewer for convolutions, and
    XLA counts what is in their loops once only, and on a GPU nothing of what cuDNN computes.

    Args:
      function: jitted.
      *arguments: its arguments, or their shapes.
      num_devices: that share them.
      counted: traces the function whose operations are meant, which is none of those seconds; None: this one's.
    """
    start = time.perf_counter()
    traced = function.trace(*arguments)
    compiled = traced.lower().compile()
    seconds, cost = time.perf_counter() - start, cost_of(compiled).repeated(num_devices)
    whole = (counted() if counted else traced).lower(lowering_platforms=("cuda",))  # before devices part it
    return compiled, seconds, dataclasses.replace(cost, flops=_operations(whole))


def _operations(lowered: Any) -> float | None:
    """Of a program that is not compiled, as XLA counts; None where JAX_PLATFORMS leaves out the CPU, which counts."""
    try:
        client = jax.local_devices(backend="cpu")[0].client
    except RuntimeError:
        return None
    # What `Lowered.cost_analysis` does, but for GPUs, which it refuses; not public, so nothing else depends on it.
    from jaxlib._jax import hlo_module_cost_analysis

    return hlo_module_cost_analysis(client, lowered.compiler_ir("hlo").as_hlo_module()).get("flops")


def cost_of(compiled: Any) -> Cost:
    """The cost of a compiled program. Of a GPU's XLA does not know what cuDNN reads and writes: its bytes are those of
    all that it starts.
    """
    counted: Any = compiled.cost_analysis() or {}
    counted = dict(counted[0] if isinstance(counted, list) else counted)
    if jax.default_backend() == "gpu":
        launches = programs.kernel_launches(compiled.as_text())
        counted["bytes accessed"] = float(sum(count for _, count in launches)) or None
    memory = compiled.memory_analysis()
    sizes = {name: getattr(memory, f"{name}_size_in_bytes", None) for name in ("argument", "output", "temp")}
    return Cost(
        flops=counted.get("flops"),
        bytes_accessed=counted.get("bytes accessed"),
        argument_bytes=sizes["argument"],
        output_bytes=sizes["output"],
        temporary_bytes=sizes["temp"],
    )


def ceilings(dtype: Dtype, *, num_devices: int = 1) -> Ceilings:
    """Measures a device: a product of square matrices as exact as `dtype`, and reading and writing an array, the best
    of five each; several accelerators do as much each, a CPU's devices share its cores.
    """
    side = 2048 if jax.default_backend() == "cpu" else 8192
    of_arrays = precision.array_dtype(dtype)
    left, right = (jax.random.normal(jax.random.key(seed), (side, side), of_arrays) for seed in (0, 1))

    @jax.jit
    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        with precision.products(dtype):
            return jnp.matmul(left, right)

    def fastest(call: Callable[[], jax.Array]) -> float:
        return time_calls(call, repetitions=5, is_short=True).fastest

    # In place: for a new array the kernel would clear pages, which takes two times as long as the copy.
    copy = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    arrays = [jnp.zeros(_COPY_BYTES // 4, jnp.float32)]

    def copied() -> jax.Array:
        arrays.append(copy(arrays.pop()))
        return arrays[0]

    count = 1 if jax.default_backend() == "cpu" else num_devices
    return Ceilings(
        dtype=dtype,
        flops_per_second=count * 2 * side**3 / fastest(lambda: product(left, right)),
        bytes_per_second=count * 2 * _COPY_BYTES / fastest(copied),
    )


def share_of_limit(cost: Cost, times: Times, limits: Ceilings) -> dict[str, Any]:
    """How near a program comes to the limit that binds it: operations at the speed of the matrix product, or bytes at
    that of the copy, whichever takes longer. XLA's bytes count what caches hold too, and a CPU's convolutions take
    fewer operations than the formulas: what would take longer than the program did is no limit. "binding_limit" is None
    where neither is one.
    """
    if cost.flops is None or cost.bytes_accessed is None:
        return {}
    seconds = {
        "matrix product": cost.flops / limits.flops_per_second,
        "copy": cost.bytes_accessed / limits.bytes_per_second,
    }
    limits_kept = {name: value for name, value in seconds.items() if value <= times.median}
    return {
        "flops_per_second": cost.flops / times.median,
        "share_of_matrix_product": seconds["matrix product"] / times.median,
        "share_of_copy": seconds["copy"] / times.median,
        "binding_limit": max(limits_kept, key=limits_kept.__getitem__, default=None),
    }


def peak_memory() -> Mapping[str, int | None]:
    """The most bytes that were in use: of the first device since the process started, as it never forgets (None where
    it does not count), and of this process since `forget_peak`.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device_since_start": stats.get("peak_bytes_in_use"), "host": resident_bytes("VmHWM")}


def resident_bytes(field: str) -> int:
    """Resident memory of this process as Linux counts it: "VmRSS" now, "VmHWM" at most since `forget_peak`.

    Not getrusage's: a child process starts with its parent's peak.
    """
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Sets this process's "VmHWM" to what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
