"""Compares two runs and writes what a person and a script need: comparison.json, comparison.csv and one HTML page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from jaxdefect.data import readers
from jaxdefect.inference.evaluation import score
from jaxdefect.reports import comparison, evaluation, files, gallery, pages, plots
from jaxdefect.reports.comparison import Pair, Side
from jaxdefect.types import InputError, Sample

_MAX_CARDS = 40  # x 3 pictures x 60 kB x 4/3 (base64) = 10 MB
_MAX_LINES = 200  # of the table of disagreements; comparison.csv has all
_TITLES = {
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "false_negatives": "missed defects",
    "false_positives": "false alarms",
    "false_positives_at_full_recall": "false alarms at full recall",
    "pixel_iou": "pixel IoU",
    "pixel_f1": "pixel F1",
}
_COUNTS = ("false_negatives", "false_positives", "false_positives_at_full_recall")  # the fewer, the better


class Line(NamedTuple):
    """A figure as text: of A, of B, the difference and its interval; `better`: "A" or "B" where that excludes 0."""

    title: str
    first: str
    second: str
    difference: str
    interval: str
    better: str


@dataclasses.dataclass(frozen=True)
class Card:
    """An image that the runs decide differently. `right`: "A" or "B"; `scores`, `is_called`: of A and B."""

    id: str
    label: int
    right: str
    scores: tuple[float, float]
    is_called: tuple[bool, bool]
    pictures: gallery.Pictures


def run_comparison(workdirs: Sequence[Path], *, part: str = "test", out: Path) -> dict[str, Any]:
    """Compares two trained runs and writes comparison.json, comparison.csv and comparison.html into `out`.

    A run that has not been evaluated on this part of its split with the weights and thresholds that it has now is
    evaluated first, as `launch.evaluate` does.

    Args:
      workdirs: two runs; differences are the second minus the first.
      part: "test", "validation" or "train", of either run's own split.
      out: where to write; made if need be.

    Returns:
      The content of comparison.json.

    Raises:
      InputError: not two different runs; no image that both were evaluated on, or one that is good to one run and
        defective to the other; as `reports.evaluation.run_evaluation`; or `out` cannot be written.
    """
    sides = [comparison.load_side(workdir, part=part) for workdir in _checked(workdirs)]
    pair = comparison.join(sides)
    content = comparison.to_dict(pair, sides, part=part)
    shown = _shown(pair)
    by_id = {sample.id: sample for sample in readers.read(sides[0].run.config.data)}
    samples = [by_id[pair.ids[i]] for i in shown]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        maps = [_maps(side, samples, progress) for side in sides]
    figure = plots.score_scatter(pair.labels, pair.scores, thresholds=pair.thresholds)
    scatter = plots.to_svg(figure, name="scores")
    num_channels = max(side.run.config.data.num_channels for side in sides)

    def draw(picture_bytes: int) -> str:
        settings = {"num_channels": num_channels, "picture_bytes": picture_bytes}
        pictures = [gallery.draw(sample, both, **settings) for sample, *both in zip(samples, *maps, strict=True)]
        cards = [card(pair, i, each) for i, each in zip(shown, pictures, strict=True)]
        return render_html(content, pair, cards, scatter=scatter)

    files.write(out / "comparison.csv", comparison.to_csv(pair))
    files.write(out / "comparison.html", pages.within_limit(draw))
    files.write(out / "comparison.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def lines(content: Mapping[str, Any]) -> list[Line]:
    """The figures of comparison.json as text, differences of shares in percentage points."""
    found = []
    for name, title in _TITLES.items():
        values = content["metrics"][name]
        is_count = name in _COUNTS
        low, high = values["low"], values["high"]
        better = ""
        if low is not None and (low > 0 or high < 0):
            better = "B" if (low > 0) != is_count else "A"
        found.append(
            Line(
                title,
                _value(values["a"], is_count=is_count),
                _value(values["b"], is_count=is_count),
                _change(values["difference"], is_count=is_count),
                "" if low is None else f"{_change(low, is_count=is_count)} to {_change(high, is_count=is_count)}",
                better,
            )
        )
    return found


def conclusion(content: Mapping[str, Any]) -> str:
    """How the decisions differ, and what McNemar's test makes of it."""
    first, second, p_value = content["mcnemar"]["all"].values()
    if not first + second:
        return f"Both decide alike on all {content['num_images']} images."
    shown = "less than 0.1 %" if p_value < 0.001 else pages.percent(p_value)
    return (
        f"Where they differ, A is right {_times(first)} and B {_times(second)}. If both erred equally often, at least "
        f"as uneven a division would come up in {shown} of such comparisons (McNemar's exact test)."
    )


def comparison_table(content: Mapping[str, Any]) -> Table:
    """The figures of comparison.json for the terminal."""
    table = Table(
        title=f"{content['split']}: {content['num_images']} images, {content['num_defective']} defective",
        caption=conclusion(content),
    )
    for name in ("", "A", "B", "B - A", "95 % interval", "better"):
        table.add_column(name, justify="right" if name else "left")
    for line in lines(content):
        table.add_row(*line)
    return table


def card(pair: Pair, position: int, pictures: gallery.Pictures) -> Card:
    """The card of the image at a position of the pair."""
    first, second = (float(value) for value in pair.scores[:, position])
    is_first_called, is_second_called = (bool(value) for value in pair.is_called[:, position])
    return Card(
        id=pair.ids[position],
        label=int(pair.labels[position]),
        right="A" if pair.is_right[0, position] else "B",
        scores=(first, second),
        is_called=(is_first_called, is_second_called),
        pictures=pictures,
    )


def render_html(content: Mapping[str, Any], pair: Pair, cards: Sequence[Card], *, scatter: str) -> str:
    """The comparison as one page that needs no other file; `scatter`: the plot of the scores as an SVG element."""
    disagreements = pair.disagreements()
    return pages.render(
        "comparison.html",
        content=content,
        conclusion=conclusion(content),
        lines=lines(content),
        notes=_notes(content),
        cards=cards,
        layout=gallery.layout([card.pictures for card in cards]),
        num_disagreements=len(disagreements),
        disagreements=[
            (pair.ids[i], int(pair.labels[i]), *pair.scores[:, i], "A" if pair.is_right[0, i] else "B")
            for i in disagreements[:_MAX_LINES]
        ],
        scatter=scatter,
    )


def _notes(content: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    for name, run in zip("AB", content["runs"], strict=True):
        num_left_out = run["num_evaluated"] - content["num_images"]
        if num_left_out:
            notes.append(
                f"{num_left_out} images that {name} was evaluated on are not in the other's; they are left out."
            )
    on_train = [name for name, run in zip("AB", content["runs"], strict=True) if run["threshold_source"] == "train"]
    if on_train:
        notes.append(
            f"The threshold of {' and that of '.join(on_train)} was chosen on training images, which it knows: "
            "on others it may be too strict or too lax."
        )
    if content["split"] == "train":
        notes.append("These are images that both were trained on: the figures say nothing about new ones.")
    if any(line.startswith(("config.data.reader:", "config.data.root:")) for line in content["config_differences"]):
        notes.append("The runs read their images from different places; images are matched by their names.")
    return notes


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _value(value: float | None, *, is_count: bool) -> str:
    return f"{value}" if is_count and value is not None else pages.percent(value)


def _change(value: float | None, *, is_count: bool) -> str:
    """ "+1.3" percentage points, or "-2" images; no sign before 0."""
    if value is None:
        return "n/a"
    text = f"{value:+.0f}" if is_count else f"{100 * value:+.1f}"
    return text.lstrip("+-") if not float(text) else text.replace("-", "\u2212")


def _checked(workdirs: Sequence[Path]) -> Sequence[Path]:
    if len(workdirs) != 2:
        raise InputError(f"--runs: {len(workdirs)} given; two trained runs are compared, as --runs A B")
    first, second = workdirs
    if first.resolve() == second.resolve():
        raise InputError(f"--runs: {first} and {second} are the same run; give two different ones")
    return workdirs


def _shown(pair: Pair) -> list[int]:
    """The disagreements of the gallery: if there are too many, at least half of the places for those of either kind."""
    disagreements = pair.disagreements()
    is_first_right = pair.is_right[0, disagreements]
    first, second = disagreements[is_first_right], disagreements[~is_first_right]
    num_first = min(len(first), max(_MAX_CARDS - len(second), _MAX_CARDS // 2))
    chosen = {*first[:num_first].tolist(), *second[: _MAX_CARDS - num_first].tolist()}
    return [i for i in disagreements.tolist() if i in chosen]


def _maps(side: Side, samples: Sequence[Sample], progress: Progress) -> list[gallery.Map]:
    """The run's map of each sample."""
    task = progress.add_task(escape(f"Maps of {side.run.workdir}"), total=len(samples))
    scored = score(
        side.predictor,
        samples,
        batch_size=evaluation.batch_size_of(side.run),
        on_progress=lambda num_done: progress.update(task, completed=num_done),
    )
    threshold = side.predictor.pixel_threshold
    return [gallery.Map(item.judgement.probability, item.judgement.stride, threshold) for item in scored]
