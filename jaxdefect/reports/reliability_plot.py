"""Whether scores are probabilities, as a plot."""

from collections.abc import Mapping

import matplotlib.lines
from matplotlib.figure import Figure

from jaxdefect.metrics.reliability import Reliability
from jaxdefect.reports import plots

_COLORS = (plots.THRESHOLD_COLOR, plots.DEFECTIVE_COLOR)


def reliability_plot(curves: Mapping[str, Reliability]) -> Figure:
    """Share of defective images over mean score of each bin, the area of a dot as the number of images in it.

    Args:
      curves: one or two, by their name in the legend.
    """
    figure, axes = plots.new_figure("score", "share of defective images")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.plot([0, 1], [0, 1], color=plots.INK, linewidth=1, linestyle=":")
    handles = []
    for (name, curve), color in zip(curves.items(), _COLORS, strict=False):
        axes.plot(curve.score, curve.defective, color=color, linewidth=1.2, alpha=0.7)
        sizes = 15 + 250 * curve.count / curve.count.sum()
        axes.scatter(curve.score, curve.defective, s=sizes, color=color, alpha=0.7, linewidths=0, clip_on=False)
        label = f"{name}: error {100 * curve.error:.1f} %"
        handles.append(matplotlib.lines.Line2D([], [], color=color, marker="o", label=label))
    figure.legend(handles=handles, loc="outside upper left", frameon=False, labelcolor=plots.INK)
    return figure
