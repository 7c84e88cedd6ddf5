"""What a run is calibrated on: a part of its split, a list of ids, another data set, or scores made elsewhere."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdefect.config import DataConfig
from jaxdefect.data import duplicates, pipeline, readers
from jaxdefect.inference.calibration import CalibrationImages, tiling_from_json
from jaxdefect.inference.tiles import Tiling
from jaxdefect.training import runs
from jaxdefect.types import InputError, Sample, Split

PARTS = ("validation", "train", "test")
_COLUMNS = ("id", "label", "score")


class Selection(NamedTuple):
    """Images to calibrate on.

    `source`: what they are. `samples`: of the training images, with the masks that the run was allowed to see only.
    `num_trained`: how many of them the network was trained on. `notes`: what a reader of the calibration must know.
    """

    source: str
    samples: Sequence[Sample]
    num_trained: int
    notes: tuple[str, ...] = ()


def whole_images(data: DataConfig) -> DataConfig:
    """Thresholds are chosen on whole images, whatever the network was trained on."""
    return dataclasses.replace(data, fit="resize")


def default_selection(samples: Sequence[Sample], split: Split, data: DataConfig) -> Selection:
    """The validation images or, where those hold no defect to choose by, the training images."""
    labels = {sample.id: sample.label for sample in samples}
    part = "validation" if any(labels.get(id) for id in split.validation) else "train"
    return _part(part, samples, split, data)


def select(run: runs.Run, samples: Sequence[Sample], on: str) -> Selection:
    """The images that `on` names.

    Args:
      run: that is calibrated.
      samples: of its data set.
      on: "validation", "train" or "test"; a folder: a data set of the run's layout, all of it; a file: ids of the
        run's data set, one a line.

    Raises:
      InputError: an empty part, no such folder or file, or an id that the data set lacks.
    """
    data = run.config.data
    if on in PARTS:
        selection = _part(on, samples, run.split, data)
        if not selection.samples:
            filled = ", ".join(name for name in PARTS if getattr(run.split, name))
            raise InputError(
                f"--on={on}: the run's split has no {on} images (it has {filled}). Give a folder of labelled images "
                "that the network has not seen, a file with ids, or --scores_csv with out-of-fold scores"
            )
        return _with_selection_note(selection, run)
    if Path(on).is_dir():
        if Path(on).resolve() != Path(data.root).resolve():
            elsewhere = readers.read(dataclasses.replace(data, root=on))
            copies = _copied(samples, elsewhere)
            return _with_notes(Selection(f"all images in {on}", elsewhere, 0), run.split, ids=copies)
        chosen, source = list(samples), f"all images in {on}"
    elif Path(on).is_file():
        chosen, source = _by_ids(_read_ids(Path(on)), samples, where=on), f"the images listed in {on}"
    else:
        raise InputError(
            f"--on={on}: must be {', '.join(PARTS)}, a folder with a data set, or a file with an id a line"
        )
    return _with_selection_note(_with_notes(Selection(source, chosen, 0), run.split), run)


def _with_selection_note(selection: Selection, run: runs.Run) -> Selection:
    """Says whether the checkpoint was selected on some of the images, however they were named."""
    num_selected = len({sample.id for sample in selection.samples} & set(run.split.validation))
    if run.config.training.select != "best" or not num_selected:
        return selection
    note = (
        f"The checkpoint was selected on {num_selected} of the {len(selection.samples)} calibration images, so new "
        "ones it may judge a little worse; a promise holds only so far as it does not."
    )
    return selection._replace(notes=(*selection.notes, note))


def _part(part: str, samples: Sequence[Sample], split: Split, data: DataConfig) -> Selection:
    if part == "train":
        train = pipeline.training_samples(samples, split, whole_images(data))
        return _with_notes(Selection(part, train, 0), split)
    return _with_notes(Selection(part, _by_ids(getattr(split, part), samples, where=f"the {part} part"), 0), split)


def _copied(samples: Sequence[Sample], elsewhere: Sequence[Sample]) -> set[str]:
    """The ids of the run's images that a data set elsewhere holds too, byte for byte."""
    theirs = set(map(id, elsewhere))  # not the paths: the folder may be a part of the run's own
    alike = duplicates.identical_files([*samples, *elsewhere])
    both = [members for members in alike if any(id(sample) in theirs for sample in members)]
    return {sample.id for members in both for sample in members if id(sample) not in theirs}


def _with_notes(selection: Selection, split: Split, *, ids: set[str] | None = None) -> Selection:
    """Says which of the images the network has been trained on or will be tested on, and which belong together.

    `ids`: those of the images in the split; None: they have the same.
    """
    ids = {sample.id for sample in selection.samples} if ids is None else ids
    num_trained, num_tested, count = len(ids & set(split.train)), len(ids & set(split.test)), len(selection.samples)
    notes = item_notes([sample.group for sample in selection.samples if sample.label])
    if num_trained:
        notes.append(
            f"The network was trained on {num_trained} of the {count} calibration images: it scores them better "
            "than new ones, of which it may miss more and stop more good ones."
        )
    if num_tested:
        notes.append(f"{num_tested} of the {count} calibration images are test images: they test nothing any more.")
    return selection._replace(num_trained=num_trained, notes=(*selection.notes, *notes))


def item_notes(groups: Sequence[str]) -> list[str]:
    """What to say where defective images, of these groups, share an item."""
    if len(set(groups)) == len(groups):
        return []
    return [
        f"The {len(groups)} defective calibration images belong to no more than {len(set(groups))} items (groups): "
        "what is promised counts images of one item as independent, which they may not be."
    ]


def _by_ids(ids: Sequence[str], samples: Sequence[Sample], *, where: str) -> list[Sample]:
    by_id = {sample.id: sample for sample in samples}
    missing = [id for id in ids if id not in by_id]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of {len(ids)} images are not in the run's data set, e.g. {missing[0]!r}; ids are "
            "those of the run's split.json"
        )
    return [by_id[id] for id in ids]


def _read_ids(path: Path) -> list[str]:
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of ids, one a line ({error})") from error
    if not ids:
        raise InputError(f"{path}: empty; a file with the id of an image on every line is wanted")
    if len(set(ids)) < len(ids):
        raise InputError(f"{path}: {next(id for id in ids if ids.count(id) > 1)!r} stands there twice")
    return ids


def read_scores(
    paths: Sequence[Path], *, split: Split, folds: Sequence[int] | None = None, seed: int | None = None
) -> tuple[CalibrationImages, str, tuple[str, ...]]:
    """Out-of-fold scores: of images that the networks which scored them were not trained on.

    A file is one that launch.crossvalidate writes (id, fold, seed, label, score) or an evaluation's scores.csv (id,
    label, score; raw_score where scores are calibrated). Images that the run tests are left out, so that its test stays
    one.

    Args:
      paths: of the files.
      split: of the run that is calibrated.
      folds: those to use; None: all.
      seed: the one to use; None: all there are, an image only once.

    Returns:
      The images, the source in words, and notes.

    Raises:
      InputError: a file that is none of these, an image that is there twice, or none left.
    """
    rows = [row for path in paths for row in _read_rows(path)]
    where = ", ".join(map(str, paths))
    for flag, name, wanted in (("folds", "fold", folds), ("seed", "seed", None if seed is None else [seed])):
        if wanted is None:
            continue
        if any(name not in row for row in rows):
            raise InputError(f"{where}: has no column {name!r}, as launch.crossvalidate writes it; leave --{flag} out")
        if absent := sorted(set(wanted) - {int(row[name]) for row in rows}):
            raise InputError(f"{where}: no row of {name} {absent[0]}")
        rows = [row for row in rows if int(row[name]) in wanted]
    tested = set(split.test)
    kept = [row for row in rows if row["id"] not in tested]
    if not kept:
        raise InputError(f"{where}: all {len(rows)} images there are test images of this run; use those of other folds")
    ids = tuple(row["id"] for row in kept)
    if len(set(ids)) < len(ids):
        repeated = next(id for id in ids if ids.count(id) > 1)
        raise InputError(f"{where}: {repeated!r} stands there twice; choose one seed with --seed=0")
    images = CalibrationImages(
        ids,
        tuple(int(row["label"]) for row in kept),
        tuple(float(row.get("raw_score") or row["score"]) for row in kept),
    )
    used = sorted({int(row["fold"]) for row in kept if "fold" in row})
    source = f"out-of-fold scores in {where}" + (f", folds {', '.join(map(str, used))}" if used else "")
    notes = (
        "The scores come from other networks of the same recipe, since this one was trained on those images: what is "
        "promised holds so far as the networks score alike.",
    )
    if num_left_out := len(rows) - len(kept):
        notes = (*notes, f"{num_left_out} images that this run tests were left out.")
    return images, source, notes


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # as Excel writes it
            rows = list(csv.DictReader(file, strict=True))
        for row in rows:
            scores = [row["score"], row.get("raw_score") or row["score"]]
            if not row["id"]:
                raise ValueError("a row without an id")
            if int(row["label"]) not in (0, 1) or not all(0 <= float(score) <= 1 for score in scores):
                raise ValueError(f"label {row['label']}, score {' and '.join(scores)} of {row['id']!r}")
            for name in ("fold", "seed"):
                int(row.get(name, 0))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"--scores_csv={path}: not a table of scores with the columns {', '.join(_COLUMNS)} "
            f"({type(error).__name__}: {error})"
        ) from error
    if not rows:
        raise InputError(f"--scores_csv={path}: has no rows")
    if _evaluation_beside(path).get("split") == "train":
        raise InputError(
            f"--scores_csv={path}: scores of images that their network was trained on; give those of an evaluation on "
            "test images"
        )
    return rows


def tiling_of_scores(paths: Sequence[Path]) -> Tiling | None:
    """The tiles that the scores in evaluations' scores.csv were made in.

    Raises:
      InputError: they differ.
    """
    first, *others = [_evaluation_beside(path).get("tiling") for path in paths]
    if any(other != first for other in others):
        raise InputError(
            f"--scores_csv={','.join(map(str, paths))}: of images cut into different tiles, or only some; an "
            "evaluation of before tiles were noted has to be made anew"
        )
    if first is None:
        return None
    try:
        return tiling_from_json(first)
    except (TypeError, ValueError) as error:
        raise InputError(f"--scores_csv={paths[0]}: beside it is a metrics.json of tiling {first!r}") from error


def _evaluation_beside(scores: Path) -> dict[str, Any]:
    """The metrics.json of the evaluation that wrote these scores; empty where there is none, or it is another's."""
    try:
        content = json.loads(scores.with_name("metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
