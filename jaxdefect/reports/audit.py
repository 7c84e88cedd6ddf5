"""Audits a data set and its split and writes what a person and a script need: audit.json and one HTML page."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from jaxdefect.config import Config
from jaxdefect.data import annotation, images, inspection, readers, splits
from jaxdefect.data.audit import TITLES, Audit, Finding, audit, splits_of
from jaxdefect.reports import files, gallery, pages
from jaxdefect.types import InputError, Sample, Split

# 18 kinds x 8 findings x 6 thumbnails of about 10 kB make a page of 12 MB; `pages.within_limit` sees to the rest.
_MAX_FINDINGS = 8  # of a kind, with pictures; audit.json has all
_MAX_THUMBNAILS = 6
_THUMBNAIL_PX = 260  # its longer side, or the shorter one's double
_NUM_SIZES = 5


class Thumbnail(NamedTuple):
    """An image as a data URI, with the outline of its mask as an SVG path; both empty where they cannot be read."""

    caption: str
    image: str
    outline: str
    width: int
    height: int


class Card(NamedTuple):
    """A finding with its pictures; `num_hidden` images more show it."""

    finding: Finding
    thumbnails: tuple[Thumbnail, ...]
    num_hidden: int


def run_audit(config: Config, directory: Path, *, split: Split | None = None) -> Audit:
    """Audits the data set that a config names, and its split; writes audit.json and audit.html into `directory`.

    Args:
      config: of it, the sections `data` and `split` count.
      directory: where to write; made if need be.
      split: the split of a run, instead of those that the config means.

    Raises:
      InputError: there is no such data set or it does not suit the settings, or `directory` cannot be written.
    """
    samples, chosen, problems = _samples_and_splits(config, split)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Reading images and masks", total=len(samples))
        inspections = inspection.inspect(samples, on_progress=lambda done: progress.update(task, completed=done))
    result = audit(inspections, chosen, config, problems=problems)
    first = next(iter(chosen.values()), None)
    write_report(result, directory, split=first, num_channels=config.data.num_channels)
    return result


def _samples_and_splits(config: Config, split: Split | None) -> tuple[list[Sample], dict[str, Split], list[Finding]]:
    """The samples, the splits of them by name, and what is wrong with either; no samples where none can be read."""
    try:
        samples = readers.read(config.data, as_they_stand=True)
    except readers.SettingError:
        raise
    except InputError as error:
        return [], {}, [Finding("data", str(error))]
    chosen, problems = ({"the run": split}, []) if split else splits_of(samples, config.split)
    return samples, chosen, problems


def write_report(result: Audit, directory: Path, *, split: Split | None, num_channels: int) -> None:
    """Writes audit.html and audit.json, the latter last, each whole or not at all.

    Args:
      result: the audit.
      directory: where to write; made if need be.
      split: the split whose parts the captions name.
      num_channels: 1 to show the images in gray, 3 in colour.

    Raises:
      InputError: `directory` cannot be written.
    """
    page = pages.within_limit(
        lambda size: render_html(result, _cards(result, split, num_channels=num_channels, picture_bytes=size))
    )
    files.write(directory / "audit.html", page)
    content = json.dumps(to_dict(result), indent=1, ensure_ascii=False, allow_nan=False)
    files.write(directory / "audit.json", content + "\n")


def to_dict(result: Audit) -> dict[str, Any]:
    """The content of audit.json: numbers of errors and warnings, the summary, and every finding."""
    return {
        "num_errors": result.num_errors,
        "num_warnings": len(result.findings) - result.num_errors,
        "summary": dict(result.summary),
        "findings": [
            {
                "kind": finding.kind,
                "severity": "error" if finding.is_error else "warning",
                "text": finding.text,
                "images": list(finding.images),
            }
            for finding in result.findings
        ],
    }


def render_html(result: Audit, cards: Sequence[Card]) -> str:
    """The audit as one page that needs no other file."""
    sections = [
        (TITLES[kind], [card for card in cards if card.finding.kind == kind], len(list(findings)))
        for kind, findings in itertools.groupby(result.findings, key=lambda finding: finding.kind)
    ]
    return pages.render(
        "audit.html",
        summary=result.summary,
        classes=list(result.summary["parts"]["all"]["classes"]),
        sizes=_sizes(result.summary["sizes"]),
        num_errors=result.num_errors,
        num_warnings=len(result.findings) - result.num_errors,
        sections=sections,
    )


def findings_table(result: Audit) -> Table:
    """The findings by kind, for the terminal: how many there are, and the first."""
    counts = result.summary["parts"]["all"]
    table = Table(
        title=f"{counts['num_images']} images, {counts['num_defective']} defective, {counts['num_groups']} groups"
    )
    for name in ("", "finding", "number", "the first"):
        table.add_column(name, justify="right" if name == "number" else "left")
    for kind, group in itertools.groupby(result.findings, key=lambda finding: finding.kind):
        findings = list(group)
        severity = Text("error", "red") if findings[0].is_error else Text("warning", "yellow")
        table.add_row(severity, TITLES[kind], str(len(findings)), findings[0].text)
    if not result.findings:
        table.add_row(Text("clean", "green"), "nothing found", "0", "")
    return table


def _cards(result: Audit, split: Split | None, *, num_channels: int, picture_bytes: int) -> list[Card]:
    """The first findings of every kind with their pictures."""
    samples = {each.sample.id: each.sample for each in result.inspections}
    part_of = {item: part for part in splits.PARTS for item in getattr(split, part)} if split else {}
    cards = []
    for _, findings in itertools.groupby(result.findings, key=lambda finding: finding.kind):
        for finding in itertools.islice(findings, _MAX_FINDINGS):
            shown = finding.images[:_MAX_THUMBNAILS]
            thumbnails = [
                _thumbnail(samples[item], part_of.get(item), num_channels=num_channels, picture_bytes=picture_bytes)
                for item in shown
            ]
            cards.append(Card(finding, tuple(thumbnails), len(finding.images) - len(shown)))
    return cards


def _thumbnail(sample: Sample, part: str | None, *, num_channels: int, picture_bytes: int) -> Thumbnail:
    caption = ", ".join([sample.id, *filter(None, [part]), *(sample.classes or [("good", "defective")[sample.label]])])
    try:
        full = images.read_image(sample.image, num_channels=num_channels)
    except InputError:  # a finding says so
        return Thumbnail(caption, "", "", 0, 0)
    height, width = _thumbnail_size(*full.shape[:2])
    pixels = np.broadcast_to(images.resize_image(full, height, width) * 255, (height, width, 3))
    picture = gallery.jpeg_uri(pixels, max_bytes=picture_bytes)
    try:
        mask = annotation.load_mask(sample, height=full.shape[0], width=full.shape[1])
        outline = gallery.outline(mask, height=height, width=width)
    except InputError:  # likewise
        outline = ""
    return Thumbnail(caption, picture, outline, width, height)


def _thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Strips are shown longer, so that something can be seen across them."""
    scale = min(1.0, max(_THUMBNAIL_PX / max(height, width), min(0.5 * _THUMBNAIL_PX / min(height, width), 1.0)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _sizes(sizes: Sequence[dict[str, int]]) -> str:
    """ "3 sizes of 100 to 120 x 200 px (height x width); the most frequent: 100 x 200 (17 images)"."""
    if not sizes:
        return "no image can be read"
    height, width = (_range([each[key] for each in sizes]) for key in ("height", "width"))
    frequent = ", ".join(f"{each['height']} x {each['width']} ({each['num_images']})" for each in sizes[:_NUM_SIZES])
    if len(sizes) == 1:
        return f"all of {height} x {width} px (height x width)"
    return f"{len(sizes)} sizes of {height} x {width} px (height x width); the most frequent: {frequent}"


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"
