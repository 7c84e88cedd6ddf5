"""Human level: how far annotators of the same images agree, and where a trained model stands on the same scale.

An annotator is a data set of the config's layout in a folder of their own; images are matched by id. The model is one
rater more, which never votes on the consensus.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from jaxdefect.config import DataConfig
from jaxdefect.data import annotation, images, readers
from jaxdefect.inference import exported
from jaxdefect.inference.predictor import Predictor
from jaxdefect.metrics import agreement
from jaxdefect.metrics.counts import count_figures, hits_and_misses
from jaxdefect.reports import files
from jaxdefect.studies import tables
from jaxdefect.training import runs
from jaxdefect.types import InputError, Sample

_MODEL = "model"


@dataclasses.dataclass(frozen=True)
class Ratings:
    """What R raters say of N images, the annotators first.

    `labels` [R, N] bool. Pixel counts [3] (hits, false alarms, misses) over the `num_drawn` images that every annotator
    who calls them defective has drawn: `pairs` by rater numbers; `to_consensus` and `to_others` by rater.
    """

    names: tuple[str, ...]
    num_annotators: int
    ids: tuple[str, ...]
    labels: np.ndarray
    num_drawn: int
    pairs: dict[tuple[int, int], np.ndarray]
    to_consensus: list[np.ndarray]
    to_others: list[np.ndarray]


def compare(config: DataConfig, roots: Sequence[Path], *, workdir: Path | None, out: Path) -> dict[str, Any]:
    """Writes agreement.json and agreement.md into `out` and returns the content of the former.

    Args:
      config: how each annotator's data set is read; its root is not used.
      roots: a folder per annotator, two or more.
      workdir: a trained run to set beside them, at its stored thresholds; None: people only.
      out: where the files go.

    Raises:
      InputError: fewer than two annotators, images that not all of them have, data that cannot be read, no such run, or
        one without thresholds, or an annotator with its name.
    """
    names = _names(roots)
    if workdir is not None and _MODEL in names:
        raise InputError(
            f"--annotators: {roots[names.index(_MODEL)]} has the name that the run has in the tables; rename the folder"
        )
    read = [_read(config, name, root) for name, root in zip(names, roots, strict=True)]
    _check_same_images(names, read)
    predictor = None if workdir is None else Predictor.load(workdir)
    if predictor is not None and predictor.calibration is None:
        raise InputError(f"--workdir={workdir}: has no thresholds yet; run launch.evaluate --workdir={workdir} first")
    content = summarize(rate(names, read, predictor))
    if workdir is not None:
        content["model"] = _known_images(read[0], workdir)
    files.write(out / "agreement.json", json.dumps(content, indent=2) + "\n")
    header, rows = table_rows(content)
    note = f"\n{content['model']['note']}\n" if "model" in content else ""
    files.write(out / "agreement.md", tables.markdown(header, rows) + note)
    return content


def rate(names: Sequence[str], read: Sequence[dict[str, Sample]], predictor: Predictor | None) -> Ratings:
    """Collects all ratings, one image in memory at a time.

    Raises:
      InputError: an image or mask cannot be read.
    """
    ids, num_annotators = sorted(read[0]), len(names)
    labels = np.array([[samples[id].label for id in ids] for samples in read], bool)
    num_raters = num_annotators + (predictor is not None)
    pairs = {pair: np.zeros(3, np.int64) for pair in itertools.combinations(range(num_raters), 2)}
    to_consensus, to_others = ([np.zeros(3, np.int64) for _ in range(num_raters)] for _ in range(2))
    decisions, num_drawn = [], 0
    for id in ids:
        samples = [by_id[id] for by_id in read]
        masks = _masks(samples)
        if predictor is not None:
            num_channels = predictor.config.data.num_channels
            prediction = predictor(images.read_image(samples[0].image, num_channels=num_channels))
            decisions.append(prediction.is_defective)
        if masks is None:
            continue
        num_drawn += 1
        if predictor is not None and predictor.calibration is not None:
            is_defect = prediction.probability >= predictor.calibration.pixel_threshold
            masks = np.concatenate([masks, is_defect[None]])
        for (first, second), counts in pairs.items():
            counts += hits_and_misses(masks[second], masks[first])
        consensus = agreement.majority(masks[:num_annotators])
        for rater, mask in enumerate(masks):
            others = np.delete(masks[:num_annotators], rater, axis=0) if rater < num_annotators else masks[:-1]
            to_consensus[rater] += hits_and_misses(consensus, mask)
            to_others[rater] += hits_and_misses(agreement.majority(others), mask)
    if predictor is not None:
        names, labels = (*names, _MODEL), np.concatenate([labels, np.array([decisions], bool)])
    return Ratings(tuple(names), num_annotators, tuple(ids), labels, num_drawn, pairs, to_consensus, to_others)


def summarize(ratings: Ratings) -> dict[str, Any]:
    """The content of agreement.json: kappas, each rater against consensus and others, images in dispute.

    Against the consensus an annotator is also judged by their own vote; "others" leaves it out, and for the model both
    are the same.
    """
    labels, count = ratings.labels, ratings.num_annotators
    people = labels[:count]
    consensus = agreement.majority(people)
    raters = {}
    for rater, name in enumerate(ratings.names):
        others = agreement.majority(np.delete(people, rater, axis=0)) if rater < count else consensus
        raters[name] = {
            "images_against_consensus": _figures(hits_and_misses(consensus, labels[rater])),
            "images_against_others": _figures(hits_and_misses(others, labels[rater])),
            "pixels_against_consensus": _figures(ratings.to_consensus[rater]),
            "pixels_against_others": _figures(ratings.to_others[rater]),
        }
    disputed = np.flatnonzero(people.any(axis=0) & ~people.all(axis=0))
    return {
        "num_images": len(ratings.ids),
        "num_images_with_masks_of_all": ratings.num_drawn,
        "num_defective_by_consensus": int(consensus.sum()),
        "fleiss_kappa": agreement.fleiss_kappa(people),
        "pairs": [
            {
                "raters": [ratings.names[first], ratings.names[second]],
                "cohen_kappa": agreement.cohen_kappa(labels[first], labels[second]),
                "pixel_iou": count_figures(counts).iou,
            }
            for (first, second), counts in ratings.pairs.items()
        ],
        "raters": raters,
        "disputed_images": {
            ratings.ids[i]: {name: int(labels[rater, i]) for rater, name in enumerate(ratings.names)} for i in disputed
        },
    }


def table_rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a rater each, of what a person wants to see first."""
    header = ["rater"]
    kinds = {"images_against_others": "images vs others", "pixels_against_others": "pixels vs others"}
    kinds |= {"images_against_consensus": "images vs consensus", "pixels_against_consensus": "pixels vs consensus"}
    for title in kinds.values():
        header += [f"{title}: P", "R"]
    rows = []
    for name, figures in content["raters"].items():
        cells = [figures[kind][figure] for kind in kinds for figure in ("precision", "recall")]
        rows.append([name, *(tables.mean_and_std(cell, None, "percent") for cell in cells)])
    return header, rows


def table(content: dict[str, Any]) -> Table:
    """The same for the terminal, kappas and overlaps below."""
    header, rows = table_rows(content)
    pairs = [
        f"{' / '.join(pair['raters'])}: Cohen's kappa {_number(pair['cohen_kappa'])}, IoU {_number(pair['pixel_iou'])}"
        for pair in content["pairs"]
    ]
    kappa = f"Fleiss' kappa of the annotators {_number(content['fleiss_kappa'])}"
    disputed = f"{len(content['disputed_images'])} of {content['num_images']} images in dispute (agreement.json)"
    notes = [content["model"]["note"]] if "model" in content else []
    caption = "\n".join([kappa, *pairs, disputed, *notes])
    return tables.terminal(header, rows, title="Precision and recall in %", caption=caption)


def _number(value: float | None) -> str:
    return tables.UNKNOWN if value is None else f"{value:.3f}"


def _figures(counts: np.ndarray) -> dict[str, float | None]:
    return count_figures(counts)._asdict()


def _masks(samples: Sequence[Sample]) -> np.ndarray | None:
    """[A, H, W] bool; None where someone calls the image defective and has not drawn where."""
    if any(sample.label and sample.mask is None for sample in samples):
        return None
    height, width = images.image_size(samples[0].image)
    for sample in samples[1:]:
        if (size := images.image_size(sample.image)) != (height, width):
            raise InputError(
                f"{sample.image} is {size[0]} x {size[1]} (height x width) but {samples[0].image} is {height} x "
                f"{width}; annotators must mark the same images at the same size"
            )
    return np.stack([annotation.load_mask(sample, height=height, width=width) >= 0.5 for sample in samples])


def _known_images(samples: Collection[str], workdir: Path) -> dict[str, Any]:
    """How many of the images, by their ids, a run was trained and validated on, and what that means for its figures."""
    if exported.find(workdir) is not None:
        note = "An export does not say which images its network has learnt from; on those it looks better than it is."
        return {"num_trained": None, "num_validated": None, "note": note}
    split = runs.load(workdir).split
    num_trained, num_validated = (len(set(part) & set(samples)) for part in (split.train, split.validation))
    note = f"No image of these has the name of one that {workdir} was trained or validated on."
    if num_trained or num_validated:
        note = (
            f"Of the {len(samples)} images {num_trained} are among those that {workdir} was trained on, and "
            f"{num_validated} among those that it was validated on; on these the model looks better than it is."
        )
    return {"num_trained": num_trained, "num_validated": num_validated, "note": note}


def _names(roots: Sequence[Path]) -> list[str]:
    if len(roots) < 2:
        raise InputError("--annotators: two or more folders are wanted, as --annotators=anna,ben")
    short = [root.name for root in roots]
    names = short if len(set(short)) == len(short) else [str(root) for root in roots]
    if len(set(names)) < len(names):
        raise InputError(f"--annotators={','.join(names)}: one folder is given twice")
    return names


def _read(config: DataConfig, name: str, root: Path) -> dict[str, Sample]:
    try:
        return {sample.id: sample for sample in readers.read(dataclasses.replace(config, root=str(root)))}
    except InputError as error:
        raise InputError(f"--annotators, {name}: {error}") from error


def _check_same_images(names: Sequence[str], read: Sequence[dict[str, Sample]]) -> None:
    for name, samples in zip(names[1:], read[1:], strict=True):
        if differing := sorted(samples.keys() ^ read[0].keys()):
            raise InputError(
                f"annotators {names[0]} and {name}: {len(differing)} images are rated by one of them only, e.g. "
                f"{differing[0]!r}; all must rate the same images (a good one has an entry too)"
            )
