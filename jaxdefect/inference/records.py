"""What is written about every image: a line of predictions.jsonl, and the tables made of these lines."""

import contextlib
import csv
import dataclasses
import errno
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdefect.inference import coco
from jaxdefect.inference.files import RESULT_FOLDERS
from jaxdefect.training import runs
from jaxdefect.types import Defect, InputError, Verdict

TABLE = "predictions"
_OF_THE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
DEFECTS = "defects"


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of the tables; paths of results are relative to the output folder.

    `seconds`: what the image took: decoding, then from its first pixels in a batch until its results were written.
    `error`: why there is no result, or None. `class_scores`: of an ensemble, by class; else None. `classes`: those
    called: of an ensemble from a score of 0.5 on, of a run with a classifier the ones of its accepted defects.
    `defects`: each with the fields of `types.Defect`: its box (top, left, height, width, in pixels of the image),
    rotated_box (x, y, length, width, degrees), length_px, area_px, mean and maximum of the map, class_name, confidence
    and vote (None where nothing names it), and its pixels as COCO's compressed run lengths. In the CSV `class_scores`
    and `classes` are JSON, and `defects` is their number. `verdict`: accept, inspect (by hand; only of a three-way
    calibration) or reject.
    """

    id: str
    path: str
    score: float | None = None
    threshold: float | None = None
    is_defective: bool | None = None
    map: str | None = None
    overlay: str | None = None
    seconds: float | None = None
    error: str | None = None
    class_scores: Mapping[str, float] | None = None
    classes: Sequence[str] = ()
    defects: Sequence[Mapping[str, Any]] | None = None
    height: int | None = None
    width: int | None = None
    verdict: Verdict | None = None


class Shard(NamedTuple):
    """Every `count`-th image, from the one with the number `index` on."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "i/n".

        Raises:
          InputError: not such a pair, or i is not in 0..n-1.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise InputError(f"shard {text!r}: must be i/n with i from 0 to n - 1, as 0/2 and 1/2 for two processes")
        return cls(int(index), int(count))


def table_name(shard: Shard | None) -> str:
    """The name of a run's tables without suffix: "predictions", or that of one shard's."""
    return TABLE if shard is None else f"{TABLE}-{shard.index}-of-{shard.count}"


def table_path(out: Path, shard: Shard | None = None) -> Path:
    """Where a run's lines stand."""
    return out / f"{table_name(shard)}.jsonl"


def describe(defect: Defect, *, height: int, width: int) -> dict[str, Any]:
    """A defect as a record has it; the image is height x width."""
    values = {field.name: getattr(defect, field.name) for field in dataclasses.fields(defect)}
    del values["label"], values["runs"]  # of a map that is not written
    return values | {
        "box": list(defect.box),
        "rotated_box": [round(number, 3) for number in defect.rotated_box],
        "length_px": round(defect.length_px, 3),
        "segmentation": coco.segmentation(defect, height=height, width=width),
    }


@contextlib.contextmanager
def exclusive(out: Path, shard: Shard | None = None) -> Iterator[None]:
    """Keeps other processes from writing the same tables.

    Raises:
      InputError: another one does; or `out` cannot be made.
    """
    make_folder(out)
    name = table_name(shard)
    refusal = f"{out}: another process writes {name}.jsonl there; stop it, or give another output folder"
    with runs.locked(out / f".{name}.lock", refusal=refusal):
        yield


def read(path: Path, *, may_be_cut: bool = False) -> Iterator[Record]:
    """The records of a table, one after the other.

    Args:
      path: of the table.
      may_be_cut: a last line that a crash left half written, after whole ones, is none.

    Raises:
      InputError: the file cannot be read, or is not a table of predictions.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file):
                if may_be_cut and number > 0 and not line.endswith("\n"):
                    return
                yield _record(json.loads(line))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give another output folder") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a table of predictions; move it away or give another output folder") from error


def _record(values: dict[str, Any]) -> Record:
    record = Record(**values)
    for name in ("id", "path", "map", "overlay"):
        value = getattr(record, name)
        if not isinstance(value, str) and (value is not None or name == "id"):
            raise TypeError(f"{name} = {value!r}")
    return record


def line(record: Record) -> str:
    """The record as a line of JSON."""
    return json.dumps(dataclasses.asdict(record)) + "\n"


@contextlib.contextmanager
def table(out: Path, shard: Shard | None = None) -> Iterator[Callable[[Record], None]]:
    """A function that adds a record to the table, which appears at the end, with its CSV and its COCO file.

    An interrupted run leaves what it has as predictions.jsonl.partial.
    """
    with whole_file(table_path(out, shard)) as path, open(path, "w", encoding="utf-8") as file:

        def add(record: Record) -> None:
            file.write(line(record))

        yield add
    publish(out, shard)


def publish(out: Path, shard: Shard | None = None) -> None:
    """Writes what is made of a table: the CSV, and the defects as COCO's annotations.

    Raises:
      InputError: the table is none, or the files cannot be written.
    """
    source, suffix = table_path(out, shard), table_name(shard).removeprefix(TABLE)
    with (
        whole_file(source.with_suffix(".csv")) as path,
        # A file name that is not valid UTF-8 is written back byte by byte.
        open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Record)])
        writer.writeheader()
        for record in read(source):
            values = dataclasses.asdict(record)
            writer.writerow({name: _cell(name, value) for name, value in values.items()})
    with (
        whole_file(out / f"{DEFECTS}{suffix}.json") as path,
        open(path, "w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        coco.write(lambda: read(source), file)


def merge(out: Path) -> int:
    """Joins the tables of all shards in `out` to one, in the order that one process would have written.

    Returns:
      How many images they hold.

    Raises:
      InputError: there are no shards, some are missing, they are of several counts, of several sets of images, or
        judged by several thresholds.
    """
    paths = sorted(out.glob(f"{TABLE}-*-of-*.jsonl"))
    if not paths:
        raise InputError(f"{out}: no tables of shards in it; judge the images with --shard=0/n to --shard=n-1/n first")
    counts = {path.stem.rpartition("-of-")[2] for path in paths}
    if len(counts) != 1:
        found = ", ".join(path.name for path in paths)
        raise InputError(f"{out}: the tables of one set of shards are wanted, there are: {found}; remove the others")
    shards = [Shard(index, int(*counts)) for index in range(int(*counts))]
    missing = [table_path(out, shard).name for shard in shards if not table_path(out, shard).exists()]
    if missing:
        raise InputError(f"{out}: {', '.join(missing)} missing; let these shards finish first")
    dealt = [(record, shard.index) for shard in shards for record in read(table_path(out, shard))]
    dealt.sort(key=lambda item: item[0].id)
    records = [record for record, _ in dealt]
    # Images are dealt out in the order of their ids, so tables of the same images take turns.
    takes_turns = all(index == place % len(shards) for place, (_, index) in enumerate(dealt))
    thresholds = sorted({record.threshold for record in records if record.threshold is not None})
    if len(thresholds) > 1:
        raise InputError(
            f"{out}: the shards were judged by different thresholds, e.g. {thresholds[0]:.6g} and {thresholds[-1]:.6g};"
            " judge all shards anew by one calibration"
        )
    if not takes_turns or any(one.id == other.id for one, other in itertools.pairwise(records)):
        raise InputError(
            f"{out}: the shards' tables are not of the same set of images (another --images, or files came or went in "
            "between); judge all shards anew"
        )
    with exclusive(out), table(out) as add:
        for record in records:
            add(record)
    return len(records)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there moves to `path` at the end, so that `path` is never half a file."""
    make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def make_folder(folder: Path) -> None:
    """Raises `InputError` where the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


class UnusableNameError(InputError):
    """An image's name gives none for its results: too long, or what another has as a folder."""


@contextlib.contextmanager
def results_of(image_id: str, out: Path) -> Iterator[None]:
    """Tells an image's name that cannot be used from an output folder that cannot.

    Raises:
      UnusableNameError: an image's own result cannot be written for its name.
    """
    try:
        yield
    except InputError as error:
        folders = [out / name for name in RESULT_FOLDERS]
        is_name = isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_NAME
        if not is_name or any(folder.exists() and not folder.is_dir() for folder in folders):
            raise
        raise UnusableNameError(f"{image_id}: no file can have the name of its results; rename the image") from error


def cannot_write(path: Path, error: OSError) -> InputError:
    """What to tell the user."""
    return InputError(
        f"{path}: cannot be written ({error.strerror}); check the space and the permissions there, or give another "
        "output folder"
    )


def _cell(name: str, value: Any) -> Any:
    """A record's value as the CSV has it."""
    if value is None:
        return ""
    if name in ("class_scores", "classes"):
        return json.dumps(value)
    if name == "defects":
        return len(value)
    return int(value) if isinstance(value, bool) else value
