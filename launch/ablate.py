"""Compares settings: python -m launch.ablate --config=FILE --study=configs/studies/NAME.py --workdir=runs/studies.

Trains what is missing, one run for each combination, fold and seed, in `runs/HASH/` under the workdir; the same command
resumes, and studies with one workdir share the runs that they have in common. Tables and plots are in `NAME/`.
Exit code: 0, 1 if a run failed (the others are reported), 128 + the signal's number when interrupted.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli

_STUDY = flags.DEFINE_string("study", None, "The study: a file that defines get_study(), as configs/studies/loss.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the runs and of what they say, of this and other studies."
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds of the trainings instead of the study's, as 0,1,2.")
_FOLDS = flags.DEFINE_list("folds", None, "Folds to test instead of the study's, as 0,1,2.")
_STACK = flags.DEFINE_integer("stack", 1, "Runs to train at once as one program, where they are alike; 1: in turn.")


def main(argv: Sequence[str]) -> int:
    """Runs the study and prints its table; the exit code."""
    from jaxdefect.studies import ablation, design  # not above: decoding processes import this file, and need no JAX

    del argv
    config = cli.config()
    study = design.load(Path(cli.required(_STUDY)))
    study = design.replace_runs(study, seeds=cli.integers(_SEEDS), wanted_folds=cli.integers(_FOLDS))
    report = ablation.ablate(study, config, Path(cli.required(_WORKDIR)), stack=_STACK.value)
    if isinstance(report, int):
        return report
    console = cli.console()
    console.print(ablation.table(report))
    console.print(f"Tables and plots: {report.directory}", soft_wrap=True)
    if report.num_failed:
        console.print(f"{report.num_failed} runs failed: see {report.directory / 'table.md'}", soft_wrap=True)
    return 1 if report.num_failed else 0


if __name__ == "__main__":
    cli.run(main, has_config=True)
