"""Plots of single defects: precision and recall against the IoU threshold, and which class was taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxdefect.metrics.defect import DefectCurve
from jaxdefect.reports import plots

_PRECISION_COLOR, _RECALL_COLOR = plots.THRESHOLD_COLOR, plots.DEFECTIVE_COLOR
# A full cell stays so faint that its number, in the page's text colour, can be read on a light and on a dark page.
_MAX_CELL_OPACITY = 0.5
_CELL_INCHES = 0.62
_LONGEST_LEVEL_NAME = 6  # longer class names are turned, or they would run into each other


def precision_recall_by_iou(without_class: DefectCurve, with_class: DefectCurve | None = None) -> Figure:
    """Defect-level precision and recall over the IoU from which a defect counts as found (paper's figures 9 and 13).

    Args:
      without_class: where the class does not matter; drawn solid.
      with_class: where it must be right too, drawn dashed; None without a classifier.
    """
    figure, axes = plots.new_figure("IoU threshold", "precision, recall")
    suffixes = ("", "") if with_class is None else (", any class", ", right class")
    for curve, style, suffix in zip((without_class, with_class), ("-", "--"), suffixes, strict=True):
        if curve is None:
            continue
        for name, values, color in (
            ("precision", curve.precision, _PRECISION_COLOR),
            ("recall", curve.recall, _RECALL_COLOR),
        ):
            if values is not None:
                axes.plot(curve.thresholds, values, style, color=color, linewidth=2, label=name + suffix)
    axes.set_ylim(-0.02, 1.04)
    if axes.lines:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, labelcolor=plots.INK)
    else:
        axes.text(0.5, 0.5, "needs true or predicted defects", ha="center", transform=axes.transAxes, color=plots.INK)
    return figure


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """How many of each true class (row) were predicted as which (column), shaded by their share of the row.

    The shade grows with the root of the share, so that a few confusions among many defects are seen.

    Args:
      counts: [K, K] int, as `jaxdefect.metrics.defect.confusion_matrix` gives it.
      names: of the K classes.

    Raises:
      ValueError: not one name per class.
    """
    if counts.shape != (len(names), len(names)):
        raise ValueError(
            f"counts of shape {counts.shape} and {len(names)} names: {len(counts)} classes need a name each"
        )
    figure, axes = plots.new_figure("predicted", "true")
    count = len(names)
    side = max(3.8, 1.6 + _CELL_INCHES * count)
    figure.set_size_inches(side + 0.6, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for (row, column), share in np.ndenumerate(shares):
        color = plots.GOOD_COLOR if row == column else plots.DEFECTIVE_COLOR
        opacity = _MAX_CELL_OPACITY * float(share) ** 0.5
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=opacity, linewidth=0))
        if counts[row, column]:
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=plots.INK)
    is_turned = max(map(len, names)) > _LONGEST_LEVEL_NAME
    axes.set_xticks(range(count), names, rotation=35 if is_turned else 0, ha="right" if is_turned else "center")
    axes.set_yticks(range(count), names)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    axes.grid(visible=False)
    return figure
