"""Runs a predictor over many image files: decoding, computing and writing at the same time, tables at the end."""

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from jaxdefect.data.sources import DecodedImage, open_image
from jaxdefect.inference import ensemble, records
from jaxdefect.inference.files import MAP_FOLDER, OVERLAY_FOLDER, RESULT_FOLDERS, record_path, result_path
from jaxdefect.inference.judgement import Result
from jaxdefect.inference.map_files import MAP_SUFFIXES, MapFormat, write_map, write_overlay
from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.records import Record, Shard
from jaxdefect.inference.tiles import Prepared
from jaxdefect.types import InputError, UnreadableImageError

_MAX_THREADS = 16
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run over many images came to.

    `seconds` from the first image to the last, without the compilation. `latency_ms`: half of the images, and 99 of
    100, took no longer than these two (`Record.seconds`); None where no image could be read.
    """

    num_images: int
    num_defective: int
    num_errors: int
    seconds: float
    latency_ms: tuple[float, float] | None


class Tally:
    """Counts records as they come, for the summary."""

    def __init__(self) -> None:
        self._num_images = self._num_defective = self._num_errors = 0
        self._seconds: list[float] = []
        self._started = time.perf_counter()

    def add(self, record: Record) -> None:
        self._num_images += 1
        self._num_defective += bool(record.is_defective)
        self._num_errors += record.error is not None
        if record.seconds is not None:
            self._seconds.append(record.seconds)

    def summary(self) -> Summary:
        latency_ms = None
        if self._seconds:
            half, most = np.percentile(self._seconds, (50, 99)) * 1e3
            latency_ms = float(half), float(most)
        seconds = time.perf_counter() - self._started
        return Summary(self._num_images, self._num_defective, self._num_errors, seconds, latency_ms)


@dataclasses.dataclass(frozen=True)
class _Decoded:
    id: str
    path: Path
    seconds: float
    prepared: Prepared | InputError


@dataclasses.dataclass(frozen=True)
class _Judged:
    decoded: _Decoded
    since: float  # when its first pixels were taken
    result: Result | InputError


def predict_files(
    predictor: Predictor,
    images: Mapping[str, Path],
    *,
    out: Path,
    batch_size: int,
    map_format: MapFormat = "png16",
    shard: Shard | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Summary:
    """Scores image files and writes maps, overlays, predictions.csv, predictions.jsonl and defects.json (COCO).

    A file that cannot be read gets a line with its error and the rest goes on. Every file appears whole or not at
    all; an interrupted run leaves its lines so far as predictions.jsonl.partial. Maps and overlays that an earlier run
    listed in the same folder's predictions.jsonl and that this run did not write are removed, and a watched folder's
    records of single images; a shard, whose predictions-i-of-n.jsonl says nothing of the others, removes none.

    Args:
      predictor: gives scores and maps.
      images: paths by id, as `jaxdefect.inference.files.find_images` returns them.
      out: the folder for the results, made where it is missing.
      batch_size: images, or tiles of them, per computation.
      map_format: "png16" (65535 for 1), "npy" or "tiff" (both float32).
      shard: judge only these of the images.
      on_record: called with each record, in order.

    Raises:
      InputError: `out` cannot be written, holds another predictions.jsonl, or another process writes there; or the
        batch does not fit in memory.
    """
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: must be 1 or more")
    with records.exclusive(out, shard):
        stale = _earlier_results(out) if shard is None else set()
        if shard is not None:
            # An old table must not be merged with the others' new ones.
            records.table_path(out, shard).unlink(missing_ok=True)
            images = dict(list(images.items())[shard.index :: shard.count])
        if predictor.tiling is None and predictor.config.data.fit == "resize":
            batch_size = max(1, min(batch_size, len(images)))
        compile_for(predictor, batch_size)
        tally = Tally()
        with records.table(out, shard) as add_to_table:
            for record in judge_files(predictor, images, out=out, batch_size=batch_size, map_format=map_format):
                add_to_table(record)
                stale -= {name for name in (record.map, record.overlay) if name is not None}
                tally.add(record)
                if on_record is not None:
                    on_record(record)
        for name in stale:
            (out / name).unlink(missing_ok=True)
    return tally.summary()


def judge_files(
    predictor: Predictor, images: Mapping[str, Path], *, out: Path, batch_size: int, map_format: MapFormat
) -> Iterator[Record]:
    """Writes maps and overlays, and yields the records in the order of `images`; a few of them are in memory.

    Images are decoded, and results written, by threads, while the device computes.
    """
    num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    is_tiled = predictor.tiling is not None or predictor.config.data.fit == "patches"
    num_decoded, num_written = (2, 2) if is_tiled else (2 * batch_size, 2 * num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        decoded = _ahead(
            pool, lambda item: _decode(predictor, *item, is_tiled=is_tiled), images.items(), num_ahead=num_decoded
        )
        judged = _judge(predictor, decoded, batch_size=batch_size)
        yield from _ahead(
            pool,
            lambda item: _write(predictor, item, out=out, map_format=map_format),
            judged,
            num_ahead=num_written,
        )


def compile_for(predictor: Predictor, batch_size: int) -> None:
    """Compiles before the clock starts, and finds out whether the batch fits in memory.

    Raises:
      InputError: it does not.
    """
    data = predictor.config.data
    is_tiled = predictor.tiling is not None or data.fit == "patches"
    blank = Prepared(
        source=predictor.prepare(np.zeros((1, 1, data.num_channels), np.float32)).source,
        input_size=data.image_size,
        resized=np.zeros((*data.image_size, data.num_channels), np.uint8 if is_tiled else np.float32),
    )
    try:
        list(predictor.stream([blank], batch_size=batch_size))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"batch_size = {batch_size}: does not fit in the device's memory; give a smaller one"
        ) from error


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


def _decode(predictor: Predictor, image_id: str, path: Path, *, is_tiled: bool) -> _Decoded:
    started = time.perf_counter()
    open_source = open_image if is_tiled else DecodedImage
    try:
        prepared = predictor.prepare(open_source(path, num_channels=predictor.config.data.num_channels))
    except InputError as error:
        prepared = error
    return _Decoded(image_id, path, time.perf_counter() - started, prepared)


def _judge(predictor: Predictor, decoded: Iterable[_Decoded], *, batch_size: int) -> Iterator[_Judged]:
    waiting: collections.deque[tuple[_Decoded, float]] = collections.deque()

    def items() -> Iterator[Prepared | InputError]:
        for item in decoded:
            waiting.append((item, time.perf_counter()))
            yield item.prepared

    for result in predictor.stream(items(), batch_size=batch_size):
        yield _Judged(*waiting.popleft(), result)


def _write(predictor: Predictor, judged: _Judged, *, out: Path, map_format: MapFormat) -> Record:
    item, result = judged.decoded, judged.result
    if isinstance(result, InputError):
        return Record(item.id, str(item.path), error=str(result))
    height, width = result.map.height, result.map.width
    map_name = result_path(MAP_FOLDER, item.id, MAP_SUFFIXES[map_format])
    overlay_name = result_path(OVERLAY_FOLDER, item.id, ".jpg")
    try:
        result = predictor.with_defects(result)  # the classifier looks at its pixels again, and so does the overlay
        with records.results_of(item.id, out):
            for name in (map_name, overlay_name):
                records.make_folder((out / name).parent)
            write_map(out / map_name, result.map, map_format=map_format)
            write_overlay(out / overlay_name, result.source, result.map, threshold=predictor.pixel_threshold)
    except (UnreadableImageError, records.UnusableNameError) as error:
        return Record(item.id, str(item.path), error=str(error))
    return Record(
        id=item.id,
        path=str(item.path),
        score=result.score,
        threshold=predictor.threshold,
        is_defective=predictor.is_defective(result.score),
        map=map_name,
        overlay=overlay_name,
        seconds=round(item.seconds + time.perf_counter() - judged.since, 6),
        class_scores=result.class_scores if predictor.classes else None,
        classes=_classes_called(predictor, result),
        defects=[records.describe(defect, height=height, width=width) for defect in result.defects],
        height=height,
        width=width,
        verdict=predictor.verdict(result.score),
    )


def _classes_called(predictor: Predictor, result: Result) -> list[str]:
    """The distinct classes that an ensemble or a classifier finds, sorted."""
    if predictor.classes:
        return sorted(name for name, score in result.class_scores.items() if score >= ensemble.THRESHOLD)
    return sorted({defect.class_name for defect in result.defects if defect.class_name is not None})


def _earlier_results(out: Path) -> set[str]:
    """The maps and overlays that an earlier run in `out` listed, and the records of a watched folder."""
    path = records.table_path(out)
    if not path.exists():
        return set()
    earlier = list(records.read(path, may_be_cut=True))
    names = {name for record in earlier for name in (record.map, record.overlay) if name is not None}
    names |= {record_path(record.id) for record in earlier}
    inside = tuple(os.path.join(os.path.realpath(out / folder), "") for folder in RESULT_FOLDERS)
    return {name for name in names if os.path.realpath(out / name).startswith(inside)}
