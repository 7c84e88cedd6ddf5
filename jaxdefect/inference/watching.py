"""A folder that a camera writes into: every image that is complete is judged once, also across restarts."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from jaxdefect.inference import records
from jaxdefect.inference.batch import Summary, Tally, compile_for, judge_files
from jaxdefect.inference.files import images_below, record_path
from jaxdefect.inference.map_files import MapFormat
from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.records import Record

POLL_S = 0.2
PATIENCE_S = 10.0


class _Look(NamedTuple):
    """A file as it was when it was first seen so: its size and time of change, when that was, and tries to judge it."""

    size: int
    modified_ns: int
    since: float
    tried: Literal["never", "once", "given up"] = "never"


class Arrivals:
    """Tells which images of a folder seem complete and are not settled yet.

    A file seems complete when two looks found the same size and time of change. If it does not decode all the same, it
    may still be being written: it is tried again when it has changed, and when it has not changed for `patience_s`; it
    is given up if that fails too. If it changes after that, it is looked at again.

    Args:
      folder: searched with its subfolders, as `files.find_images` does.
      out: the folder for the results, which are no images.
      done: ids of the images that were judged before.
      broken: the errors of those that could not be, by id; they are tried again, and not reported again.
      patience_s: see above.
      clock: seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        out: Path,
        done: set[str],
        broken: Mapping[str, str],
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder, self._out, self._done = folder, out, set(done)
        self._broken = dict(broken)
        self._patience_s, self._clock = patience_s, clock
        self._looks: dict[str, _Look] = {}

    def look(self) -> dict[str, Path]:
        """What seems complete now, the first to be finished first."""
        found = images_below(self._folder, out=self._out, known=self._done)
        ready = [id for id, path in found.items() if self._is_worth_a_try(id, path)]
        ready.sort(key=lambda id: (self._looks[id].modified_ns, id))
        return {id: found[id] for id in ready}

    def settle(self, record: Record) -> bool:
        """Takes what became of an image; whether that is to be told."""
        if record.error is None:
            self._done.add(record.id)
            del self._looks[record.id]
            return True
        look = self._looks[record.id]
        is_given_up = self._clock() - look.since >= self._patience_s
        self._looks[record.id] = look._replace(tried="given up" if is_given_up else "once")
        if not is_given_up or self._broken.get(record.id) == record.error:
            return False
        self._broken[record.id] = record.error
        return True

    def _is_worth_a_try(self, id: str, path: Path) -> bool:
        try:
            status = path.stat()
            size, modified_ns = status.st_size, status.st_mtime_ns
        except FileNotFoundError:  # moved away since the folder was read
            return False
        except OSError:  # a link to itself, or a network drive that is away: reading the file says so
            size, modified_ns = 0, 0
        now, known = self._clock(), self._looks.get(id)
        if known is None or (known.size, known.modified_ns) != (size, modified_ns):
            self._looks[id] = _Look(size, modified_ns, now)
            return False
        return known.tried == "never" or (known.tried == "once" and now - known.since >= self._patience_s)


def watch(
    predictor: Predictor,
    folder: Path,
    *,
    out: Path,
    batch_size: int,
    map_format: MapFormat = "png16",
    on_record: Callable[[Record], None] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    poll_s: float = POLL_S,
    patience_s: float = PATIENCE_S,
) -> Summary:
    """Judges every image that appears in a folder, once, until it is stopped.

    What is complete at a look is judged in the order in which it was finished; a file that is still being written
    holds up none. The results of an image are its map, its overlay, results/ID.json with its record (each renamed to
    its name when it is whole), and then its line in predictions.jsonl, which is on the disk before the next image's.
    That line is what counts: after a crash or a restart what has one is not judged again, and what has none is. The
    CSV and the COCO file are written when it is stopped.

    An image is known by its name: one that is overwritten after it was judged is not judged again.

    Args:
      predictor: gives scores and maps.
      folder: to be watched, with its subfolders.
      out: the folder for the results.
      batch_size: images, or tiles, per computation when so many wait; else each is computed alone.
      map_format: as `batch.predict_files`.
      on_record: called with each record.
      is_stopped: asked before every look and after every image.
      poll_s: seconds from look to look.
      patience_s: after so many seconds without a change, a file that cannot be decoded is broken.

    Raises:
      InputError: the folder is none; `out` cannot be written, holds another predictions.jsonl, or another process
        writes there.
    """
    tally = Tally()
    with records.exclusive(out), _journal(out) as add:
        done, broken = _resume(out)
        arrivals = Arrivals(folder, out=out, done=done, broken=broken, patience_s=patience_s)
        for size in {1, batch_size}:
            compile_for(predictor, size)
        while not is_stopped():
            ready = arrivals.look()
            size = batch_size if len(ready) >= batch_size else 1
            for record in judge_files(predictor, ready, out=out, batch_size=size, map_format=map_format):
                if not arrivals.settle(record):
                    continue
                add(record)
                tally.add(record)
                if on_record is not None:
                    on_record(record)
                if is_stopped():  # the others have no line yet
                    break
            if not ready:
                time.sleep(poll_s)
        records.publish(out)
    return tally.summary()


def _resume(out: Path) -> tuple[set[str], dict[str, str]]:
    """The images judged before, and the errors of the others; a line that a crash left half written is cut off."""
    path = records.table_path(out)
    if not path.exists():
        return set(), {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    earlier = list(records.read(path))
    done = {record.id for record in earlier if record.error is None}
    return done, {record.id: record.error for record in earlier if record.error is not None}


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _journal(out: Path) -> Iterator[Callable[[Record], None]]:
    """A function that makes a record last: its own file, then its line."""
    records.make_folder(out)
    path = records.table_path(out)

    def add(record: Record) -> None:
        try:
            for name in filter(None, (record.map, record.overlay)):
                _to_disk(out / name)  # before the line that says they are there
            # Where the image's name allows no file, its line must do.
            with (
                contextlib.suppress(records.UnusableNameError),
                records.results_of(record.id, out),
                records.whole_file(out / record_path(record.id)) as temporary,
            ):
                temporary.write_text(records.line(record), encoding="utf-8")
            file.write(records.line(record))
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise records.cannot_write(path, error) from error

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "a", encoding="utf-8"))
        except OSError as error:
            raise records.cannot_write(path, error) from error
        yield add
