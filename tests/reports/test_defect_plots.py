"""The defect plots show the figures they were given, and can be written as PNG and SVG."""

import numpy as np
import pytest

from jaxdefect.metrics.defect import DefectCurve
from jaxdefect.reports import defect_plots, plots

_THRESHOLDS = np.array([0.5, 0.7, 0.9])


def test_curves_are_drawn_with_and_without_the_class():
    any_class = DefectCurve(_THRESHOLDS, np.array([0.9, 0.8, 0.3]), np.array([0.8, 0.7, 0.2]))
    right_class = DefectCurve(_THRESHOLDS, np.array([0.7, 0.6, 0.1]), None)
    figure = defect_plots.precision_recall_by_iou(any_class, right_class)
    drawn = {line.get_label(): (list(line.get_ydata()), line.get_linestyle()) for line in figure.axes[0].lines}
    assert drawn == {
        "precision, any class": ([0.9, 0.8, 0.3], "-"),
        "recall, any class": ([0.8, 0.7, 0.2], "-"),
        "precision, right class": ([0.7, 0.6, 0.1], "--"),
    }
    alone = defect_plots.precision_recall_by_iou(any_class)
    assert [line.get_label() for line in alone.axes[0].lines] == ["precision", "recall"]
    assert plots.to_svg(figure, name="defects").startswith("<svg")


def test_without_defects_the_plot_says_so():
    figure = defect_plots.precision_recall_by_iou(DefectCurve(_THRESHOLDS, None, None))
    assert [text.get_text() for text in figure.axes[0].texts] == ["needs true or predicted defects"]
    assert plots.to_png(figure).startswith(b"\x89PNG")


def test_confusion_matrix_has_its_counts_in_their_cells_shaded_by_the_share_of_the_row():
    counts = np.array([[9, 3, 0], [0, 4, 12], [0, 0, 0]])
    figure = defect_plots.confusion_matrix(counts, ["good", "blowhole", "crack"])
    axes = figure.axes[0]
    written = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert written == {(row, column): counts[row, column] for row, column in zip(*np.nonzero(counts), strict=True)}
    shades = np.reshape([patch.get_alpha() for patch in axes.patches], (3, 3))
    assert shades[0, 0] == shades[1, 2] > shades[0, 1] == shades[1, 1] > shades[2].max() == 0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["good", "blowhole", "crack"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class is on top
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert plots.to_png(figure).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="3 classes"):
        defect_plots.confusion_matrix(counts, ["good", "blowhole"])


def test_a_class_name_is_no_formula():
    figure = defect_plots.confusion_matrix(np.eye(2, dtype=int), ["$a_{$", "$b_{$"])
    assert plots.to_png(figure).startswith(b"\x89PNG")
    assert plots.to_svg(figure, name="x").count(">$a_{$<") == 2
