"""Prediction over files, through the launcher's main function."""

import csv
import dataclasses
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from absl import flags

from jaxdefect.config import Config, DataConfig
from jaxdefect.data.readers.coco import decode_counts
from jaxdefect.inference import batch, files
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.files import record_path
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.types import Defect, InputError, RotatedBox, Window
from launch import predict

# Id, size and how it is stored: names that a careless scheme would merge, every kind of pixel.
GOOD = {
    "a/x.png": ((40, 60), np.uint8),
    "b/x.png": ((130, 70), np.uint16),
    "x.bmp": ((64, 64, 3), np.uint8),
    "x.png": ((64, 64), np.uint8),
    "x.tiff": ((50, 90, 3), np.uint16),
}
BROKEN = {"a/broken.png": b"not an image", "empty.jpg": b""}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    def apply(variables, image, *, train):
        size = image.shape[1] // 8
        cells = image.reshape(-1, size, 8, size, 8).mean((2, 4))
        logits = variables["gain"] * (cells - 0.5)
        return {"probability": jax.nn.sigmoid(logits), "decision": logits.mean((1, 2))}

    return Predictor(
        config=Config(data=DataConfig(image_size=(64, 64))),
        variables={"gain": jnp.float32(8)},
        checkpoint_step=3,
        workdir=Path("run"),
        calibration=None,
        forward=compile_forward(apply),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for index, (name, (shape, dtype)) in enumerate(GOOD.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.random(shape) ** (0.5 + 0.3 * index) * np.iinfo(dtype).max
        assert cv2.imwrite(str(root / name), pixels.astype(dtype))
    for name, content in BROKEN.items():
        (root / name).write_bytes(content)
    (root / "notes.txt").write_text("no image")
    return root


def run_main(monkeypatch: pytest.MonkeyPatch, predictor: Predictor, *arguments: str) -> int:
    monkeypatch.setattr(Predictor, "load", lambda workdir, *, checkpoint, calibration: predictor)
    values = flags.FlagValues()
    predict.define_flags(values)
    values(["predict", "--workdir=run", *arguments])
    return predict.main([], values)


def read_tables(out: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    with open(out / "predictions.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    records = {r["id"]: r for r in map(json.loads, (out / "predictions.jsonl").read_text().splitlines())}
    return rows, records


def test_every_image_is_judged_as_if_alone_and_broken_files_are_reported(
    folder, tmp_path, predictor, monkeypatch, capsys
):
    out = tmp_path / "out"
    code = run_main(monkeypatch, predictor, f"--images={folder}", f"--out={out}", "--batch_size=2")
    assert code == 1
    rows, records = read_tables(out)
    assert list(rows) == list(records) == sorted([*GOOD, *BROKEN])
    for name in GOOD:
        pixels = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
        alone = predictor(pixels if pixels.ndim == 2 else pixels[..., ::-1])
        record, row = records[name], rows[name]
        assert record["score"] == pytest.approx(alone.score, abs=2e-3 if pixels.ndim == 3 else 1e-6)
        assert float(row["score"]) == record["score"]
        assert record["is_defective"] == alone.is_defective == (row["is_defective"] == "1")
        assert (record["error"], record["threshold"], row["error"]) == (None, 0.5, "")
        assert record["seconds"] > 0
        assert [record[key] for key in ("class_scores", "classes")] == [None, []]
        assert [(d["box"], d["area_px"], d["class_name"]) for d in record["defects"]] == [
            (list(d.box), d.area_px, None) for d in alone.defects
        ]
        assert int(row["defects"]) == len(alone.defects)
        assert (record["height"], record["width"]) == pixels.shape[:2]
        probability = cv2.imread(str(out / record["map"]), cv2.IMREAD_UNCHANGED)
        assert probability.dtype == np.uint16
        np.testing.assert_allclose(probability / 65535, alone.probability, atol=4e-3)
        assert cv2.imread(str(out / record["overlay"])).shape == (*pixels.shape[:2], 3)
    assert {r["is_defective"] for r in records.values()} == {True, False, None}
    errors = capsys.readouterr().err
    for name in BROKEN:
        assert str(folder / name) in records[name]["error"]
        assert f"error: {folder / name}" in errors
        assert (rows[name]["score"], rows[name]["is_defective"], records[name]["map"]) == ("", "", None)
    assert len(list((out / "maps").rglob("*.*"))) == len(list((out / "overlays").rglob("*.*"))) == len(GOOD)


def test_a_second_run_leaves_only_its_own_results(folder, tmp_path, predictor, monkeypatch):
    out = folder / "results"  # below the images: results must not be taken for images
    arguments = (f"--images={folder}", f"--out={out}")
    run_main(monkeypatch, predictor, *arguments)
    first, records = read_tables(out)
    for record in records.values():  # as a version without classes wrote them
        for key in ("class_scores", "classes", "defects", "height", "width"):
            del record[key]
    lines = "".join(json.dumps(record) + "\n" for record in records.values())
    (out / "predictions.jsonl").write_text(lines + '{"id": "b')  # a crash left half a line
    for name in records:  # as if the folder had been watched
        path = out / record_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for name in [*BROKEN, "a/x.png"]:
        (folder / name).unlink()
    assert run_main(monkeypatch, predictor, *arguments, "--map_format=npy", "--batch_size=3") == 0
    second, records = read_tables(out)
    assert set(second) == GOOD.keys() - {"a/x.png"}
    assert {n: second[n]["score"][:7] for n in second} == {n: first[n]["score"][:7] for n in second}
    stored = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert stored == {
        ".predictions.lock",
        "defects.json",
        "predictions.csv",
        "predictions.jsonl",
        *(f"maps/{name}.npy" for name in second),
        *(f"overlays/{name}.jpg" for name in second),
    }
    for record in records.values():
        probability = np.load(out / record["map"])
        assert probability.shape == GOOD[record["id"]][0][:2]
        assert probability.dtype == np.float32


def test_the_tables_hold_the_classes_of_an_ensemble_and_the_defects_of_a_classifier(
    folder, tmp_path, predictor, monkeypatch
):
    def tables(kind: Predictor, **found) -> tuple[dict, dict]:
        monkeypatch.setattr(Predictor, "with_defects", lambda _, result: result._replace(score=0.9, **found))
        batch.predict_files(kind, {"x.png": folder / "x.png"}, out=tmp_path / "out", batch_size=1)
        rows, records = read_tables(tmp_path / "out")
        return rows["x.png"], records["x.png"]

    scores = {"stain": 0.49, "dent": 0.5, "deep scratch": 0.75}
    of_ensemble = dataclasses.replace(predictor, classes=tuple(scores), class_thresholds=(0.5,) * 3)
    row, record = tables(of_ensemble, class_scores=scores)
    assert (record["class_scores"], record["classes"]) == (scores, ["deep scratch", "dent"])
    assert (json.loads(row["class_scores"]), json.loads(row["classes"])) == (scores, ["deep scratch", "dent"])

    described = {
        "area_px": 9,
        "mean": 0.75,
        "maximum": 1.0,
        "class_name": "deep scratch",
        "confidence": 0.6,
        "vote": 1.0,
    }
    box, rotated = Window(1, 2, 3, 4), RotatedBox(4.0, 2.5, 5.0, 1.0, 45.0)
    runs = np.array([[1, 2, 6], [3, 3, 4]], np.int32)
    defects = tuple(Defect(label=label, box=box, rotated_box=rotated, runs=runs, **described) for label in (1, 2))
    row, record = tables(predictor, defects=defects)
    assert (record["class_scores"], record["classes"]) == (None, ["deep scratch"])
    found = record["defects"]
    for defect in found:
        assert decode_counts(defect.pop("segmentation")["counts"])[:4] == [64 * 2 + 1, 1, 63, 1]
    places = {"box": [1, 2, 3, 4], "rotated_box": [4, 2.5, 5, 1, 45], "length_px": 5}
    assert found == [places | described] * 2
    assert (row["class_scores"], json.loads(row["classes"]), row["defects"]) == ("", ["deep scratch"], "2")
    row, record = tables(predictor)
    assert (record["classes"], record["defects"], row["defects"]) == ([], [], "0")


def test_shards_share_the_images_and_their_tables_merge_to_that_of_one_process(
    folder, tmp_path, predictor, monkeypatch, capsys
):
    alone, out = tmp_path / "alone", tmp_path / "out"
    run_main(monkeypatch, predictor, f"--images={folder}", f"--out={alone}")
    with pytest.raises(InputError, match=r"no tables of shards in it"):
        run_main(monkeypatch, predictor, "--merge", f"--out={out}")
    run_main(monkeypatch, predictor, f"--images={folder}", f"--out={out}", "--shard=0/2")
    with pytest.raises(InputError, match=r"predictions-1-of-2\.jsonl missing"):
        run_main(monkeypatch, predictor, "--merge", f"--out={out}")
    run_main(monkeypatch, predictor, f"--images={folder}", f"--out={out}", "--shard=1/2")
    capsys.readouterr()
    assert run_main(monkeypatch, predictor, "--merge", f"--out={out}") == 0
    assert "7 images" in capsys.readouterr().out
    (_, expected), (_, merged) = read_tables(alone), read_tables(out)
    assert list(merged) == list(expected)
    for record in (*merged.values(), *expected.values()):
        del record["seconds"]
    assert merged == expected
    assert (out / "defects.json").read_text() == (alone / "defects.json").read_text()
    table = out / "predictions-1-of-2.jsonl"
    whole = table.read_text()
    table.write_text(whole[:-20])
    with pytest.raises(InputError, match=r"predictions-1-of-2\.jsonl: not a table of predictions"):
        run_main(monkeypatch, predictor, "--merge", f"--out={out}")
    table.write_text(whole)
    judged_otherwise = dataclasses.replace(predictor, calibration=Calibration(0.2, 0.5, "validation", 3))
    run_main(monkeypatch, judged_otherwise, f"--images={folder}", f"--out={out}", "--shard=1/2")
    with pytest.raises(InputError, match=r"different thresholds, e\.g\. 0\.2 and 0\.5"):
        run_main(monkeypatch, predictor, "--merge", f"--out={out}")
    # Tables that do not take turns, and such that do but hold one id twice.
    for first, second in ((f"{folder}/x.*", folder), (f"{folder}/x.png", f"{folder}/x.[bp]*")):
        run_main(monkeypatch, predictor, f"--images={first}", f"--out={out}", "--shard=0/2")
        run_main(monkeypatch, predictor, f"--images={second}", f"--out={out}", "--shard=1/2")
        with pytest.raises(InputError, match="not of the same set of images"):
            run_main(monkeypatch, predictor, "--merge", f"--out={out}")
    for shard in ("2/2", "1", "a/b"):
        with pytest.raises(InputError, match="must be i/n"):
            run_main(monkeypatch, predictor, f"--images={folder}", f"--out={out}", f"--shard={shard}")


def test_images_in_tiles_are_judged_alike_from_array_and_file(folder, tmp_path, predictor, monkeypatch):
    out = tmp_path / "out"
    arguments = (f"--images={folder}/[abx]*", f"--out={out}", "--tile=auto", "--overlap=0.25", "--map_format=npy")
    run_main(monkeypatch, predictor, *arguments)
    tiled = predictor.in_tiles(overlap=0.25)
    _, records = read_tables(out)
    pixels = cv2.imread(str(folder / "x.bmp"), cv2.IMREAD_UNCHANGED)
    alone = tiled(pixels[..., ::-1])
    assert records["x.bmp"]["score"] == pytest.approx(alone.score, abs=2e-3)
    np.testing.assert_allclose(np.load(out / "maps/x.bmp.npy"), alone.probability, atol=4e-3)
    for arguments, message in (
        (("--tile=big",), "must be auto or HEIGHTxWIDTH"),
        (("--tile=60x60",), "nearest valid size is 64x64"),
        (("--overlap=0.3",), "add --tile"),
    ):
        with pytest.raises(InputError, match=message):
            run_main(monkeypatch, predictor, f"--images={folder}", f"--out={out}", *arguments)


def test_two_devices_give_what_one_gives(predictor):
    assert len(jax.local_devices()) == 2  # of tests/conftest.py
    images = list(np.random.default_rng(0).random((5, 64, 64, 1), np.float32))
    spread = predictor.on_all_devices()
    for batch_size in (1, 2, 4):
        one, two = (each.judge(images, batch_size=batch_size) for each in (predictor, spread))
        assert [a.score for a in one] == pytest.approx([b.score for b in two], rel=1e-6)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a.probability, b.probability, rtol=1e-6)


def test_float_tiff_maps(folder, tmp_path, predictor):
    images = files.find_images(folder / "x.png", out=tmp_path)
    batch.predict_files(predictor, images, out=tmp_path, batch_size=8, map_format="tiff")
    probability = cv2.imread(str(tmp_path / "maps/x.png.tiff"), cv2.IMREAD_UNCHANGED)
    alone = predictor(cv2.imread(str(folder / "x.png"), cv2.IMREAD_UNCHANGED))
    np.testing.assert_array_equal(probability, alone.probability)


def test_a_batch_without_a_readable_image(folder, tmp_path, predictor):
    images = {name: folder / name for name in [*BROKEN, "x.png"]}
    summary = batch.predict_files(predictor, images, out=tmp_path / "out", batch_size=2)
    assert (summary.num_images, summary.num_errors) == (3, 2)


def test_usage_errors_name_what_is_wrong(folder, tmp_path, predictor, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ([f"--images={folder}"], "--out is missing"),
        ([f"--images={empty}", "--out=o"], f"{empty}: no image there"),
        ([f"--images={folder}/nowhere", "--out=o"], "no such file or folder"),
        ([f"--images={folder}/*.gif", "--out=o"], "no image there"),
        ([f"--images={folder}/*/../x.png", "--out=o"], r"'\.\.' after a wildcard"),
        ([f"--images={folder}", f"--out={folder}"], "cannot take the results too"),
        ([f"--images={folder}", f"--out={folder}/x.png"], "x.png.*cannot be written.*another output folder"),
    ):
        with pytest.raises(InputError, match=message):
            run_main(monkeypatch, predictor, *arguments)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "predictions.jsonl").write_text('{"text": "of another program"}\n')
    with pytest.raises(InputError, match="not a table of predictions"):
        run_main(monkeypatch, predictor, f"--images={folder}", f"--out={foreign}")
    assert (foreign / "predictions.jsonl").read_text() == '{"text": "of another program"}\n'


@pytest.mark.parametrize(
    ("source", "ids"),
    [
        ("", {*GOOD, *BROKEN}),
        ("a", {"x.png", "broken.png"}),
        ("x.bmp", {"x.bmp"}),
        ("*/x.png", {"a/x.png", "b/x.png"}),
        ("**/x.png", {"a/x.png", "b/x.png", "x.png"}),
        ("?.*", {"x.bmp", "x.png", "x.tiff"}),
        (".*.png", {".hidden.png"}),
        ("@eaDir/*", {"x.png"}),
    ],
)
def test_folder_file_and_pattern(folder, tmp_path, monkeypatch, source, ids):
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "x.png").write_bytes(b"")  # a network drive's thumbnail
    found = files.find_images(folder / source, out=tmp_path)
    assert list(found) == sorted(ids)
    monkeypatch.chdir(folder)
    relative = files.find_images(source or ".", out=tmp_path)
    assert list(relative) == sorted(ids)
    assert [path.resolve() for path in relative.values()] == list(found.values())


@pytest.mark.parametrize("is_tiled", [False, True])
def test_a_batch_is_waited_for_only_when_the_next_one_is_under_way(tmp_path, predictor, is_tiled):
    """So that images are decoded, and bands of a large one are read, while the device computes."""
    started = []

    class Running:
        def __init__(self, number: int, values: np.ndarray):
            self.number, self.values = number, values

        def __array__(self, dtype=None, copy=None):
            assert len(started) > self.number + 1 or self.number + 1 == num_batches
            return self.values

    def forward(variables, images):
        started.append(len(images))
        cells = images[..., 0].reshape(len(images), 8, 8, 8, 8).mean((2, 4))
        number = len(started) - 1
        return {"probability": Running(number, cells), "decision": Running(number, cells.max((1, 2)))}

    lazy = dataclasses.replace(predictor, forward=forward)
    num_batches = 5
    if is_tiled:
        paths = [tmp_path / "large.tif"]
        tifffile.imwrite(paths[0], np.zeros((5 * 64, 2 * 64), np.uint8), rowsperstrip=64)
        lazy = lazy.in_tiles(overlap=0)
    else:
        paths = [tmp_path / f"{number}.png" for number in range(10)]
        for path in paths:
            assert cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    images = {path.name: path for path in paths}
    list(batch.judge_files(lazy, images, out=tmp_path / "out", batch_size=2, map_format="npy"))
    assert started == [2] * num_batches
