"""A watched folder: half-written files, order, restarts after a crash, broken files; with a clock and with a writer."""

import json
import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.config import Config, DataConfig
from jaxdefect.inference import watching
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.inference.records import Record
from jaxdefect.inference.watching import Arrivals
from jaxdefect.model_config import RegressionConfig
from jaxdefect.types import InputError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "camera"
    root.mkdir()
    return root


@pytest.fixture
def predictor() -> Predictor:
    def apply(variables, image, *, train):
        cells = image[..., 0].reshape(len(image), 16, 4, 16, 4).mean((2, 4))
        return {"probability": cells, "decision": cells.max((1, 2))}

    return Predictor(
        config=Config(data=DataConfig(image_size=(64, 64)), model=RegressionConfig()),
        variables={},
        checkpoint_step=1,
        workdir=Path("run"),
        calibration=None,
        forward=compile_forward(apply),
    )


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (80, 70), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_a_file_is_tried_when_it_is_still_and_given_up_when_it_stays_broken(folder: Path, tmp_path: Path):
    clock = Clock()
    arrivals = Arrivals(folder, out=tmp_path / "out", done={"old.png"}, broken={}, patience_s=10, clock=clock)
    path = folder / "a.png"
    broken = Record("a.png", str(path), error="broken")
    (folder / "old.png").write_bytes(b"judged before")
    path.write_bytes(b"half")
    assert list(arrivals.look()) == []  # seen
    assert list(arrivals.look()) == ["a.png"]  # still
    assert not arrivals.settle(broken)  # may be being written
    clock.now = 5
    assert list(arrivals.look()) == []
    path.write_bytes(b"more of it")
    assert list(arrivals.look()) == []
    assert list(arrivals.look()) == ["a.png"]
    assert not arrivals.settle(broken)
    clock.now = 14.9
    assert list(arrivals.look()) == []
    clock.now = 15
    assert list(arrivals.look()) == ["a.png"]
    assert arrivals.settle(broken)  # told once
    clock.now = 100
    assert list(arrivals.look()) == []
    path.write_bytes(b"all of it, at last")
    assert list(arrivals.look()) == []
    assert list(arrivals.look()) == ["a.png"]
    assert arrivals.settle(Record("a.png", str(path), score=0.5))
    path.write_bytes(b"overwritten")
    assert [list(arrivals.look()) for _ in range(3)] == [[], [], []]


def test_what_was_broken_before_a_restart_is_not_reported_again(folder: Path, tmp_path: Path):
    clock = Clock()
    arrivals = Arrivals(folder, out=tmp_path, done=set(), broken={"a.png": "broken"}, patience_s=1, clock=clock)
    (folder / "a.png").write_bytes(b"broken")
    arrivals.look()
    clock.now = 2
    assert list(arrivals.look()) == ["a.png"]
    assert not arrivals.settle(Record("a.png", "", error="broken"))
    assert list(arrivals.look()) == []


def test_the_first_finished_comes_first(folder: Path, tmp_path: Path):
    arrivals = Arrivals(folder, out=tmp_path / "out", done=set(), broken={})
    for name, modified in (("a.png", 30), ("b.png", 10), ("sub/c.png", 20)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (modified, modified))
    arrivals.look()
    assert list(arrivals.look()) == ["b.png", "sub/c.png", "a.png"]
    arrivals.settle(Record("sub/c.png", ""))
    (folder / "c.png").write_bytes(b"x")  # another of that name is another image
    arrivals.look()
    assert list(arrivals.look()) == ["b.png", "a.png", "c.png"]


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_a_slow_camera_a_broken_file_a_crash_and_a_restart(folder: Path, tmp_path: Path, predictor: Predictor):
    out, finished = tmp_path / "out", {}

    def camera() -> None:
        for number in range(6):
            content, name = png(number), f"{number}.png"
            with open(folder / name, "wb") as file:
                for start in range(0, len(content), 2000):
                    file.write(content[start : start + 2000])
                    finished[name] = time.time()
                    file.flush()
                    time.sleep(0.03)
        (folder / "broken.png").write_bytes(png(9)[:3000])

    def run(until: int) -> list[Record]:
        seen: list[Record] = []
        stop_at = time.monotonic() + 60
        watching.watch(
            predictor,
            folder,
            out=out,
            batch_size=2,
            on_record=seen.append,
            is_stopped=lambda: len(seen) >= until or time.monotonic() > stop_at,
            poll_s=0.01,
            patience_s=0.3,
        )
        return seen

    writer = threading.Thread(target=camera)
    writer.start()
    first = run(7)
    writer.join()
    assert [record.id for record in first] == [*(f"{n}.png" for n in range(6)), "broken.png"]
    assert first[-1].error is not None
    assert [record.error for record in first[:-1]] == [None] * 6
    for number, record in enumerate(first[:-1]):
        pixels = cv2.imdecode(np.frombuffer(png(number), np.uint8), cv2.IMREAD_UNCHANGED)
        assert record.score == pytest.approx(predictor(pixels).score, abs=1e-6)
        assert json.loads((out / f"results/{record.id}.json").read_text())["score"] == record.score
        assert os.path.getmtime(out / f"results/{record.id}.json") >= finished[record.id] - 0.01
    assert len((out / "predictions.csv").read_text().splitlines()) == 8
    assert not list(out.rglob("*.partial"))

    # Killed while it wrote the line of 5.png: that one is judged again, the others are not.
    content = (out / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join(content[:5]) + content[5][:40])
    (folder / "new.png").write_bytes(png(7))
    assert [record.id for record in run(3)] == ["5.png", "new.png", "broken.png"]
    assert sorted(line["id"] for line in lines(out)) == sorted([*finished, "broken.png", "new.png"])
    (folder / "newer.png").write_bytes(png(8))
    assert [record.id for record in run(1)] == ["newer.png"]


def test_names_that_cannot_be_used_hold_up_nothing_and_no_second_process_writes(
    folder: Path, tmp_path: Path, predictor: Predictor
):
    (folder / "loop.png").symlink_to("loop.png")
    long = f"{'n' * 242}.png"  # results/NAME.json.partial is too long
    for name in (long, "a.png", "a.png.png/b.png"):  # maps/a.png.png would be a's map, and is the folder of b's
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(1))
    seen: dict[str, str | None] = {}
    refused: list[InputError] = []

    def note(record: Record) -> None:
        seen[record.id] = record.error
        try:
            watching.watch(predictor, folder, out=tmp_path / "out", batch_size=1, is_stopped=lambda: True)
        except InputError as error:
            refused.append(error)

    stop_at = time.monotonic() + 60
    watching.watch(
        predictor,
        folder,
        out=tmp_path / "out",
        batch_size=1,
        on_record=note,
        is_stopped=lambda: len(seen) >= 4 or time.monotonic() > stop_at,
        poll_s=0.01,
        patience_s=0.1,
    )
    good = {name for name, error in seen.items() if error is None}
    assert seen.keys() == {"loop.png", long, "a.png", "a.png.png/b.png"}
    assert len(good) == 1
    assert good < {"a.png", "a.png.png/b.png"}
    assert "symbolic links" in str(seen["loop.png"])
    assert "rename the image" in str(seen[long])
    assert len(refused) == 4
    assert "another process writes predictions.jsonl" in str(refused[0])


def test_a_folder_that_cannot_be_watched_is_named(folder: Path, tmp_path: Path, predictor: Predictor):
    for path, out, message in (
        (tmp_path / "none", tmp_path, "no such folder to watch"),
        (folder, folder, "cannot take"),
    ):
        with pytest.raises(InputError, match=message):
            watching.watch(predictor, path, out=out, batch_size=1)
