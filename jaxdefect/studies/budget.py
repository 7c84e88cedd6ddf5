"""What labels cost and what they buy: a finished study's average precision over the minutes that its labels took.

An image label is needed for every image that is trained or validated on, a mask for each defective image whose mask is
used; both are counted in the splits of the study's runs.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from jaxdefect.reports import files, plots
from jaxdefect.studies import tables
from jaxdefect.training import runs
from jaxdefect.types import InputError

Place = tuple[int | None, int]  # fold and seed
_NUM_RESAMPLES = 10_000
_INTERVAL = (2.5, 97.5)  # percentiles


@dataclasses.dataclass(frozen=True)
class Price:
    """Minutes of work for one image label, and for one mask beside it."""

    label_minutes: float
    mask_minutes: float


@dataclasses.dataclass(frozen=True)
class Mix:
    """A setting of the study: its numbers of labels and masks (means over its runs), cost, and [P] average precisions.

    All mixes have their precisions at the same P places (fold and seed), in the same order.
    """

    name: str
    num_labels: float
    num_masks: float
    minutes: float
    average_precision: np.ndarray


def weigh(study: Path, *, price: Price, target: float) -> dict[str, Any]:
    """Writes budget.json, budget.md and budget.png into the study's directory; returns the content of the first.

    Args:
      study: the directory that launch.ablate wrote, with results.json.
      price: of the labels.
      target: the average precision to reach, in (0, 1].

    Raises:
      InputError: not a study, none of its settings is finished, a price below 0, or a target out of range.
    """
    for name, minutes in dataclasses.asdict(price).items():
        if not 0 <= minutes < math.inf:
            raise InputError(f"--{name}={minutes}: must be a number of minutes, 0 or more")
    if not 0 < target <= 1:
        raise InputError(f"--target={target}: an average precision, above 0 and at most 1")
    mixes = read(study, price)
    content = {**dataclasses.asdict(price), "target": target, **choose(mixes, target=target)}
    files.write(study / "budget.png", plots.to_png(plot(mixes, target=target)))
    files.write(study / "budget.md", f"{tables.markdown(*_text(content))}\n{conclusion(content)}\n")
    files.write(study / "budget.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def read(study: Path, price: Price) -> list[Mix]:
    """The settings of a study of which every run is finished, the cheapest first.

    Raises:
      InputError: not a study, none of its settings is finished, they are not over the same folds and seeds, or a run's
        directory is not where launch.ablate made it.
    """
    path = study / "results.json"
    try:
        settings = _settings(json.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); launch.ablate writes one") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not of a study ({type(error).__name__}: {error}); see launch.ablate") from error
    finished = [(name, own) for name, own in settings if own and all(ap is not None for _, ap in own.values())]
    if not finished:
        raise InputError(f"--study={study}: no setting of it is finished; run launch.ablate again")
    (first, places), *others = finished
    if unlike := [name for name, own in others if own.keys() != places.keys()]:
        raise InputError(
            f"--study={study}: {first} and {unlike[0]} were not run on the same folds and seeds, so their precisions "
            "cannot be weighed against each other; a study whose axes leave split.num_folds and split.kind alone can"
        )
    workdir = study.resolve().parent / "runs"  # the study may have been moved since
    try:
        mixes = [_mix(name, [own[place] for place in places], workdir, price) for name, own in finished]
    except InputError as error:
        raise InputError(f"--study={study}: {str(error).removeprefix('--workdir=')}") from error
    return sorted(mixes, key=lambda mix: mix.minutes)


def _settings(content: dict[str, Any]) -> list[tuple[str, dict[Place, tuple[str, float | None]]]]:
    """Each setting with the directory's name and the average precision of its runs; None where there is none."""
    return [
        (
            ", ".join(setting["labels"].values()),
            {
                (run["fold"], run["seed"]): (
                    Path(run["directory"]).name,
                    run["figures"]["average_precision"] if run["figures"] else None,
                )
                for run in setting["runs"]
            },
        )
        for setting in content["settings"]
    ]


def _mix(name: str, of_runs: list[tuple[str, float | None]], workdir: Path, price: Price) -> Mix:
    splits = [runs.load(workdir / directory).split for directory, _ in of_runs]
    num_labels = float(np.mean([len(split.train) + len(split.validation) for split in splits]))
    num_masks = float(np.mean([len(split.masked) for split in splits]))
    minutes = price.label_minutes * num_labels + price.mask_minutes * num_masks
    return Mix(name, num_labels, num_masks, minutes, np.array([precision for _, precision in of_runs], np.float64))


def choose(mixes: list[Mix], *, target: float) -> dict[str, Any]:
    """The cheapest mix whose mean average precision reaches the target, and how sure that is.

    The places (fold and seed) are drawn with replacement, the same for all mixes, and each time the cheapest that
    reaches the target is chosen anew: "chosen" is the share of draws in which a mix was. Few places differ less than
    repeated studies would, so this is the least that the choice is unsure by; of a single place it is None.

    Args:
      mixes: the cheapest first, with precisions [P] each.
      target: in (0, 1].
    """
    precisions = np.stack([mix.average_precision for mix in mixes])  # [M, P]
    num_places = precisions.shape[1]
    drawn = np.random.default_rng(0).integers(0, num_places, (_NUM_RESAMPLES, num_places))
    means = precisions[:, drawn].mean(axis=2)  # [M, R]
    reaches = means >= target
    first = np.where(reaches.any(axis=0), reaches.argmax(axis=0), -1)
    is_single = num_places < 2
    cheapest = next((mix for mix in mixes if mix.average_precision.mean() >= target), None)
    costs = np.array([mix.minutes for mix in mixes])[first[first >= 0]]
    return {
        "num_places": num_places,
        "mixes": [
            {
                "name": mix.name,
                "num_labels": mix.num_labels,
                "num_masks": mix.num_masks,
                "minutes": mix.minutes,
                "average_precision": float(mix.average_precision.mean()),
                "interval": None if is_single else np.percentile(means[i], _INTERVAL).tolist(),
                "chosen": None if is_single else float(np.mean(first == i)),
            }
            for i, mix in enumerate(mixes)
        ],
        "cheapest": None if cheapest is None else cheapest.name,
        "cheapest_minutes": None if cheapest is None else cheapest.minutes,
        "minutes_interval": None if is_single or not len(costs) else np.percentile(costs, _INTERVAL).tolist(),
        "unreached": None if is_single else float(np.mean(first < 0)),
    }


def plot(mixes: list[Mix], *, target: float) -> Figure:
    """Average precision over cost, every run a dot, and the best that each amount of work has bought as a line."""
    figure, axes = plots.new_figure("work on labels [minutes]", "average precision [%]")
    minutes = np.array([mix.minutes for mix in mixes])
    means = 100 * np.array([mix.average_precision.mean() for mix in mixes])
    for mix in mixes:
        known = 100 * mix.average_precision
        axes.plot(np.full(len(known), mix.minutes), known, ".", color=plots.INK, alpha=0.5, markersize=4)
        axes.annotate(mix.name, (mix.minutes, known.mean()), xytext=(4, -9), textcoords="offset points", fontsize=7)
    axes.step(minutes, np.maximum.accumulate(means), where="post", color=plots.GOOD_COLOR)
    axes.plot(minutes, means, "o", color=plots.THRESHOLD_COLOR)
    axes.axhline(100 * target, color=plots.DEFECTIVE_COLOR, linestyle="--", linewidth=1)
    return figure


def conclusion(content: dict[str, Any]) -> str:
    """The choice in words."""
    target = f"{100 * content['target']:.1f} %"
    unreached = None if content["unreached"] is None else f"{100 * content['unreached']:.0f} %"
    if content["cheapest"] is None:
        chance = "" if unreached is None else f"; {unreached} of the resamplings reach it nowhere either"
        return f"No mix reaches {target} on average{chance}."
    chance = "a single run each, which says nothing of chance"
    if content["minutes_interval"] is not None:
        low, high = content["minutes_interval"]
        chance = (
            f"95 % of {_NUM_RESAMPLES} resamplings of the {content['num_places']} runs each: {low:.0f} to {high:.0f} "
            f"minutes; {unreached} reach it nowhere"
        )
    return (
        f"Cheapest mix that reaches {target}: {content['cheapest']}, {content['cheapest_minutes']:.0f} minutes "
        f"({chance}). Compared on test images: a figure to plan by, not to quote."
    )


def table(content: dict[str, Any]) -> Table:
    """The mixes for the terminal, with the conclusion below."""
    return tables.terminal(*_text(content), title="What labels cost and buy", caption=conclusion(content))


def _text(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["mix", "image labels", "masks", "minutes", "AP [%]", "95 % of resamplings", "cheapest to reach it"]
    rows = []
    for mix in content["mixes"]:
        interval, chosen = tables.UNKNOWN, tables.UNKNOWN  # of a single run
        if mix["interval"] is not None:
            interval = "{:.2f} to {:.2f}".format(*(100 * end for end in mix["interval"]))
            chosen = f"{100 * mix['chosen']:.0f} %"
        numbers = [f"{mix[name]:.0f}" for name in ("num_labels", "num_masks", "minutes")]
        rows.append([mix["name"], *numbers, f"{100 * mix['average_precision']:.2f}", interval, chosen])
    return header, rows
