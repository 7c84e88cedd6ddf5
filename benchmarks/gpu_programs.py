"""What XLA makes of a case of `benchmarks.peers` for an H100, compiled without one: programs, bytes, memory.

    python -m benchmarks.gpu_programs [--cases=segdec_inference --dtypes=float32,bfloat16 --size=704x256 --batch_size=8]

Wants JAX with CUDA (`pip install 'jax[cuda12]'`), no GPU. Nothing is timed: a line says how many programs a call
starts, how many of them are convolutions of cuDNN, and of these gradients of kernels (one in another form takes the
whole map as its kernel), how many bytes all of them read and write (a slice counts as the whole array), and the memory
that the call needs beyond its arguments. `--nohoisting` leaves inference as one program of weights and images.
"""

import dataclasses
import os
import unittest.mock
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags
from jax.experimental import topologies

from benchmarks import sides
from jaxdefect.benchmark import modes, programs
from jaxdefect.models import hoisting
from launch import cli

_CASES = flags.DEFINE_list("cases", None, "Cases to compile; all by default.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "Of the networks: float32, tf32, bfloat16.")
_SIZE = flags.DEFINE_string("size", None, "Of the images, HEIGHTxWIDTH; the case's own by default.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images per call; the case's own by default.")
_HOISTING = flags.DEFINE_bool("hoisting", True, "Compute what depends on the weights alone ahead.")

# As NVIDIA describes the device.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def compile_case(case: sides.Case, device: Any, *, is_hoisting: bool) -> Any:
    """The program of a case for a device that need not be there."""
    place = jax.sharding.SingleDeviceSharding(device)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    batch = sides.random_batch(case)
    with unittest.mock.patch.object(jax, "default_backend", return_value="gpu"):  # networks ask when traced
        if case.is_training:
            step, first = sides.training(case)
            return step.lower(shapes(first), shapes(batch)).compile()
        function, weights = sides.inference(case), sides.variables(case)
        if is_hoisting:
            function, weights = hoisting.for_inference(function, weights, image_shape=batch["image"].shape[1:])
        return function.lower(shapes(weights), shapes(batch["image"])).compile()


def _line(name: str, program: Any) -> str:
    started = list(programs.kernel_launches(program.as_text()))
    plan = program.memory_analysis()
    return (
        f"{name}: {len(started)} programs, {sum('cudnn' in line for line, _ in started)} of them convolutions"
        f" ({sum('cudnn$convBackwardFilter' in line for line, _ in started)} gradients of kernels),"
        f" {sum(count for _, count in started) / 1e9:.2f} GB read and written;"
        f" arguments {plan.argument_size_in_bytes / 2**20:.0f} MiB, beyond them"
        f" {(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes) / 2**20:.0f} MiB"
    )


def main(argv: Sequence[str]) -> None:
    """Prints a line for each case and dtype."""
    del argv
    for flag, values, known in (("cases", _CASES.value or (), sides.CASES), ("dtypes", _DTYPES.value, modes.DTYPES)):
        if unknown := set(values) - set(known):
            raise app.UsageError(f"--{flag}: {', '.join(sorted(unknown))}: must be among {', '.join(known)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # There is nothing to try convolutions on.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    jax.config.update("jax_platforms", "cpu")  # or JAX looks for a GPU
    (device,) = topologies.get_topology_desc(platform="cuda", target_config=_H100, topology="1x1x1").devices
    size = cli.size(_SIZE.value, flag="size") if _SIZE.value else None
    for name in _CASES.value or sides.CASES:
        for dtype in _DTYPES.value:
            case = sides.CASES[name]
            model = dataclasses.replace(case.model, dtype=dtype)
            case = dataclasses.replace(case, model=model, size=size or case.size, batch=_BATCH_SIZE.value or case.batch)
            print(_line(f"{name} {dtype}", compile_case(case, device, is_hoisting=_HOISTING.value)), flush=True)


if __name__ == "__main__":
    app.run(main)
