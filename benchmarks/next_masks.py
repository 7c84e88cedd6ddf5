r"""Whether masks drawn in the order of launch.next_masks help more than masks drawn at random.

    python -m benchmarks.next_masks --config=configs/kolektor_steel.py --config.data.root=KolektorSDD \
        --config.split.num_masks=5 --more=5 --workdir=DIR

In every fold, networks of several seeds learn from the first masks and rank the positives without one. Then new
networks learn with `--more` further masks: the first of that order, the last of it, some drawn at random; and with all
there are. Resumes where it was stopped.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from launch import cli

if TYPE_CHECKING:  # decoding processes import this file, and need no JAX
    from jaxdefect.config import Config

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs and of next_masks.json.")
_MORE = flags.DEFINE_integer("more", 5, "Masks to add.", lower_bound=1)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Seeds of the trainings.")
_FOLDS = flags.DEFINE_list("folds", None, "Folds to test; all if not given.")
_DRAWS = flags.DEFINE_integer("draws", 3, "Random choices of masks.", lower_bound=1)

# of a fold the average precisions of each order, a value a seed
Figures = dict[str, list[float]]


def main(argv: Sequence[str]) -> int:
    """Trains what is missing and prints the mean AP of each order; the exit code."""
    from jaxdefect.studies import folds, tables

    del argv
    config, workdir = cli.config(), Path(cli.required(_WORKDIR))
    seeds = folds.check_seeds(cli.integers(_SEEDS) or ())
    by_fold: dict[str, Figures] = {}
    for fold in folds.check_folds(config.split, cli.integers(_FOLDS)):
        figures = _of_fold(config, fold, seeds, workdir / f"fold_{fold}")
        if figures is None:
            return 1
        by_fold[str(fold)] = figures
    (workdir / "next_masks.json").write_text(json.dumps(by_fold, indent=1) + "\n")
    rows = [
        (name, *(tables.mean_and_std(*_mean_and_std(of_fold[name]), "percent") for of_fold in by_fold.values()))
        for name in next(iter(by_fold.values()))
    ]
    header = ("masks", *(f"fold {fold}" for fold in by_fold))
    caption = f"AP in %, mean and standard deviation of {len(seeds)} seeds"
    cli.console().print(tables.terminal(header, rows, title="Which masks to draw next", caption=caption))
    return 0


def _mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _of_fold(config: "Config", fold: int, seeds: Sequence[int], directory: Path) -> Figures | None:
    """None: it was interrupted, or a run failed."""
    from jaxdefect.config import SplitConfig
    from jaxdefect.data import splits
    from jaxdefect.studies import folds, next_masks

    name = f"{config.split.num_masks} masks"
    first = {seed: folds.run_config(config, fold=fold, seed=seed) for seed in seeds}
    figures: Figures = {}
    if (of_first := _train(first, directory / "first")) is None:
        return None
    figures[name] = of_first
    runs = [directory / "first" / f"seed_{seed}" for seed in seeds]
    ranked = [one.id for one in next_masks.rank_runs(runs, num_masks=_MORE.value, out=directory / "ranked")]
    split = splits.load(runs[0] / "split.json")
    random = np.random.default_rng(fold)
    chosen: Mapping[str, Sequence[str]] = {
        f"the first {_MORE.value} more": ranked[: _MORE.value],
        f"the last {_MORE.value} more": ranked[-_MORE.value :],
        **{
            f"{_MORE.value} more at random, {draw}": random.choice(sorted(ranked), _MORE.value, replace=False).tolist()
            for draw in range(_DRAWS.value)
        },
        "all": ranked,
    }
    for number, (order, added) in enumerate(chosen.items()):
        path = directory / f"split_{number}.json"
        splits.save(dataclasses.replace(split, masked=(*split.masked, *added)), path)
        own_split = SplitConfig(kind="manifest", path=str(path))
        own = {seed: dataclasses.replace(of_seed, split=own_split) for seed, of_seed in first.items()}
        if (of_order := _train(own, directory / f"order_{number}")) is None:
            return None
        figures[order] = of_order
    return figures


def _train(configs: Mapping[int, "Config"], directory: Path) -> list[float] | None:
    """The average precision of each seed's run; None: it was interrupted, or a run failed."""
    from jaxdefect.metrics.image import image_metrics
    from jaxdefect.studies import running

    outcome = running.execute({directory / f"seed_{seed}": config for seed, config in configs.items()})
    if outcome.code or outcome.errors:
        return None
    results = [outcome.results[directory / f"seed_{seed}"] for seed in configs]  # a finished run comes before others
    return [image_metrics(one.labels, one.scores, threshold=one.threshold)["average_precision"] for one in results]


if __name__ == "__main__":
    cli.run(main, has_config=True)
