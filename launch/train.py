"""Trains a detector: python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart.

Every setting of the config can be overridden: --config.optimizer.learning_rate=0.05. The same command resumes a run.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: everything that it writes, and resumes from.")


def main(argv: Sequence[str]) -> int:
    """Trains; the exit code is 0, or 128 + the signal's number when interrupted."""
    from jaxdefect import system  # not above: decoding processes import this file, and need no JAX

    del argv
    config = cli.config()
    workdir = cli.required(_WORKDIR)
    code = system.train(config, Path(workdir))
    if code == 0:
        print(f"trained; next: python -m launch.evaluate --workdir={workdir}")
    return code


if __name__ == "__main__":
    cli.run(main, has_config=True)
