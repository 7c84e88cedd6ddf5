"""Runs a predictor over many image files: decoding, computing and writing at the same time, tables at the end."""

import collections
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import jax
import numpy as np

from jaxdefect import overlay
from jaxdefect.data.images import read_image, write_image, write_probability
from jaxdefect.inference import ensemble
from jaxdefect.inference.files import MAP_FOLDER, OVERLAY_FOLDER, result_path
from jaxdefect.inference.predictor import Judgement, Predictor, Prepared, Running
from jaxdefect.types import Defect, InputError, Verdict

MapFormat = Literal["png16", "npy", "tiff"]
MAP_SUFFIXES: Mapping[MapFormat, str] = {"png16": ".png", "npy": ".npy", "tiff": ".tiff"}
TABLE_CSV, TABLE_JSONL = "predictions.csv", "predictions.jsonl"

_MAX_THREADS = 16
_JPEG_MAX_SIDE_PX = 65500  # libjpeg's limit
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of the tables; paths of results are relative to the output folder.

    `seconds`: decoding plus the image's share of its batch's computation. `error`: why there is no result, or None.
    `class_scores`: of an ensemble, by class; else None. `classes`: those called: of an ensemble from a score of 0.5 on,
    of a run with a classifier the ones of its accepted defects. `defects`: these, each with its box (top, left, height,
    width, in pixels of the image), area_px, mean and maximum of the map, class_name and confidence; None without a
    classifier. In the CSV the first two are JSON, and the last is the number of defects. `verdict`: accept, inspect (by
    hand; only of a three-way calibration) or reject.
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
    verdict: Verdict | None = None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run over many images came to; `seconds` from the first image to the last, without the compilation."""

    num_images: int
    num_defective: int
    num_errors: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Decoded:
    id: str
    path: Path
    seconds: float
    prepared: Prepared | None = None
    backdrop: np.ndarray | None = None  # the image's own size [H, W, 1] uint8, for the overlay
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class _Running:
    batch: list[_Decoded]
    outputs: Running | None  # None: no image of the batch could be read
    since: float


@dataclasses.dataclass(frozen=True)
class _Scored:
    decoded: _Decoded
    judgement: Judgement | None = None


def predict_files(
    predictor: Predictor,
    images: Mapping[str, Path],
    *,
    out: Path,
    batch_size: int,
    map_format: MapFormat = "png16",
    on_record: Callable[[Record], None] | None = None,
) -> Summary:
    """Scores image files and writes maps, overlays, predictions.csv and predictions.jsonl.

    A file that cannot be read gets a line with its error and the rest goes on. Every file appears whole or not at
    all; an interrupted run leaves its tables so far as predictions.*.partial. Maps and overlays that an earlier run
    listed in the same folder's predictions.jsonl and that this run did not write are removed.

    Args:
      predictor: gives scores and maps.
      images: paths by id, as `jaxdefect.inference.files.find_images` returns them.
      out: the folder for the results, made where it is missing.
      batch_size: images per computation.
      map_format: "png16" (65535 for 1), "npy" or "tiff" (both float32).
      on_record: called with each record, in order.

    Raises:
      InputError: `out` cannot be written or holds another predictions.jsonl, or the batch does not fit in memory.
    """
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: must be 1 or more")
    stale = _earlier_results(out)
    batch_size = min(batch_size, len(images))
    _compile(predictor, batch_size)
    num_defective = num_errors = 0
    started = time.perf_counter()
    with _tables(out) as add_to_tables:
        for record in _records(predictor, images, out=out, batch_size=batch_size, map_format=map_format):
            add_to_tables(record)
            stale -= {name for name in (record.map, record.overlay) if name is not None}
            num_defective += bool(record.is_defective)
            num_errors += record.error is not None
            if on_record is not None:
                on_record(record)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    return Summary(len(images), num_defective, num_errors, time.perf_counter() - started)


def _records(
    predictor: Predictor, images: Mapping[str, Path], *, out: Path, batch_size: int, map_format: MapFormat
) -> Iterator[Record]:
    """The records in the order of `images`; at most a few batches are in memory."""
    num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as pool:
        decoded = _ahead(pool, lambda item: _decode(predictor, *item), images.items(), num_ahead=2 * batch_size)
        scored = _score(predictor, decoded, batch_size=batch_size)
        yield from _ahead(
            pool,
            lambda item: _write(predictor, item, out=out, map_format=map_format),
            scored,
            num_ahead=2 * num_threads,
        )


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[_T], _U], items: Iterable[_T], *, num_ahead: int
) -> Iterator[_U]:
    """`map(function, items)` in order, computed by the pool up to `num_ahead` items before they are asked for."""
    waiting: collections.deque[Future[_U]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode(predictor: Predictor, image_id: str, path: Path) -> _Decoded:
    started = time.perf_counter()
    try:
        image = read_image(path, num_channels=predictor.config.data.num_channels)
    except InputError as error:
        return _Decoded(image_id, path, seconds=time.perf_counter() - started, error=str(error))
    prepared, backdrop = predictor.prepare(image), overlay.to_gray_uint8(image)[..., None]
    return _Decoded(image_id, path, seconds=time.perf_counter() - started, prepared=prepared, backdrop=backdrop)


def _score(predictor: Predictor, decoded: Iterable[_Decoded], *, batch_size: int) -> Iterator[_Scored]:
    last_collected = 0.0
    for running in _one_behind(_dispatch(predictor, decoded, batch_size=batch_size)):
        results = _collect(predictor, running)
        now = time.perf_counter()
        share = (now - max(running.since, last_collected)) / len(results)
        last_collected = now
        for item in results:
            seconds = item.decoded.seconds + share
            yield dataclasses.replace(item, decoded=dataclasses.replace(item.decoded, seconds=seconds))


def _dispatch(predictor: Predictor, decoded: Iterable[_Decoded], *, batch_size: int) -> Iterator[_Running]:
    remaining = iter(decoded)
    while batch := list(itertools.islice(remaining, batch_size)):
        since = time.perf_counter()
        prepared = [item.prepared for item in batch if item.prepared is not None]
        yield _Running(batch, predictor.dispatch(prepared, batch_size=batch_size) if prepared else None, since)


def _one_behind(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, each handed on after the next one was taken: a batch is computing while one is read."""
    waiting: collections.deque[_T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _collect(predictor: Predictor, running: _Running) -> list[_Scored]:
    if running.outputs is None:
        return [_Scored(item) for item in running.batch]
    judgements = iter(predictor.collect(running.outputs))
    return [_Scored(item) if item.prepared is None else _Scored(item, next(judgements)) for item in running.batch]


def _write(predictor: Predictor, scored: _Scored, *, out: Path, map_format: MapFormat) -> Record:
    item, judgement = scored.decoded, scored.judgement
    if judgement is None or item.backdrop is None:
        return Record(item.id, str(item.path), error=item.error)
    height, width = item.backdrop.shape[:2]
    full_size = overlay.map_to_image_size(judgement.probability, height, width, stride=judgement.stride)
    map_name = result_path(MAP_FOLDER, item.id, MAP_SUFFIXES[map_format])
    overlay_suffix = ".jpg" if max(height, width) <= _JPEG_MAX_SIDE_PX else ".png"
    overlay_name = result_path(OVERLAY_FOLDER, item.id, overlay_suffix)
    for name in (map_name, overlay_name):
        _make_folder((out / name).parent)
    _write_map(out / map_name, full_size, map_format=map_format)
    write_image(out / overlay_name, overlay.overlay(item.backdrop, full_size, threshold=predictor.pixel_threshold))
    return Record(
        id=item.id,
        path=str(item.path),
        score=judgement.score,
        threshold=predictor.threshold,
        is_defective=predictor.is_defective(judgement.score),
        map=map_name,
        overlay=overlay_name,
        seconds=round(item.seconds, 6),
        class_scores=judgement.class_scores if predictor.classes else None,
        classes=_classes_called(judgement),
        defects=None if predictor.classifier is None else [_describe(defect) for defect in judgement.defects],
        verdict=predictor.verdict(judgement.score),
    )


def _classes_called(judgement: Judgement) -> list[str]:
    """The distinct classes that an ensemble or a classifier finds, sorted."""
    of_members = {name for name, score in judgement.class_scores.items() if score >= ensemble.THRESHOLD}
    return sorted(of_members | {defect.class_name for defect in judgement.defects if defect.class_name is not None})


def _describe(defect: Defect) -> dict[str, Any]:
    values = dataclasses.asdict(defect)
    del values["label"]  # of a map that is not written
    return values | {"box": list(defect.box)}


def _write_map(path: Path, probability: np.ndarray, *, map_format: MapFormat) -> None:
    if map_format == "png16":
        write_probability(path, probability)
        return
    with _whole_file(path) as temporary, open(temporary, "wb") as file:
        if map_format == "npy":
            np.save(file, probability)
        else:
            is_encoded, data = cv2.imencode(".tiff", probability)
            if not is_encoded:
                raise InputError(f"{path}: a map of shape {probability.shape} cannot be a TIFF; use another format")
            file.write(data.tobytes())


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there moves to `path` at the end, so that `path` is never half a file."""
    _make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: cannot be written ({error.strerror}); check the space and the permissions there, or give another "
        "output folder"
    )


@contextlib.contextmanager
def _tables(out: Path) -> Iterator[Callable[[Record], None]]:
    """A function that adds a record to both tables, which appear at the end."""
    with (
        _whole_file(out / TABLE_JSONL) as jsonl_path,
        _whole_file(out / TABLE_CSV) as csv_path,
        open(jsonl_path, "w", encoding="utf-8") as jsonl,
        # A file name that is not valid UTF-8 is written back byte by byte.
        open(csv_path, "w", encoding="utf-8", errors="surrogateescape", newline="") as table,
    ):
        writer = csv.DictWriter(table, [field.name for field in dataclasses.fields(Record)])
        writer.writeheader()

        def add(record: Record) -> None:
            values = dataclasses.asdict(record)
            jsonl.write(json.dumps(values) + "\n")
            writer.writerow({name: _cell(name, value) for name, value in values.items()})

        yield add


def _cell(name: str, value: Any) -> Any:
    """A record's value as the CSV has it."""
    if value is None:
        return ""
    if name in ("class_scores", "classes"):
        return json.dumps(value)
    if name == "defects":
        return len(value)
    return int(value) if isinstance(value, bool) else value


def _earlier_results(out: Path) -> set[str]:
    """The maps and overlays that an earlier run in `out` listed."""
    path = out / TABLE_JSONL
    if not path.exists():
        return set()
    try:
        records = [Record(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a table of predictions; move it away or give another output folder") from error
    names = {name for record in records for name in (record.map, record.overlay) if name is not None}
    inside = tuple(os.path.join(os.path.realpath(out / folder), "") for folder in (MAP_FOLDER, OVERLAY_FOLDER))
    return {name for name in names if os.path.realpath(out / name).startswith(inside)}


def _compile(predictor: Predictor, batch_size: int) -> None:
    """Compiles before the clock starts, and finds out whether the batch fits in memory."""
    data = predictor.config.data
    try:
        predictor.judge([np.zeros((*data.image_size, data.num_channels), np.float32)], batch_size=batch_size)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"batch_size = {batch_size}: does not fit in the device's memory; give a smaller one"
        ) from error
