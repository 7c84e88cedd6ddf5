"""Runs a study and says what it shows: tables, paired differences, plots.

A run's directory is named by a hash of its resolved config, so two labels, or two studies in one `workdir`, that mean
the same config share the run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxdefect import config as config_lib
from jaxdefect.config import Config
from jaxdefect.data import readers
from jaxdefect.reports import files, plots
from jaxdefect.studies import comparison, design, folds, out_of_fold, running, study_plots, tables
from jaxdefect.studies.design import Setting, Study
from jaxdefect.studies.results import Result
from jaxdefect.training import runs

Place = tuple[int | None, int]  # fold and seed
# Title of a column, name of its figure, unit.
_COLUMNS: tuple[tuple[str, str, tables.Unit], ...] = (
    ("AP", "mean_fold_average_precision", "percent"),
    ("AP joined", "average_precision", "percent"),
    ("AUC", "roc_auc", "percent"),
    ("F1", "f1", "percent"),
    ("FP", "false_positives", "count"),
    ("FN", "false_negatives", "count"),
    ("FP at full recall", "false_positives_at_full_recall", "count"),
    ("oracle FP", "oracle_false_positives", "count"),
    ("oracle FN", "oracle_false_negatives", "count"),
    ("AR", "average_recall", "percent"),
    ("mean IoU", "mean_iou", "percent"),
)
_MAIN_COLUMNS = ("AP", "FP", "FN", "FP at full recall")
_NOTE = (
    "AP: mean of the folds' own; AP joined and the rest: of the out-of-fold scores of all folds together. F1, FP, FN: "
    "decided by the threshold that is best on the other folds, or, where those have no defective image, by the run's "
    "own. oracle: by the threshold that is best on the very images judged; a bound, not a result. ±: standard "
    "deviation over seeds. "
    "Change: of AP against the baseline, paired by fold and seed, with the 95 % interval of its mean by Student's t."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting: what its runs gave, by fold and seed, and what the failed ones died of.

    `summary` is over the seeds of which all folds are there.
    """

    setting: Setting
    results: Mapping[Place, Result]
    errors: Mapping[Place, str]
    directories: Mapping[Place, Path]
    summary: Mapping[str, out_of_fold.Spread]
    difference: comparison.Difference

    @property
    def average_precision(self) -> dict[Any, float | None]:
        """Of every run, by what makes it comparable with that of another setting: its place, and what it tested."""
        return {
            (place, one.tested): out_of_fold.figures({0: one})["all"]["average_precision"]
            for place, one in self.results.items()
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """A study that ran to its end: its rows, in order, and where the files are."""

    study: Study
    rows: tuple[Row, ...]
    directory: Path

    @property
    def num_failed(self) -> int:
        return len({row.directories[place] for row in self.rows for place in row.errors})


def config_hash(config: Config) -> str:
    """12 hexadecimal digits of what a config sets: what has its default does not count.

    So a setting that the library gains later, with a default that changes nothing, leaves every hash as it was.
    """
    plain = config_lib.complete({"model": {"architecture": config.model.architecture}})
    changed = _changed(config_lib.to_dict(config), config_lib.to_dict(plain)) | {
        "architecture": plain.model.architecture
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values, nested, that are not the default's."""
    changed = {key: _changed(v, defaults[key]) if isinstance(v, dict) else v for key, v in values.items()}
    return {key: value for key, value in changed.items() if value != ({} if isinstance(value, dict) else defaults[key])}


def cells(study: Study, config: Config) -> dict[Setting, dict[Place, Config]]:
    """The resolved config of every run of a study, by setting, fold and seed.

    Raises:
      InputError: as `design.resolve` and `design.cell_folds`.
    """
    resolved = {setting: design.resolve(study, setting, config) for setting in study.settings}
    return {
        setting: {
            (fold, seed): folds.run_config(own, fold=fold, seed=seed)
            for seed in study.seeds
            for fold in design.cell_folds(study, own)
        }
        for setting, own in resolved.items()
    }


def ablate(study: Study, config: Config, workdir: Path, *, stack: int = 1) -> Report | int:
    """Trains, or resumes, the runs of a study that are missing, and writes its tables and plots.

    Runs lie in `workdir/runs/HASH/`; what they say in `workdir/NAME/`, of the study's name: table.md, table.csv,
    table.tex, results.json and plots. A run that fails is reported there and does not stop the others.

    Args:
      study: what to compare.
      config: the base of every setting.
      workdir: of this and other studies.
      stack: how many runs to train at once.

    Returns:
      The report; or 128 + the signal's number when interrupted (the same call resumes).

    Raises:
      InputError: settings that do not exist or contradict each other, data that cannot be read, before anything is
        trained.
    """
    configs = cells(study, config)
    readers.read(config.data)  # what is wrong with all runs is said once
    places = {
        setting: {place: workdir / "runs" / config_hash(own) for place, own in of_setting.items()}
        for setting, of_setting in configs.items()
    }
    by_directory = {
        places[setting][place]: own for setting, of_setting in configs.items() for place, own in of_setting.items()
    }
    outcome = running.execute(by_directory, stack=stack)
    if outcome.code:
        return outcome.code
    report = Report(study, _rows(study, places, outcome), workdir / study.name)
    write(report, config)
    return report


def _rows(study: Study, places: Mapping[Setting, Mapping[Place, Path]], outcome: running.Outcome) -> tuple[Row, ...]:
    rows = []
    for setting in study.settings:
        own = places[setting]
        results = {place: outcome.results[path] for place, path in own.items() if path in outcome.results}
        errors = {place: outcome.errors[path] for place, path in own.items() if path in outcome.errors}
        rows.append(
            Row(setting, results, errors, own, _summary(results, own), comparison.Difference(0, None, None, None))
        )
    baseline = rows[study.settings.index(study.baseline)].average_precision
    return tuple(
        dataclasses.replace(row, difference=comparison.paired_difference(row.average_precision, baseline))
        for row in rows
    )


def _summary(results: Mapping[Place, Result], wanted: Mapping[Place, Any]) -> dict[str, out_of_fold.Spread]:
    """Over the seeds of which no fold is missing."""
    whole = {}
    for seed in dict.fromkeys(seed for _, seed in wanted):
        numbers = [fold for fold, other in wanted if other == seed]
        if all((fold, seed) in results for fold in numbers):
            whole[seed] = out_of_fold.figures({fold or 0: results[fold, seed] for fold in numbers})
    return out_of_fold.summary(whole)


def write(report: Report, config: Config) -> None:
    """Writes the tables, the plots and results.json, which comes last."""
    directory, study = report.directory, report.study
    header, lines = text_rows(report)
    files.write(directory / "table.md", f"{tables.markdown(header, lines)}\n{_footer(report)}\n")
    files.write(directory / "table.tex", tables.latex(header, lines, num_text_columns=len(study.axes)))
    files.write(directory / "table.csv", files.to_csv(*_csv_rows(report)))
    runs_of = {row.setting: row.average_precision for row in report.rows}
    figures = study_plots.figures(runs_of, axes=list(study.axes), baseline=study.baseline)
    plots.write(figures, directory, optional=study_plots.OPTIONAL)
    files.write(directory / "results.json", json.dumps(_json(report, config), indent=2, allow_nan=False) + "\n")


def text_rows(
    report: Report, columns: Sequence[tuple[str, str, tables.Unit]] = _COLUMNS
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, as text; a column of which nothing is known in any row is left out."""
    columns = [column for column in columns if any(row.summary[column[1]].values for row in report.rows)]
    header = [*report.study.axes, *(title for title, _, _ in columns), "change of AP", "runs"]
    lines = []
    for row in report.rows:
        cells = [tables.mean_and_std(row.summary[name].mean, row.summary[name].std, unit) for _, name, unit in columns]
        finished = f"{len(row.results)}/{len(row.directories)}"
        status = f"{finished}, failed: {next(iter(row.errors.values())):.80}" if row.errors else finished
        lines.append([*row.setting, *cells, _change(row, report.study.baseline), status])
    return header, lines


def _change(row: Row, baseline: Setting) -> str:
    if row.setting == baseline:
        return "baseline"
    difference = row.difference
    if difference.mean is None:
        return tables.UNKNOWN
    text = f"{100 * difference.mean:+.2f}"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


def _left_out(report: Report) -> list[str]:
    """What is not compared with the baseline, as it was tested on other images: a line for each setting."""
    baseline = next(row for row in report.rows if row.setting == report.study.baseline)
    lines = []
    for row in report.rows:
        both = [place for place in row.results if place in baseline.results]
        if apart := [place for place in both if row.results[place].tested != baseline.results[place].tested]:
            first = apart[0]
            lines.append(
                f"{', '.join(row.setting)}: {len(apart)} of {len(both)} runs were tested on other images or labels "
                f"than the baseline's, e.g. {row.directories[first]} and {baseline.directories[first]} "
                f"({_name(first)}), and are not compared with them. If the data has changed since, delete the "
                "directories of the older runs and run the same command again."
            )
    return lines


def _footer(report: Report) -> str:
    seeds = ", ".join(map(str, report.study.seeds))
    failed = [
        f"- {', '.join(row.setting)}; {_name(place)}: {error} (`{row.directories[place] / running.ERROR_LOG}`)"
        for row in report.rows
        for place, error in row.errors.items()
    ]
    apart = [f"- {line}" for line in _left_out(report)]
    parts = [*(["", "Not compared:", *apart] if apart else []), *(["", "Failed:", *failed] if failed else [])]
    return "\n".join([f"Seeds {seeds}. {_NOTE}", *parts])


def _name(place: Place) -> str:
    fold, seed = place
    return f"seed {seed}" if fold is None else f"fold {fold}, seed {seed}"


def _csv_rows(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the table, as numbers in full; what is unknown is empty."""
    parts = ("mean", "std")
    header = [*report.study.axes, *(f"{name}_{part}" for name in out_of_fold.NAMES for part in parts)]
    header += ["change", "change_low", "change_high", "num_pairs", "num_finished", "num_failed", "error"]
    rows: list[list[Any]] = []
    for row in report.rows:
        numbers = [getattr(row.summary[name], part) for name in out_of_fold.NAMES for part in parts]
        change = row.difference
        ends = [len(row.results), len(row.errors), next(iter(row.errors.values()), "")]
        rows.append([*row.setting, *numbers, change.mean, change.low, change.high, change.num_pairs, *ends])
    return header, rows


def _json(report: Report, config: Config) -> dict[str, Any]:
    study = report.study
    effects = comparison.effects(
        {row.setting: row.average_precision for row in report.rows}, axes=list(study.axes), baseline=study.baseline
    )
    return {
        "study": study.name,
        "axes": study.axes,
        "baseline": _labels(study, study.baseline),
        "seeds": study.seeds,
        "settings": [
            {
                "labels": _labels(study, row.setting),
                "summary": {name: dataclasses.asdict(value) for name, value in row.summary.items()},
                "difference": dataclasses.asdict(row.difference),
                "runs": [_run(row, place) for place in row.directories],
            }
            for row in report.rows
        ],
        "effects": [
            {"axis": one.axis, "label": one.label, "changes": one.changes.tolist(), "mean": float(one.changes.mean())}
            for one in effects
        ],
        "note": _NOTE,
        "not_compared": _left_out(report),
        "config": config_lib.to_dict(config),
        "versions": runs.versions(),
    }


def _labels(study: Study, setting: Setting) -> dict[str, str]:
    return dict(zip(study.axes, setting, strict=True))


def _run(row: Row, place: Place) -> dict[str, Any]:
    figures = out_of_fold.figures({0: row.results[place]})["all"] if place in row.results else None
    known = {"fold": place[0], "seed": place[1], "directory": str(row.directories[place])}
    return known | {"figures": figures, "error": row.errors.get(place)}


def table(report: Report) -> Table:
    """The comparison as a table for the terminal, with what it has room for: fewer columns, no errors' texts."""
    header, lines = text_rows(report, [column for column in _COLUMNS if column[0] in _MAIN_COLUMNS])
    lines = [[*line[:-1], line[-1].partition(":")[0]] for line in lines]
    caption = "\n".join([_NOTE, *_left_out(report)])
    return tables.terminal(header, lines, title=f"study {report.study.name}", caption=caption)
