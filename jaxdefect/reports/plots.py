"""The curves of an evaluation: precision over recall, and where good and defective images score."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from sklearn import metrics as sklearn_metrics

from jaxdefect.reports import files

GOOD_COLOR, DEFECTIVE_COLOR, THRESHOLD_COLOR = "#2f9e6e", "#e0533d", "#6b7fd7"
# Stands for the colour of text and axes; as SVG it becomes `currentColor`, so that the page's theme decides.
INK = "#454a54"
_NUM_BINS = 40
_MAX_LINEAR_COUNT = 20
_MAX_DOTS = 2000
_CURVE_STEP = 0.002  # less than a pixel
# What would differ from run to run or points to the network.
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def precision_recall(labels: np.ndarray, scores: np.ndarray, *, threshold: float) -> Figure:
    """Precision over recall with the operating point of `threshold`; says so where a class is missing.

    Args:
      labels: [N] of 0 and 1.
      scores: [N] float.
      threshold: images that score at least this are predicted defective.
    """
    figure, axes = new_figure("recall", "precision")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    if not 0 < np.sum(labels) < len(labels):
        axes.text(0.5, 0.5, "needs good and defective images", ha="center", va="center", color=INK)
        return figure
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    kept = _visible(np.stack([precision, recall]))
    precision, recall = precision[kept], recall[kept]
    axes.fill_between(recall, precision, step="post", color=THRESHOLD_COLOR, alpha=0.12, linewidth=0)
    axes.step(recall, precision, where="post", color=THRESHOLD_COLOR, linewidth=2)
    predicted = scores >= threshold
    if predicted.any():
        point = float(np.sum(labels[predicted]) / np.sum(labels)), float(np.mean(labels[predicted]))
        axes.plot(*point, "o", color=DEFECTIVE_COLOR, markersize=8, label="at the threshold", clip_on=False)
        axes.legend(loc="lower left", frameon=False, labelcolor=INK)
    return figure


def score_histogram(labels: np.ndarray, scores: np.ndarray, *, threshold: float) -> Figure:
    """How many good and defective images have which score (counts logarithmic where they are many), with the threshold.

    Args:
      labels: [N] of 0 and 1.
      scores: [N] float.
      threshold: images that score at least this are predicted defective.
    """
    figure, axes = new_figure("score", "images")
    low, high = min(scores.min(), threshold), max(scores.max(), threshold)
    margin = 0.02 * (high - low) or 0.01
    edges = np.linspace(low, high, _NUM_BINS + 1) if high > low else np.array([low - margin, high + margin])
    counts = [np.histogram(scores[labels == label], bins=edges)[0] for label in (0, 1)]
    # Hundreds of clear cases must not hide the few unclear ones: those are what the plot is for.
    is_logarithmic = max(count.max() for count in counts) > _MAX_LINEAR_COUNT
    baseline = 0.5 if is_logarithmic else 0.0
    for count, name, color in zip(counts, ("good", "defective"), (GOOD_COLOR, DEFECTIVE_COLOR), strict=True):
        axes.stairs(
            np.maximum(count, baseline), edges, baseline=baseline, fill=True, color=color, alpha=0.55, label=name
        )
    axes.axvline(threshold, color=THRESHOLD_COLOR, linewidth=1.6, linestyle="--", label=f"threshold {threshold:.4g}")
    if is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=baseline)
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, labelcolor=INK)
    return figure


def score_scatter(labels: np.ndarray, scores: np.ndarray, *, thresholds: np.ndarray) -> Figure:
    """The scores that two runs, A and B, give the same images; in the shaded corners they decide differently.

    Args:
      labels: [N] of 0 and 1.
      scores: [2, N] in [0, 1].
      thresholds: [2].
    """
    figure, axes = new_figure("score of A", "score of B")
    low, high = -0.03, 1.03
    for corner, width, height in (
        ((low, thresholds[1]), thresholds[0] - low, high - thresholds[1]),
        ((thresholds[0], low), high - thresholds[0], thresholds[1] - low),
    ):
        axes.add_patch(Rectangle(corner, width, height, facecolor=THRESHOLD_COLOR, alpha=0.12, linewidth=0))
    axes.axvline(thresholds[0], color=THRESHOLD_COLOR, linewidth=1.2, linestyle="--")
    axes.axhline(thresholds[1], color=THRESHOLD_COLOR, linewidth=1.2, linestyle="--")
    for label, name, color in ((0, "good", GOOD_COLOR), (1, "defective", DEFECTIVE_COLOR)):
        axes.scatter(
            *scores[:, labels == label],
            s=26,
            color=color,
            alpha=0.6,
            linewidth=0,
            label=name,
            # A dot each would be 100 bytes a piece: many are one picture.
            rasterized=scores.shape[1] > _MAX_DOTS,
        )
    axes.set(xlim=(low, high), ylim=(low, high))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, labelcolor=INK)
    return figure


def _visible(curve: np.ndarray) -> np.ndarray:
    """Which points of a curve [2, K] of values in [0, 1] to draw: the ends, and those a step away from the one before.

    A curve of 100 000 images would take 10 MB of a page.
    """
    kept = [0]
    for i, point in enumerate(curve.T[1:-1], start=1):
        if np.abs(point - curve[:, kept[-1]]).max() >= _CURVE_STEP:
            kept.append(i)
    return np.array([*kept, curve.shape[1] - 1])


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    data = io.BytesIO()
    _save(figure, data, format="png", dpi=150, facecolor="white")
    return data.getvalue()


def write(figures: Mapping[str, Figure], directory: Path, *, optional: Sequence[str]) -> None:
    """Writes each figure as NAME.png, and removes what there is no more to show in.

    Args:
      figures: by name.
      directory: where to.
      optional: names of plots, as glob patterns, that an earlier state may have had.

    Raises:
      InputError: a file cannot be written.
    """
    for name, figure in figures.items():
        files.write(directory / f"{name}.png", to_png(figure))
    for path in (path for pattern in optional for path in directory.glob(f"{pattern}.png")):
        if path.stem not in figures:
            path.unlink()


def to_svg(figure: Figure, *, name: str) -> str:
    """The figure as an `<svg>` element to put into a page: transparent, in the page's font and text colour.

    `name` keeps the ids of several figures in one page apart; the same figure and name give the same text.
    """
    data = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        _save(figure, data, format="svg", transparent=True, metadata=_NO_METADATA)
    text = data.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Matplotlib names what it draws ("figure_1", "axes_1") alike in every figure.
    return text.replace('<g id="', f'<g id="{name}-').replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def _save(figure: Figure, file: IO[Any], **options: Any) -> None:
    """Saves the figure, its texts as they are: Matplotlib takes a name with two `$` for a formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with matplotlib.rc_context({"text.parse_math": False}):  # of what is made while the figure is drawn
        figure.savefig(file, **options)


def new_figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    # No pyplot: it keeps figures and picks a backend for the whole process.
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(which="both", colors=INK, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
