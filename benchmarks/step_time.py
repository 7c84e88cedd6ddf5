"""Times the compiled training step of a config on random images.

    python -m benchmarks.step_time --config=configs/kolektor_joint.py "--config.data.image_size=(704,256)"

Prints the seconds of the first call (compilation) and the median of the following ones.
"""

import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from jaxdefect import models
from jaxdefect.training import state, step
from launch import cli

_REPETITIONS = flags.DEFINE_integer("repetitions", 8, "Timed steps.")


def main(argv: Sequence[str]) -> None:
    """Prints one line."""
    del argv
    config = cli.config()
    height, width = config.data.image_size
    size = config.training.batch_size
    rng = np.random.default_rng(0)
    label = (np.arange(size) % 2).astype(np.float32)
    batch = {
        "image": rng.random((size, height, width, config.data.num_channels), np.float32),
        "mask": rng.random((size, height // 8, width // 8, 1), np.float32) * label[:, None, None, None],
        "weight": np.ones((size, height // 8, width // 8, 1), np.float32),
        "label": label,
        "has_mask": np.ones(size, np.float32),
    }
    stage = state.stages(config, steps_per_epoch=100)[0]
    module = models.build(config.model)
    current = state.initial_state(module, config, stage)
    compiled = step.make_step(module, config, stage)
    seconds = []
    for _ in range(_REPETITIONS.value + 1):
        start = time.perf_counter()
        current, metrics = compiled(current, batch)
        jax.block_until_ready((current, metrics))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    print(
        f"{height}x{width}, batch {size}, {jax.local_devices()[0].device_kind}: first call {seconds[0]:.1f} s, "
        f"then {median:.3f} s a step ({min(seconds[1:]):.3f} to {max(seconds[1:]):.3f}), {size / median:.2f} images/s"
    )


if __name__ == "__main__":
    cli.run(main, has_config=True)
