"""The plots of a study: average precision by setting, what each axis changes, and precision over numbers of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxdefect.reports.plots import DEFECTIVE_COLOR, GOOD_COLOR, INK, THRESHOLD_COLOR, new_figure
from jaxdefect.studies import comparison

# Average precision by setting, then by fold, seed and test images.
Runs = Mapping[tuple[str, ...], Mapping[Any, float | None]]

OPTIONAL = ("effects", "average_precision_by_*")  # names of `figures` that not every study has
_INCHES_PER_BAR = 0.34
_MAX_LINES = 8  # of the curves over the number of labels; what is more cannot be told apart
_LINE_COLORS = (THRESHOLD_COLOR, DEFECTIVE_COLOR, GOOD_COLOR, "#b8860b", "#8a4fbf", "#3aa0b8", "#7a7a7a", "#c2568a")


def figures(runs: Runs, *, axes: Sequence[str], baseline: tuple[str, ...]) -> dict[str, Figure]:
    """The plots that there is something to show in, by file name.

    Args:
      runs: of every setting.
      axes: the name of each part of a setting.
      baseline: the setting that axes are compared with.
    """
    found = {"average_precision": bars(runs, axes=axes, baseline=baseline)}
    if changes := comparison.effects(runs, axes=axes, baseline=baseline):
        found["effects"] = effects(changes, baseline=dict(zip(axes, baseline, strict=True)))
    for i, axis in enumerate(axes):
        if all(_is_number(setting[i]) for setting in runs) and len({setting[i] for setting in runs}) > 1:
            found[f"average_precision_by_{axis.replace(' ', '_').replace('/', '_')}"] = by_number(
                runs, axes=axes, index=i
            )
    return found


def _is_number(label: str) -> bool:
    try:
        return bool(np.isfinite(float(label)))
    except ValueError:
        return False


def _known(values: Mapping[Any, float | None]) -> np.ndarray:
    return np.array([100 * value for value in values.values() if value is not None])


def bars(runs: Runs, *, axes: Sequence[str], baseline: tuple[str, ...]) -> Figure:
    """A bar per setting, the mean over its runs, and a line for every run; the baseline in another colour."""
    figure, plot = new_figure("average precision [%]", "")
    figure.set_size_inches(7.0, 1.2 + _INCHES_PER_BAR * len(runs))
    plot.grid(False, axis="y")
    everything = np.concatenate([_known(values) for values in runs.values()])
    for i, (setting, values) in enumerate(runs.items()):
        known = _known(values)
        if not len(known):
            plot.text(0.01, i, "no result", va="center", color=INK, transform=plot.get_yaxis_transform())
            continue
        color = GOOD_COLOR if setting == baseline else THRESHOLD_COLOR
        plot.barh(i, known.mean(), color=color, alpha=0.65, height=0.7)
        plot.plot(known, np.full(len(known), i), "|", color=INK, markersize=9, clip_on=False)
        plot.annotate(
            f"{known.mean():.1f}",
            (1.01, i),
            xycoords=("axes fraction", "data"),
            va="center",
            color=INK,
            fontsize="small",
        )
    plot.set_yticks(range(len(runs)), [", ".join(setting) for setting in runs], fontsize="small")
    plot.set_ylim(len(runs) - 0.4, -0.6)
    if len(everything):
        low = float(everything.min())
        plot.set_xlim(max(0.0, low - 0.15 * (100 - low) - 1), 100)
    plot.set_title(f"{', '.join(axes)}; lines: runs, green: baseline", color=INK, fontsize="small", loc="left")
    return figure


def effects(changes: Sequence[comparison.Effect], *, baseline: Mapping[str, str]) -> Figure:
    """What each label changes against the baseline's, averaged over all else; the spread of rises and falls apart.

    The whiskers are, as in Tabernik 2019's figure 6, the root mean square of the deviations above and below the mean.
    """
    figure, plot = new_figure("change of average precision [points]", "")
    figure.set_size_inches(7.0, 1.2 + _INCHES_PER_BAR * len(changes))
    plot.grid(False, axis="y")
    for i, effect in enumerate(changes):
        values = 100 * effect.changes
        mean = float(values.mean())
        spread = [[_deviation(mean - values)], [_deviation(values - mean)]]
        color = GOOD_COLOR if mean >= 0 else DEFECTIVE_COLOR
        plot.barh(i, mean, xerr=spread, color=color, alpha=0.65, height=0.7, ecolor=INK, capsize=3)
    names = [f"{one.axis}: {baseline[one.axis]} → {one.label} (n = {len(one.changes)})" for one in changes]
    plot.set_yticks(range(len(changes)), names, fontsize="small")
    plot.invert_yaxis()
    plot.axvline(0, color=INK, linewidth=1)
    return figure


def _deviation(values: np.ndarray) -> float:
    """Root mean square of what is above 0; 0 if nothing is."""
    above = values[values > 0]
    return float(np.sqrt(np.mean(above**2))) if len(above) else 0.0


def by_number(runs: Runs, *, axes: Sequence[str], index: int) -> Figure:
    """Average precision over the numbers of axis `index`: a line for each combination of the others, mean ± deviation.

    With more than 8 combinations there is one line, over all of them.
    """
    figure, plot = new_figure(axes[index], "average precision [%]")
    others = list(dict.fromkeys((*setting[:index], *setting[index + 1 :]) for setting in runs))
    is_joined = len(others) > _MAX_LINES
    numbers = sorted({float(setting[index]) for setting in runs})
    for color, other in zip(_LINE_COLORS, [()] if is_joined else others, strict=False):
        points = []
        for number in numbers:
            values = np.concatenate(
                [
                    _known(one)
                    for setting, one in runs.items()
                    if float(setting[index]) == number
                    and (is_joined or (*setting[:index], *setting[index + 1 :]) == other)
                ]
                or [np.array([])]
            )
            if len(values):
                points.append((number, values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0))
        if points:
            x, mean, deviation = map(np.array, zip(*points, strict=True))
            plot.errorbar(x, mean, deviation, marker="o", capsize=3, color=color, label=", ".join(other))
    if len(others) > 1 and not is_joined:
        title = ", ".join((*axes[:index], *axes[index + 1 :]))
        style = {"frameon": False, "labelcolor": INK, "fontsize": "small", "title_fontsize": "small"}
        figure.legend(loc="outside upper center", ncols=2, title=title, **style)
    positive = [number for number in numbers if number > 0]
    if positive and numbers[0] >= 0 and positive[-1] / positive[0] > 20:
        plot.set_xscale("symlog", linthresh=positive[0])
    plot.set_xticks(numbers, [f"{number:g}" for number in numbers], fontsize="small")
    plot.minorticks_off()
    return figure
