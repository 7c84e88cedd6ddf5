"""Cross-validation: every fold tested by a network that has not seen it, over several seeds."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.reports import files
from jaxdefect.studies import folds, out_of_fold, running, tables
from jaxdefect.studies.results import Result
from jaxdefect.training import runs
from jaxdefect.types import InputError

# Title of a row, name of its figure, in percent or as a count.
_ROWS: tuple[tuple[str, str, tables.Unit], ...] = (
    ("AP, joined", "average_precision", "percent"),
    ("AP, mean of folds", "mean_fold_average_precision", "percent"),
    ("ROC AUC", "roc_auc", "percent"),
    ("F1", "f1", "percent"),
    ("FP", "false_positives", "count"),
    ("FN", "false_negatives", "count"),
    ("FP at full recall", "false_positives_at_full_recall", "count"),
    ("oracle F1", "oracle_f1", "percent"),
    ("oracle FP", "oracle_false_positives", "count"),
    ("oracle FN", "oracle_false_negatives", "count"),
)
_NOTE = (
    "AP, joined: of the out-of-fold scores of all images together. F1, FP (false alarms), FN (missed defects): every "
    "fold decided by the threshold that is best on the other folds' out-of-fold scores, or, where those have no "
    "defective image, by the run's own. oracle: by the threshold that is best on the very images judged; a bound, not "
    "a result. ±: standard deviation over seeds."
)


def run_directory(workdir: Path, *, fold: int, seed: int) -> Path:
    """Where the run of one fold and seed lies."""
    return workdir / f"fold_{fold}" / f"seed_{seed}"


def crossvalidate(
    config: Config,
    workdir: Path,
    *,
    seeds: Sequence[int] = (0,),
    wanted_folds: Sequence[int] | None = None,
    stack: int = 1,
) -> dict[str, Any] | int:
    """Trains, or resumes, the runs of all folds and seeds, and writes what they say together.

    Into `workdir`: crossvalidation.json, scores.csv (the out-of-fold score of every image by seed) and table.md.

    Args:
      config: of every run, but for its fold and seed.
      workdir: of the whole.
      seeds: of the trainings.
      wanted_folds: None: all.
      stack: how many runs to train at once.

    Returns:
      The content of crossvalidation.json; or 128 + the signal's number when interrupted (the same call resumes).

    Raises:
      InputError: a split without folds, unknown folds, or a run that failed.
    """
    numbers, seeds = folds.check_folds(config.split, wanted_folds), folds.check_seeds(seeds)
    places = {(fold, seed): run_directory(workdir, fold=fold, seed=seed) for seed in seeds for fold in numbers}
    configs = {directory: folds.run_config(config, fold=fold, seed=seed) for (fold, seed), directory in places.items()}
    outcome = running.execute(configs, stack=stack)
    if outcome.code:
        return outcome.code
    if outcome.errors:
        raise InputError(
            f"{len(outcome.errors)} of {len(configs)} runs failed; {running.ERROR_LOG} in the run's directory has all; "
            "the same command tries them again:\n  "
            + "\n  ".join(f"{directory}: {error}" for directory, error in outcome.errors.items())
        )
    by_seed = {seed: {fold: outcome.results[places[fold, seed]] for fold in numbers} for seed in seeds}
    content = summarise(by_seed) | {"config": config_lib.to_dict(config), "versions": runs.versions()}
    files.write(workdir / "scores.csv", scores_csv(by_seed))
    files.write(workdir / "table.md", markdown(content))
    files.write(workdir / "crossvalidation.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def summarise(by_seed: Mapping[int, Mapping[int, Result]]) -> dict[str, Any]:
    """The figures of results by seed and fold, ready for JSON: over the seeds, and of every seed and fold."""
    of_seeds = {seed: out_of_fold.figures(results) for seed, results in by_seed.items()}
    numbers = list(next(iter(by_seed.values())))
    of_folds = {
        fold: out_of_fold.summary(
            {seed: {"all": one["folds"][fold], "folds": {fold: one["folds"][fold]}} for seed, one in of_seeds.items()}
        )
        for fold in numbers
    }
    return {
        "seeds": list(by_seed),
        "folds": numbers,
        "summary": {name: dataclasses.asdict(value) for name, value in out_of_fold.summary(of_seeds).items()},
        "summary_by_fold": {
            str(fold): {name: dataclasses.asdict(value) for name, value in one.items()}
            for fold, one in of_folds.items()
        },
        "by_seed": {
            str(seed): {"all": one["all"], "folds": {str(fold): figures for fold, figures in one["folds"].items()}}
            for seed, one in of_seeds.items()
        },
        "note": _NOTE,
    }


def scores_csv(by_seed: Mapping[int, Mapping[int, Result]]) -> str:
    """id,fold,seed,label,score of every test image of every run; scores with all their digits."""
    rows = [
        (id, fold, seed, int(label), repr(float(score)))
        for seed, results in by_seed.items()
        for fold, result in results.items()
        for id, label, score in zip(result.ids, result.labels, result.scores, strict=True)
    ]
    return files.to_csv(("id", "fold", "seed", "label", "score"), rows)


def _cells(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a column for all images, and one for each fold."""
    parts = [content["summary"], *content["summary_by_fold"].values()]
    header = ["", "all", *(f"fold {fold}" for fold in content["folds"])]
    rows = [
        [title, *(tables.mean_and_std(part[name]["mean"], part[name]["std"], unit) for part in parts)]
        for title, name, unit in _ROWS
    ]
    return header, rows


def markdown(content: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    sizes = f"{len(content['folds'])} folds, seeds {', '.join(map(str, content['seeds']))}"
    return f"{tables.markdown(*_cells(content))}\n{sizes}. {content['note']}\n"


def table(content: Mapping[str, Any]) -> Table:
    """The figures as a table for the terminal."""
    whole = next(iter(content["by_seed"].values()))["all"]
    title = f"{whole['num_images']} images, {whole['num_defective']} defective; seeds {content['seeds']}"
    return tables.terminal(*_cells(content), title=title, caption=content["note"])
