"""Cross-validates: python -m launch.crossvalidate --config=configs/kolektor_steel.py --workdir=runs/steel_folds.

Every (fold, seed) is a run in a directory of its own, `fold_0/seed_0/`. The same command resumes and skips what is
finished. Settings are overridden as in launch.train; the fold and the training's seed are set by --folds and --seeds.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the whole: all runs, and what they say together.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the trainings, as 0,1,2.")
_FOLDS = flags.DEFINE_list("folds", None, "Folds to test, as 0,1,2; all if not given.")
_STACK = flags.DEFINE_integer("stack", 1, "Runs to train at once as one program, where they are alike; 1: in turn.")


def main(argv: Sequence[str]) -> int:
    """Cross-validates and prints the figures; the exit code is 0, or 128 + the signal's number when interrupted."""
    from jaxdefect.studies import crossvalidation  # not above: decoding processes import this file, and need no JAX

    del argv
    config = cli.config()
    workdir = Path(cli.required(_WORKDIR))
    content = crossvalidation.crossvalidate(
        config,
        workdir,
        seeds=cli.integers(_SEEDS) or (),
        wanted_folds=cli.integers(_FOLDS),
        stack=_STACK.value,
    )
    if isinstance(content, int):
        return content
    console = cli.console()
    console.print(crossvalidation.table(content))
    console.print(f"All figures: {workdir / 'crossvalidation.json'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    cli.run(main, has_config=True)
