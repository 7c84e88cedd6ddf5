"""Which image-labelled positives to draw masks for next: those that trained networks are least at one about.

Two signs are ranked apart and their ranks averaged: how far runs that differ in their seed disagree about the pixels,
and how far each network's map contradicts its own decision.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy import stats

from jaxdefect.data import pipeline, readers, splits
from jaxdefect.inference.judgement import Judgement
from jaxdefect.inference.predictor import Predictor
from jaxdefect.reports import files
from jaxdefect.studies import tables
from jaxdefect.training import runs
from jaxdefect.types import InputError, Split

_BATCH = 4
_NUM_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A training positive without a mask.

    `disagreement`: the area that the runs dispute, in pixels of the map: the sum of the standard deviation between
    them. `conflict` in [0, 1]: mean over the runs of |score - largest probability in the map|. `rank`: the mean of its
    places by either, 1 for the most promising.
    """

    id: str
    disagreement: float
    conflict: float
    rank: float


def rank_runs(workdirs: Sequence[Path], *, num_masks: int, out: Path) -> list[Candidate]:
    """Ranks the candidates, the most promising first; writes next_masks.csv, and split.json with the first ones masked.

    split.json serves to train on once their masks are drawn: --config.split.kind=manifest --config.split.path=FILE.

    Args:
      workdirs: runs of one split, of different seeds; with a single one only the conflict counts.
      num_masks: how many of the first get a mask in split.json.
      out: where both files go.

    Raises:
      InputError: not runs, not of one split, or one twice; no positive without a mask; a map is missing; an image is
        unreadable.
    """
    if not workdirs:
        raise InputError("--workdirs: at least one trained run is wanted, as --workdirs=runs/seed_0,runs/seed_1")
    places = [workdir.resolve() for workdir in workdirs]
    if repeated := [workdir for i, workdir in enumerate(workdirs) if places[i] in places[:i]]:
        raise InputError(f"--workdirs: {repeated[0]} is given twice; runs of different seeds are wanted")
    try:
        split = _common_split([runs.load(workdir) for workdir in workdirs])
    except InputError as error:
        raise InputError(f"--workdirs: {str(error).removeprefix('--workdir=')}") from error
    predictors = [Predictor.load(workdir, is_calibrating=True).on_all_devices() for workdir in workdirs]
    by_id = {sample.id: sample for sample in readers.read(predictors[0].config.data)}
    masked = set(split.masked)
    unmasked = [by_id[id] for id in split.train if id in by_id and by_id[id].label and id not in masked]
    if not unmasked:
        raise InputError(f"--workdirs={workdirs[0]}: every training positive has its mask already; nothing to rank")
    images = (pipeline.load(sample, predictors[0].config.data)[0] for sample in unmasked)
    streams = zip(predictors, itertools.tee(images, len(predictors)), strict=True)
    judged = [predictor.judge_each(stream, batch_size=_BATCH) for predictor, stream in streams]
    signs = [_signs(of_image) for of_image in zip(*judged, strict=True)]
    ranked = rank([sample.id for sample in unmasked], np.array(signs))
    rows = [(one.rank, one.id, one.disagreement, one.conflict) for one in ranked]
    files.write(out / "next_masks.csv", files.to_csv(("rank", "id", "disagreement", "conflict"), rows))
    added = tuple(one.id for one in ranked[:num_masks])
    source = f"{split.source}, {len(added)} masks added by rank"
    splits.save(dataclasses.replace(split, masked=(*split.masked, *added), source=source), out / "split.json")
    return ranked


def rank(ids: Sequence[str], signs: np.ndarray) -> list[Candidate]:
    """The candidates by the mean of their places in either column, [N, 2] of (disagreement, conflict); ties by id."""
    places = stats.rankdata(-signs, axis=0)  # equal values share their mean place, so a sign that says nothing is none
    candidates = [
        Candidate(id, float(disagreement), float(conflict), float(place))
        for id, (disagreement, conflict), place in zip(ids, signs, places.mean(axis=1), strict=True)
    ]
    return sorted(candidates, key=lambda one: (one.rank, one.id))


def table(ranked: Sequence[Candidate]) -> Table:
    """The first candidates for the terminal."""
    header = ("image", "rank", "disputed area [px of the map]", "map against decision")
    rows = [(one.id, f"{one.rank:g}", f"{one.disagreement:.1f}", f"{one.conflict:.3f}") for one in ranked[:_NUM_SHOWN]]
    caption = f"{min(len(ranked), _NUM_SHOWN)} of {len(ranked)} positives without a mask"
    return tables.terminal(header, rows, title="Masks to draw next", caption=caption)


def _signs(judged: Sequence[Judgement]) -> tuple[float, float]:
    """Disagreement and conflict of one image, judged by each run."""
    maps = np.stack([one.probability for one in judged]).astype(np.float64)
    conflicts = [abs(one.score - float(one.probability.max())) for one in judged]
    return float(maps.std(axis=0).sum()), float(np.mean(conflicts))


def _common_split(opened: Sequence[runs.Run]) -> Split:
    first, *others = opened
    for other in others:
        if other.config.data != first.config.data or _ids(other.split) != _ids(first.split):
            raise InputError(
                f"{first.workdir} and {other.workdir} differ in config.data or in their splits; runs that differ in "
                "config.training.seed only are wanted"
            )
    return first.split


def _ids(split: Split) -> Split:
    return dataclasses.replace(split, source="")
