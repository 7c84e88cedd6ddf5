r"""Says what labels cost and buy, from a finished study over numbers of positives or masks.

    python -m launch.budget --study=runs/studies/masks --label_minutes=0.1 --mask_minutes=3 --target=0.98

Writes budget.png (average precision over minutes), budget.md and budget.json beside the study's tables, and names the
cheapest mix of labels and masks that reaches the target, with its uncertainty.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli

_STUDY = flags.DEFINE_string("study", None, "The directory of the study's tables, NAME/ under launch.ablate's workdir.")
_LABEL = flags.DEFINE_float("label_minutes", 0.1, "Work to say whether one image is defective.")
_MASK = flags.DEFINE_float("mask_minutes", 3.0, "Work to draw one image's defects.")
_TARGET = flags.DEFINE_float("target", 0.98, "The average precision wanted, at most 1.")


def main(argv: Sequence[str]) -> None:
    """Weighs and prints."""
    from jaxdefect.studies import budget

    del argv
    study = Path(cli.required(_STUDY))
    price = budget.Price(_LABEL.value, _MASK.value)
    console = cli.console()
    console.print(budget.table(budget.weigh(study, price=price, target=_TARGET.value)))
    console.print(f"Plot and figures: {study / 'budget.png'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
