"""The launchers as a user meets them: a whole job from data to predictions, and one clear line for every mistake."""

import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import jax.numpy as jnp
import launching
import numpy as np
import pytest
from launching import ROOT

from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.tiles import make_tiling
from jaxdefect.studies import tables
from launch import cli


def launch(verb: str, *arguments: str, code: int = 0) -> str:
    """Runs a launcher and checks its exit code; its output."""
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{verb}", *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    return checked(done.stdout + done.stderr, done.returncode, code)


def fork(verb: str, *arguments: str, tmp_path: Path, code: int = 0) -> str:
    """The same in a process that need not import JAX first, which is most of the time of what ends soon."""
    output = tmp_path / "output.txt"
    found = launching.start(verb, arguments, output=output)
    return checked(output.read_text(), found, code)


def checked(text: str, found: int | None, wanted: int) -> str:
    assert found == wanted, text
    assert "Traceback" not in text, text
    return text


@pytest.mark.slow
def test_from_data_to_predictions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, workdir, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    launch("synthesize", "--layout=severstal", f"--out={data}", "--num_images=30", "--height=128", "--width=256")
    train = (
        "train",
        "--config=configs/severstal_mixed.py:num_positives=8,num_masks=4",
        f"--config.data.root={data}",
        "--config.data.image_size=(64,128)",
        "--config.training.epochs=2",
        "--config.training.batch_size=2",
        f"--workdir={workdir}",
    )
    text = launch(*train)
    assert "8 positive images (4 with masks)" in text
    again = fork(*train, tmp_path=tmp_path)  # nothing left to do, and nothing lost
    assert "resuming after step 16" in again
    refused = launch(*train, "--config.optimizer.learning_rate=0.5", code=2)
    assert "config.optimizer.learning_rate: 0.1 -> 0.5" in refused

    text = launch("evaluate", f"--workdir={workdir}")
    assert str(workdir / "evaluation" / "test" / "report.html") in text
    metrics = json.loads((workdir / "evaluation" / "test" / "metrics.json").read_text())
    split = json.loads((workdir / "split.json").read_text())
    assert metrics["num_images"] == len(split["test"])
    assert metrics["threshold_source"] == "validation"
    with (workdir / "evaluation" / "test" / "scores.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == split["test"]

    refused = fork("calibrate", f"--workdir={workdir}", "--policy=guarantee", tmp_path=tmp_path, code=2)
    assert "59 are needed" in refused
    three_way = tmp_path / "three_way.json"
    # On the four validation images the scores of so short a training are chance.
    policy = ("--policy=recall", "--recall=1", "--reject_precision=1", "--scores=isotonic", "--tile=auto", "--on=train")
    text = launch("calibrate", f"--workdir={workdir}", *policy, f"--out={three_way}")
    assert "three-way: no miss; no false alarm" in text
    assert "calibration error" in text
    assert "64x128 px, one every" in text
    assert (tmp_path / "three_way_reliability.png").stat().st_size > 1000
    decided = json.loads(three_way.read_text())
    predictor = Predictor.load(workdir, calibration=three_way)
    assert predictor.tiling == make_tiling(predictor.config)
    assert not caplog.records
    three_way.write_text(json.dumps(decided | {"weights_sha256": "0" * 64}))
    Predictor.load(workdir, calibration=three_way)
    assert "of another training: the weights differ" in caplog.text

    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(images / "colour.png"), rng.integers(0, 255, (90, 70, 3), np.uint8))
    cv2.imwrite(str(images / "deep.png"), rng.integers(0, 65535, (50, 300), np.uint16))
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    by = f"--calibration={three_way}"
    text = launch("predict", f"--workdir={workdir}", f"--images={images}", f"--out={out}", by, code=1)
    assert "broken.jpg" in text
    with (out / "predictions.csv").open() as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert rows["broken.jpg"]["error"]
    score, verdict = float(rows["deep.png"]["score"]), rows["deep.png"]["verdict"]
    assert 0 <= score <= 1
    passed = sum(score >= decided[name] for name in ("threshold", "reject_threshold"))
    assert verdict == ("accept", "inspect", "reject")[passed]
    assert cv2.imread(str(out / rows["deep.png"]["map"]), cv2.IMREAD_UNCHANGED).shape == (50, 300)


QUICKSTART = "--config=configs/quickstart.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--workdir=x"), "--config=FILE is missing"),
        (("train", "--config=configs/quickstrat.py", "--workdir=x"), "no such file; there are: configs/"),
        (("train", "--config=configs/kolektor_joint.py:offical", "--workdir=x"), "must be paper or official"),
        (("train", QUICKSTART), "--workdir=… is missing"),
        (("train", QUICKSTART, "--workdri=x"), "Did you mean: workdir"),
        (("train", QUICKSTART, "--config.training.epoch=3", "--workdir=x"), "did you mean config.training.epochs?"),
        (("train", QUICKSTART, "--config.optimiser.name=adam", "--workdir=x"), "did you mean config.optimizer?"),
        (("train", QUICKSTART, "--config.training.epochs=many", "--workdir=x"), "config.training.epochs=many"),
        (("train", QUICKSTART, "--config.model.norm=batchnorm", "--workdir=x"), "did you mean 'batch'?"),
        (
            ("train", QUICKSTART, "--config.model.architecture=unet", "--config.model.attention=True", "--workdir=x"),
            "--config.model.attention: no such setting; config.model has architecture, ",
        ),
        (
            ("train", QUICKSTART, "--config.model.architecture=unet", "--config.model.resolution=eigth", "--workdir=x"),
            "config.model.resolution = 'eigth': must be one of 'full', 'eighth'",
        ),
        (("train", QUICKSTART, "--config.data.image_size=(100,256)", "--workdir=x"), "nearest valid size is 96x256"),
        (("train", QUICKSTART, "--workdir=/proc/run"), "/proc/run"),
        (("evaluate",), "--workdir=… is missing"),
        (("evaluate", "--workdir=nowhere"), "not the directory of a run"),
        (("calibrate", "--workdir=nowhere"), "not the directory of a run"),
        (("calibrate", "--workdir=nowhere", "--alpha=0.1"), "it belongs to --policy=guarantee or --policy=conformal"),
        (("calibrate", "--workdir=nowhere", "--folds=0"), "--folds and --seed belong to --scores_csv"),
        (("audit", QUICKSTART), "give --out=DIR, or --workdir=RUN"),
        (("predict", "--workdir=nowhere", "--images=nothing", "--out=x"), "nothing"),
        (("predict", "--workdir=x", "--images=x", "--out=x", "--overlap=2"), "--overlap=2: 2.0 is not a"),
        (("predict", "--workdir=x", "--images=x", "--out=x", "--tile=9"), "--tile=9: must be auto or HEIGHTxWIDTH"),
        (("predict", "--merge", "--out=x"), "no tables of shards"),
        (("export", "--workdir=nowhere"), "--format=… is missing"),
        (("export", "--workdir=nowhere", "--format=stablehlo"), "not the directory of a run"),
        (("export", "--workdir=nowhere", "--format=stablehlo", "--batch=many"), "--batch=many: must be a number"),
        (("report", "--runs", "nowhere", "else", "--out=x"), "--runs: nowhere: not the directory of a run"),
        (("crossvalidate", QUICKSTART, "--workdir=x"), "config.split.kind = 'random': has no folds"),
        (("crossvalidate", QUICKSTART, "--seeds=0,b", "--workdir=x"), "--seeds=0,b: whole numbers wanted"),
        (("ablate", QUICKSTART, "--study=configs/studies/los.py", "--workdir=x"), "configs/studies/loss.py"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_mistake_gives_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    verb, *rest = (argument.replace("=x", f"={tmp_path / 'x'}") for argument in arguments)
    text = fork(verb, *rest, tmp_path=tmp_path, code=2)
    assert message in text
    assert text.count("\n") <= 3


def test_a_missing_data_set_says_where_to_get_it(tmp_path: Path) -> None:
    for config, source in (("severstal_mixed", "severstal-steel-defect-detection"), ("kolektor_joint", "vicos.si")):
        text = fork(
            "train",
            f"--config=configs/{config}.py",
            f"--config.data.root={tmp_path / 'absent'}",
            f"--workdir={tmp_path / 'run'}",
            tmp_path=tmp_path,
            code=2,
        )
        assert source in text
        assert "config.data.root" in text


def test_an_audit_ends_with_1_where_one_picture_is_trained_and_tested(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for name, pixels in zip("abcd", np.random.default_rng(0).integers(0, 255, (4, 64, 64), np.uint8), strict=True):
        for folder, values in (("images", pixels), ("masks", (pixels > 200) * 255 * (name in "ab"))):
            (data / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(data / folder / f"{name}.png"), values.astype(np.uint8))
    (data / "images" / "d.png").write_bytes((data / "images" / "c.png").read_bytes())
    manifest = tmp_path / "split.json"
    manifest.write_text(json.dumps({"train": ["a", "c"], "validation": [], "test": ["b", "d"], "masked": ["a"]}))
    split = ("--config.split.kind=manifest", f"--config.split.path={manifest}")
    text = launch("audit", "--config=configs/folder.py", f"--config.data.root={data}", *split, f"--out={out}", code=1)
    assert str(out / "audit.html") in text
    (finding,) = json.loads((out / "audit.json").read_text())["findings"]
    assert (finding["kind"], finding["images"]) == ("leak", ["c", "d"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_row_that_cannot_be_timed_costs_no_other(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    text = fork(
        "benchmark",
        "--config=configs/kolektor_steel.py",
        "--sizes=64x64",
        "--batch_sizes=1000000000,1",  # 16 TB of images
        "--repetitions=2",
        f"--out={out}",
        tmp_path=tmp_path,
        code=1,
    )
    assert "left out: Setting(mode='inference', batch_size=1000000000" in text
    assert [row["batch_size"] for row in json.loads(out.read_text())["rows"]] == [1]


def test_memory_that_does_not_suffice_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for ask in (lambda _: jnp.zeros(2**46), lambda _: np.zeros(2**57)):
        with pytest.raises(SystemExit, match="2"):
            cli._guard(ask)(["train"])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: memory is at its end: ")
        assert "llocat" in line  # how much, in the library's words


def test_a_list_of_values_ends_at_the_next_flag() -> None:
    joined = cli._join(["report", "--runs", "a", "b", "--out", "runs"], {"runs"})
    assert joined == ["report", "--runs=a,b", "--out", "runs"]


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = cli.console()
    console.print("runs/[a]/:b:/report.html")
    console.print(tables.terminal(["[i]class"], [["[/b]"]], title="[t]", caption="[c]"))
    text = capsys.readouterr().out
    assert all(name in text for name in ("runs/[a]/:b:/report.html", "[i]class", "[/b]", "[t]", "[c]"))
    assert "\\" not in text


def test_a_launcher_starts_once_more_for_its_memory_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nprint(os.environ.get('GLIBC_TUNABLES'), flush=True)\n")
    (tmp_path / "benchmark.py").write_text("from launch import cli\ncli.run(lambda argv: None)\n")
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    has_huge_pages = pages.exists() and "[madvise]" in pages.read_text()
    huge, heap = ["hugetlb=1"], [f"mmap_threshold={2**25}", f"trim_threshold={2**27}"]
    kept = ["arena_max=1", f"mmap_threshold={2**40}", f"trim_threshold={2**40}"]
    huge, heap = (huge, heap) if has_huge_pages else ([], [])
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for own, command, starts, settings in (
        ({}, ["benchmark"], 2 if huge else 1, [*huge, *heap] or ["None"]),
        ({}, ["launch.cli"], 2 if huge else 1, [*huge, *heap] or ["None"]),
        ({}, ["launch.cli", "--watch"], 2, [*huge, *kept]),
        ({"GLIBC_TUNABLES": ""}, ["launch.cli", "--watch"], 1, [""]),
    ):
        found = environment | {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | own
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=found, check=True)
        assert done.stderr == ""
        *_, last = lines = done.stdout.split("\n")[:-1]
        assert len(lines) == starts
        assert sorted(last.replace("glibc.malloc.", "").split(":")) == sorted(settings)
