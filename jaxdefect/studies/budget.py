"""What labels cost and what they buy: a finished study's average precision over the minutes that its labels took.

An image label is needed for every image that is trained or validated on, a mask for each defective image whose mask is
used; both are counted in the splits of the study's runs.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from jaxdefect.reports import files, plots
from jaxdefect.studies import tables
from jaxdefect.training import runs
from jaxdefect.types import InputError

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
    if price.label_minutes < 0 or price.mask_minutes < 0:
        raise InputError(f"--label_minutes={price.label_minutes} --mask_minutes={price.mask_minutes}: must not be < 0")
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
      InputError: not a study, or none of its settings is finished.
    """
    path = study / "results.json"
    try:
        settings = json.loads(path.read_text())["settings"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); launch.ablate writes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not of a study ({type(error).__name__}: {error}); see launch.ablate") from error
    mixes = []
    for setting in settings:
        own = sorted(setting["runs"], key=lambda run: (run["fold"] or 0, run["seed"]))
        known = [run["figures"]["average_precision"] for run in own if run["figures"]]
        if len(known) < len(own) or None in known:
            continue
        splits = [runs.load(run["directory"]).split for run in own]
        num_labels = float(np.mean([len(split.train) + len(split.validation) for split in splits]))
        num_masks = float(np.mean([len(split.masked) for split in splits]))
        minutes = price.label_minutes * num_labels + price.mask_minutes * num_masks
        mixes.append(Mix(", ".join(setting["labels"].values()), num_labels, num_masks, minutes, np.array(known)))
    if not mixes:
        raise InputError(f"--study={study}: no setting of it is finished; run launch.ablate again")
    return sorted(mixes, key=lambda mix: mix.minutes)


def choose(mixes: list[Mix], *, target: float) -> dict[str, Any]:
    """The cheapest mix whose mean average precision reaches the target, and how sure that is.

    The places (fold and seed) are drawn with replacement, the same for all mixes, and each time the cheapest that
    reaches the target is chosen anew: "chosen" is the share of draws in which a mix was.

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
    intervals = np.percentile(means, _INTERVAL, axis=1).T
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
                "interval": [float(low), float(high)],
                "chosen": float(np.mean(first == i)),
            }
            for i, (mix, (low, high)) in enumerate(zip(mixes, intervals, strict=True))
        ],
        "cheapest": None if cheapest is None else cheapest.name,
        "cheapest_minutes": None if cheapest is None else cheapest.minutes,
        "minutes_interval": None if not len(costs) else np.percentile(costs, _INTERVAL).tolist(),
        "unreached": float(np.mean(first < 0)),
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
    target, unreached = 100 * content["target"], 100 * content["unreached"]
    if content["cheapest"] is None:
        return (
            f"No mix reaches {target:.1f} % on average; {unreached:.0f} % of the resamplings reach it nowhere either."
        )
    low, high = content["minutes_interval"]
    return (
        f"Cheapest mix that reaches {target:.1f} %: {content['cheapest']}, {content['cheapest_minutes']:.0f} minutes "
        f"(95 % of {_NUM_RESAMPLES} resamplings of the {content['num_places']} runs each: {low:.0f} to {high:.0f} "
        f"minutes; {unreached:.0f} % reach it nowhere). Compared on test images: a figure to plan by, not to quote."
    )


def table(content: dict[str, Any]) -> Table:
    """The mixes for the terminal, with the conclusion below."""
    return tables.terminal(*_text(content), title="What labels cost and buy", caption=conclusion(content))


def _text(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["mix", "image labels", "masks", "minutes", "AP [%]", "95 %", "cheapest to reach it"]
    rows = [
        [
            mix["name"],
            f"{mix['num_labels']:.0f}",
            f"{mix['num_masks']:.0f}",
            f"{mix['minutes']:.0f}",
            f"{100 * mix['average_precision']:.2f}",
            "{:.2f} to {:.2f}".format(*(100 * end for end in mix["interval"])),
            f"{100 * mix['chosen']:.0f} %",
        ]
        for mix in content["mixes"]
    ]
    return header, rows
