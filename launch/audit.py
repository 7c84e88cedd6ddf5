"""Audits a data set and its split: `python -m launch.audit --config=FILE [--config.KEY=VALUE] --out=DIR`.

Looks for duplicates and near duplicates, for pictures and items in several parts of the split (of folds, in each), for
labels and masks that contradict, and for odd masks and images. Prints the findings; audit.html shows them, audit.json
lists all. `--workdir=RUN` instead of `--out` writes into RUN/audit; of a trained run it takes the split, and without
`--config` the config too.

Exit code: 0, also where there are warnings alone; 1 with an error (a leak, duplicates with different labels or masks,
images or masks that cannot be used, a split that cannot be made or trained on, a data set that cannot be read); 2 after
a usage error.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxdefect.config import Config
from jaxdefect.reports.audit import findings_table, run_audit
from jaxdefect.training import runs
from jaxdefect.types import InputError, Split
from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run, trained or not: writes into its folder audit.")
_OUT = flags.DEFINE_string("out", None, "Folder for audit.html and audit.json.")


def main(argv: Sequence[str]) -> int:
    """Audits, prints the findings and where the report is; 1 if one is an error."""
    del argv
    if bool(_WORKDIR.value) == bool(_OUT.value):
        raise InputError("give --out=DIR, or --workdir=RUN for RUN/audit: one of them")
    config, split = _config_and_split()
    directory = Path(_OUT.value) if _OUT.value else Path(cli.required(_WORKDIR)) / "audit"
    result = run_audit(config, directory, split=split)
    console = cli.console()
    console.print(findings_table(result))
    console.print(f"Report: {directory / 'audit.html'}", soft_wrap=True)
    return 1 if result.num_errors else 0


def _config_and_split() -> tuple[Config, Split | None]:
    """What the flags name; None where no run has a split yet."""
    has_config, workdir = "config" in flags.FLAGS, _WORKDIR.value
    if not has_config and not workdir:
        raise InputError("--config=FILE or --workdir=RUN is missing; e.g. --config=configs/quickstart.py")
    if workdir and (not has_config or (Path(workdir) / "split.json").exists()):
        run = runs.load(workdir)
        return cli.config() if has_config else run.config, run.split
    return cli.config(), None


if __name__ == "__main__":
    cli.run(main, has_config=any(argument.lstrip("-").startswith(("config", "help")) for argument in sys.argv[1:]))
