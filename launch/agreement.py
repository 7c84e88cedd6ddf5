r"""Compares annotators with each other, and a trained run with them.

    python -m launch.agreement --config=configs/folder.py --annotators=anna,ben --workdir=runs/mine --out=agreement

Each annotator is a folder that the config's reader reads: the same images, their own labels and masks. Prints and
writes Cohen's and Fleiss' kappa, the overlap of masks, everybody's precision and recall against the others and against
the consensus, and which images are in dispute.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli

_ANNOTATORS = flags.DEFINE_list("annotators", [], "Two or more folders, one per annotator.")
_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run to compare too; not needed.")
_OUT = flags.DEFINE_string("out", None, "Folder for agreement.json and agreement.md.")


def main(argv: Sequence[str]) -> None:
    """Compares and prints."""
    from jaxdefect.studies import agreement

    del argv
    workdir = None if _WORKDIR.value is None else Path(_WORKDIR.value)
    out = Path(cli.required(_OUT))
    content = agreement.compare(cli.config().data, [Path(root) for root in _ANNOTATORS.value], workdir=workdir, out=out)
    console = cli.console()
    console.print(agreement.table(content))
    console.print(f"All figures: {out / 'agreement.json'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, has_config=True)
