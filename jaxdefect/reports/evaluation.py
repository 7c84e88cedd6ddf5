"""Evaluates a run and writes what a person and a script need: metrics.json, scores.csv, plots and one HTML page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jaxdefect.data import readers
from jaxdefect.inference import defects, ensemble
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.choosing import calibrated
from jaxdefect.inference.evaluation import Evaluation, evaluate, worst_masks
from jaxdefect.inference.thresholds import best_f1_threshold
from jaxdefect.metrics.counts import count_figures
from jaxdefect.metrics.image import image_metrics
from jaxdefect.metrics.reliability import reliability
from jaxdefect.reports import breakdown, defect_plots, files, gallery, pages, plots
from jaxdefect.reports.decisions import NOTE, calibration_metrics
from jaxdefect.reports.pages import percent
from jaxdefect.reports.progress import stage_of
from jaxdefect.reports.reliability_plot import reliability_plot
from jaxdefect.training import runs
from jaxdefect.types import InputError, Sample, Split

SPLITS = ("test", "validation", "train")
_SOURCES = {"train": "the training images", "validation": "the validation images", "test": "the test images"}
_ORACLE_NOTE = "oracle: the best threshold for these very images, chosen with their labels; a bound, not a result"
_DEFECT_ROWS = {
    "defects_before_classifier": "defects before the classifier",
    "defects": "defects",
    "defects_with_class": "defects with the right class",
}
_DEFECT_COLUMNS = {
    "pixel_precision": "pixel precision",
    "pixel_recall": "pixel recall",
    "mean_iou": "mean IoU",
    "average_recall": "AR",
    "precision_any_overlap": "precision at any overlap",
    "recall_any_overlap": "recall at any overlap",
    "precision_iou_50": "precision at IoU 0.5",
    "recall_iou_50": "recall at IoU 0.5",
}
_OPTIONAL_PLOTS = ("defects_by_iou", "confusion_matrix", "reliability")
# What was trained at some batch size can be evaluated at it; below this a GPU idles between images.
_MIN_BATCH_SIZE = 4


def run_evaluation(
    workdir: Path | str, *, part: str = "test", checkpoint: str | None = None, calibration: str | None = None
) -> dict[str, Any]:
    """Evaluates a trained run on a part of its split and writes `<workdir>/evaluation/<part>/`.

    The thresholds are those of `calibration.json`, of whatever policy, or chosen now (`choosing.calibrated`).

    Args:
      workdir: the run's directory.
      part: "test", "validation" or "train".
      checkpoint: "best", "last", a step, or None for the one that the run's config selects.
      calibration: a file of launch.calibrate to decide by instead.

    Returns:
      The content of metrics.json.

    Raises:
      InputError: not a run, an unknown or empty part, no such checkpoint or calibration, or images missing or
        unreadable.
    """
    run = runs.load(workdir)
    samples = readers.read(run.config.data)
    chosen = select_samples(samples, split=run.split, part=part)
    batch_size = batch_size_of(run)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        on_stage = stage_of(progress)
        predictor = calibrated(
            run,
            checkpoint=checkpoint,
            calibration=None if calibration is None else Path(calibration),
            batch_size=batch_size,
            on_stage=on_stage,
        )
        used = predictor.calibration
        assert used is not None
        evaluation = evaluate(
            predictor,
            chosen,
            calibration=used,
            batch_size=batch_size,
            on_progress=on_stage(f"Evaluating {part}", len(chosen)),
        )
    metrics = evaluation_metrics(evaluation, used, part=part, workdir=run.workdir)
    write_report(
        evaluation,
        metrics,
        directory=report_directory(run.workdir, part),
        num_channels=run.config.data.num_channels,
    )
    return metrics


def batch_size_of(run: runs.Run) -> int:
    """How many images of a run's data to judge at once."""
    return max(_MIN_BATCH_SIZE, run.config.training.batch_size)


def select_samples(samples: Sequence[Sample], *, split: Split, part: str) -> list[Sample]:
    """The samples of one part of a split, in the split's order.

    Raises:
      InputError: an unknown or empty part, or an id of the split that the data set lacks.
    """
    if part not in SPLITS:
        raise InputError(f"split {part!r}: must be one of {', '.join(SPLITS)}")
    ids: tuple[str, ...] = getattr(split, part)
    if not ids:
        filled = ", ".join(name for name in SPLITS if getattr(split, name)) or "none"
        raise InputError(f"the run's split has no {part} images; parts that have some: {filled}")
    by_id = {sample.id: sample for sample in samples}
    missing = [id_ for id_ in ids if id_ not in by_id]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(ids)} {part} images of the run's split are not in the data set any more, "
            f"e.g. {missing[0]!r}; put the data back as it was when the run was trained"
        )
    return [by_id[id_] for id_ in ids]


def evaluation_metrics(
    evaluation: Evaluation, calibration: Calibration, *, part: str, workdir: Path | str
) -> dict[str, Any]:
    """The content of metrics.json: image and pixel metrics, the oracle threshold's, and what they were made with.

    Figures that are undefined (a class or all masks missing) are None.
    """
    labels, scores = evaluation.labels, evaluation.scores
    oracle = None
    if labels.any():
        best = image_metrics(labels, scores, threshold=best_f1_threshold(labels, scores))
        oracle = {"note": _ORACLE_NOTE}
        oracle |= {key: best[key] for key in ("threshold", "f1", "false_positives", "false_negatives")}
    has_masks, pixels = evaluation.num_masked > 0, count_figures(evaluation.counts)
    rows = breakdown.break_down(evaluation, threshold=calibration.threshold)
    is_classified = evaluation.detected is not None
    return {
        "split": part,
        **image_metrics(labels, scores, threshold=calibration.threshold),
        "threshold_source": calibration.source,
        "pixel_iou": pixels.iou if has_masks else None,
        "pixel_f1": pixels.f1 if has_masks else None,
        "pixel_threshold": calibration.pixel_threshold,
        "num_defective_with_mask": evaluation.num_masked,
        "defects": defects.summary(evaluation.found, with_class=False) if has_masks else None,
        "defects_with_class": defects.summary(evaluation.found, with_class=True) if is_classified else None,
        "defects_before_classifier": defects.summary(evaluation.detected, with_class=False)
        if evaluation.detected is not None
        else None,
        "classes": _class_metrics(evaluation),
        "by_group": breakdown.to_dicts(rows.groups),
        "by_class": breakdown.to_dicts(rows.classes),
        "oracle": oracle,
        **calibration_metrics(evaluation, calibration),
        "checkpoint_step": evaluation.checkpoint_step,
        "weights_sha256": evaluation.weights_sha256,
        "tiling": evaluation.tiling,
        "config": str(Path(workdir) / "config.json"),
        "versions": runs.versions(),
    }


def _class_metrics(evaluation: Evaluation) -> dict[str, dict[str, Any]] | None:
    """Image-level figures of each member of an ensemble; an image without the class is good to it."""
    if not evaluation.class_scores:
        return None
    return {
        name: image_metrics(
            np.array([name in classes for classes in evaluation.classes], int), scores, threshold=ensemble.THRESHOLD
        )
        for name, scores in evaluation.class_scores.items()
    }


def _figures(evaluation: Evaluation, *, threshold: float) -> dict[str, Figure]:
    labels, scores = evaluation.labels, evaluation.scores
    figures = {
        "precision_recall": plots.precision_recall(labels, scores, threshold=threshold),
        "score_histogram": plots.score_histogram(labels, scores, threshold=threshold),
    }
    if evaluation.num_masked:
        is_classified = evaluation.detected is not None
        with_class = defects.curve(evaluation.found, with_class=True) if is_classified else None
        without = defects.curve(evaluation.found, with_class=False)
        figures["defects_by_iou"] = defect_plots.precision_recall_by_iou(without, with_class)
        if is_classified:
            figures["confusion_matrix"] = defect_plots.confusion_matrix(*defects.confusion(evaluation.found))
    if evaluation.raw_scores is not None:
        curves = {"as the network": evaluation.raw_scores, "calibrated": scores}
        figures["reliability"] = reliability_plot({name: reliability(labels, of) for name, of in curves.items()})
    return figures


def report_directory(workdir: Path | str, part: str) -> Path:
    """Where the evaluation of a part of a run's split lies."""
    return Path(workdir) / "evaluation" / part


def write_report(evaluation: Evaluation, metrics: dict[str, Any], *, directory: Path, num_channels: int) -> None:
    """Writes metrics.json, scores.csv, groups.csv, report.html and the plots, which it holds too, into `directory`.

    Every file is written whole or not at all; metrics.json, which says that the rest is there, comes last. What an
    earlier evaluation wrote is replaced.

    Raises:
      InputError: `directory` cannot be written, or an image of the gallery cannot be read any more.
    """
    threshold = metrics["threshold"]
    figures = _figures(evaluation, threshold=threshold)
    svgs = {name: plots.to_svg(figure, name=name.replace("_", "-")) for name, figure in figures.items()}
    rows = breakdown.break_down(evaluation, threshold=threshold)
    ranks = {entry.sample.id: rank for rank, entry in enumerate(worst_masks(evaluation.gallery))}

    def draw(picture_bytes: int) -> str:
        settings = {"pixel_threshold": metrics["pixel_threshold"], "picture_bytes": picture_bytes}
        cards = [
            gallery.card(entry, num_channels=num_channels, mask_rank=ranks.get(entry.sample.id), **settings)
            for entry in evaluation.gallery
        ]
        return render_html(metrics, cards, figures=svgs, rows=rows)

    files.write(directory / "scores.csv", scores_csv(evaluation, threshold=threshold))
    files.write(directory / "groups.csv", breakdown.to_csv(rows))
    plots.write(figures, directory, optional=_OPTIONAL_PLOTS)
    files.write(directory / "report.html", pages.within_limit(draw))
    files.write(directory / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def scores_csv(evaluation: Evaluation, *, threshold: float) -> str:
    """id,label,score,prediction of every image, and raw_score where scores are calibrated; with all their digits."""
    names = ["id", "label", "score", "prediction"]
    columns = [evaluation.ids, evaluation.labels, evaluation.scores]
    if evaluation.raw_scores is not None:
        names.append("raw_score")
        columns.append(evaluation.raw_scores)
    rows = [
        (id_, int(label), repr(float(score)), int(score >= threshold), *(repr(float(value)) for value in raw))
        for id_, label, score, *raw in zip(*columns, strict=True)
    ]
    return files.to_csv(names, rows)


def render_html(
    metrics: dict[str, Any],
    cards: Sequence[gallery.Card],
    *,
    figures: dict[str, str],
    rows: breakdown.Breakdown,
) -> str:
    """The report as one page that needs no other file: `cards` worst first, `figures` as SVG elements by name."""
    return pages.render(
        "evaluation.html",
        metrics=metrics,
        num_good=metrics["num_images"] - metrics["num_defective"],
        cards=cards,
        layout=gallery.layout([card.pictures for card in cards]),
        figures=figures,
        rows=rows,
        max_rows=breakdown.MAX_ROWS,
        defect_rows=_DEFECT_ROWS,
        defect_columns=_DEFECT_COLUMNS,
        notes=_notes(metrics),
        decision_note=NOTE,
        sources=_SOURCES,
    )


def metrics_table(metrics: dict[str, Any]) -> Table:
    """The figures of metrics.json as a table for the terminal."""
    num_good = metrics["num_images"] - metrics["num_defective"]
    title = f"{metrics['split']}: {metrics['num_images']} images, {metrics['num_defective']} defective"
    table = Table(title=title, show_header=False)
    source = _SOURCES.get(metrics["threshold_source"], metrics["threshold_source"])
    rows = [
        ("average precision", percent(metrics["average_precision"])),
        ("ROC AUC", percent(metrics["roc_auc"])),
        ("F1", percent(metrics["f1"])),
        ("missed defects", f"{metrics['false_negatives']} of {metrics['num_defective']}"),
        (
            "false alarms" if metrics["reject_threshold"] is None else "good ones not accepted",
            f"{metrics['false_positives']} of {num_good}",
        ),
        ("threshold", f"{metrics['threshold']:.6g}, {metrics['policy']}, chosen on {source}"),
    ]
    if metrics["reject_threshold"] is not None:
        decided = metrics["decisions"][0]["figures"]
        rows += [
            ("rejected", f"from {metrics['reject_threshold']:.6g} on, {decided['false_positives']} good ones"),
            (
                "inspected by hand",
                f"{decided['num_inspected']} ({percent(decided['share_inspected'])}), "
                f"{decided['num_inspected_good']} of them good",
            ),
        ]
    if metrics["num_defective"]:
        oracle = metrics["oracle"]
        rows += [
            ("false alarms at full recall", f"{metrics['false_positives_at_full_recall']} of {num_good}"),
            ("pixel IoU, F1", f"{percent(metrics['pixel_iou'])}, {percent(metrics['pixel_f1'])}"),
            (
                "oracle (threshold from these labels)",
                f"F1 {percent(oracle['f1'])}, {oracle['false_negatives']} missed, "
                f"{oracle['false_positives']} false alarms",
            ),
        ]
    for name, title in _DEFECT_ROWS.items():
        if figures := metrics[name]:
            text = ", ".join(f"{column} {percent(figures[key])}" for key, column in _DEFECT_COLUMNS.items())
            rows.append((title, text))
    for name, figures in (metrics["classes"] or {}).items():
        counts = (
            f"{figures['false_negatives']} of {figures['num_defective']} missed, {figures['false_positives']} wrong"
        )
        rows.append((f"class {name}", f"AP {percent(figures['average_precision'])}, {counts}"))
    for row in rows:
        table.add_row(*row)
    return table


def _notes(metrics: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    if metrics["threshold_source"] == "train":
        notes.append(
            "The threshold was chosen on the training images, because the split has no defective validation image. "
            "The network knows those images, so on new ones it may miss more defects or raise more false alarms."
        )
    else:
        notes += metrics["calibration_notes"]
    if metrics["threshold_source"] == metrics["split"]:
        notes.append(
            "These are the images that the threshold was chosen on, so the decisions look better than they are."
        )
    elif metrics["num_calibration_images"]:
        notes.append(
            f"The threshold was chosen on {metrics['num_calibration_images']} of these very images, so the decisions "
            "look better than they are."
        )
    elif metrics["split"] == "train":
        notes.append("These are the images that the network was trained on: the figures say nothing about new ones.")
    if metrics["num_defective"] in (0, metrics["num_images"]):
        missing = "defective" if not metrics["num_defective"] else "good"
        notes.append(f"There is no {missing} image here, so average precision and ROC AUC are undefined.")
    elif not metrics["num_defective_with_mask"]:
        notes.append("No defective image here has a mask, so the pixel figures are undefined.")
    return notes
