r"""Ranks the defective images that have no mask yet by how much drawing one should help.

    python -m launch.next_masks --workdirs=runs/seed_0,runs/seed_1 --num_masks=5 --out=next

The runs are trainings on one split with different --config.training.seed. next_masks.csv holds the order; split.json is
the runs' split with masks for the first ones, to train on as soon as they are drawn.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli

_WORKDIRS = flags.DEFINE_list("workdirs", [], "Trained runs of one split, of different seeds.")
_NUM_MASKS = flags.DEFINE_integer("num_masks", 5, "How many get a mask in split.json.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Folder for next_masks.csv and split.json.")


def main(argv: Sequence[str]) -> None:
    """Ranks and prints."""
    from jaxdefect.studies import next_masks

    del argv
    out = Path(cli.required(_OUT))
    workdirs = [Path(workdir) for workdir in _WORKDIRS.value]
    console = cli.console()
    console.print(next_masks.table(next_masks.rank_runs(workdirs, num_masks=_NUM_MASKS.value, out=out)))
    console.print(f"Order and split: {out / 'next_masks.csv'}, {out / 'split.json'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
