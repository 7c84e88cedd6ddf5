"""An export: the same answers without the run, everything else in the sidecar, nothing left where it differs."""

import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect import config as config_lib
from jaxdefect import models
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import exported, policies
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.predictor import Predictor
from jaxdefect.inference.score_maps import Platt
from jaxdefect.inference.tiles import Tiling
from jaxdefect.interop import checking, runtimes
from jaxdefect.interop.export import export
from jaxdefect.training import checkpoint as checkpoints
from jaxdefect.types import InputError

STEEL = {"data": {"image_size": (64, 64)}, "model": {"kernels": "atrous"}}
CALIBRATION = Calibration(
    threshold=0.3,
    pixel_threshold=0.4,
    source="validation",
    checkpoint_step=1,
    logistic=(2.0, -1.0, 0.1),
    reject_threshold=0.6,
    policy=policies.make("guarantee", alpha=0.1, reject_precision=1.0),
    promise="at most 10 % missed",
    score_map=Platt(1.5, -0.2),
)


def make_images(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((64, 64), (90, 70), (100, 130))]


@pytest.fixture(scope="module")
def written(tmp_path_factory, untrained_run) -> Path:
    """A folder with a run that has a calibration, "run", and its export as StableHLO, "alone"; not to be changed."""
    root = tmp_path_factory.mktemp("export")
    untrained_run(root / "run", config_lib.from_dict(STEEL))
    calibrations.save(CALIBRATION, root / "run")
    shutil.copytree(root / "run", root / "gone")
    result = export(root / "gone", kind="stablehlo", out=root / "out", num_images=2)
    assert result.graphs == {"model": root / "out" / "model.stablehlo"}
    assert "synthetic surfaces" in result.images
    shutil.move(root / "out", root / "alone")
    shutil.rmtree(root / "gone")
    return root


@pytest.fixture
def run(tmp_path, written) -> Path:
    """A run with a calibration."""
    return shutil.copytree(written / "run", tmp_path / "run")


@pytest.fixture
def alone(tmp_path, written, monkeypatch) -> Path:
    """Its export, moved elsewhere; the run is gone, and neither networks nor checkpoints can be had."""
    for module, name in ((models, "build"), (checkpoints, "restore_variables")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("needs the run"))
    return shutil.copytree(written / "alone", tmp_path / "alone")


def assert_same(found: Predictor, wanted: Predictor) -> None:
    for image in make_images():
        ours, theirs = found(image), wanted(image)
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
        assert (ours.is_defective, ours.verdict) == (theirs.is_defective, theirs.verdict)
        assert ours.class_scores == pytest.approx(theirs.class_scores, abs=1e-5)
        assert [defect.box for defect in ours.defects] == [defect.box for defect in theirs.defects]
        np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-5)
    assert (found.threshold, found.pixel_threshold) == (wanted.threshold, wanted.pixel_threshold)
    assert (found.calibration, found.config) == (wanted.calibration, wanted.config)
    assert found.checkpoint_step == wanted.checkpoint_step


def test_an_exported_file_predicts_as_its_run_without_it(tmp_path, run, request, caplog):
    predictor = Predictor.load(run)
    alone = request.getfixturevalue("alone")
    assert_same(Predictor.load(alone), predictor)
    assert_same(Predictor.load(alone / "model.stablehlo"), predictor)
    other = tmp_path / "other.json"
    calibrations.write(Calibration(0.9, 0.8, "validation", 1), other)
    caplog.clear()
    assert Predictor.load(alone, calibration=other).threshold == 0.9
    assert not caplog.records
    calibrations.write(Calibration(0.9, 0.8, "validation", 5), other)
    Predictor.load(alone, calibration=other)
    assert "was chosen for the checkpoint of step 5, and this is step 1" in caplog.text
    misfit = Tiling((100, 100), (50, 50))
    calibrations.write(Calibration(0.9, 0.8, "validation", 1, tiling=misfit), other)
    with pytest.raises(InputError, match=r"other\.json: chosen with tiles that do not suit this run"):
        Predictor.load(alone, calibration=other)


def test_the_sidecar_says_all_that_the_graph_does_not(tmp_path, run):
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), make_images()[1])
    result = export(run, kind="stablehlo", out=tmp_path / "out", images=str(image), batch=2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.stablehlo", "model.stablehlo.json"]
    sidecar = json.loads((tmp_path / "out" / "model.stablehlo.json").read_text())
    data = (tmp_path / "out" / "model.stablehlo").read_bytes()
    (graph,) = sidecar["graphs"].values()
    assert graph["files"] == {"model.stablehlo": hashlib.sha256(data).hexdigest()}
    assert graph["input_shape"] == [2, 64, 64, 1]
    assert {name: output["shape"] for name, output in graph["outputs"].items()} == {
        "decision": [2],
        "probability": [2, 8, 8],
    }
    meaning = graph["outputs"]["decision"]["meaning"]
    assert all(f"calibration.{name}" in meaning for name in ("logistic", "score_map", "reject_threshold"))
    assert (sidecar["input"]["value_range"], sidecar["input"]["channels"]) == ([0, 1], "gray")
    assert (sidecar["threshold"], sidecar["pixel_threshold"]) == (0.3, 0.4)
    assert calibrations.from_json(sidecar["calibration"]) == CALIBRATION
    assert config_lib.from_dict(sidecar["config"]) == config_lib.from_dict(STEEL)
    assert sidecar["versions"].keys() >= {"jaxdefect", "jax"}
    assert sidecar["check"]["model"]["probability"] == result.checks["model"].probability <= 1e-4
    found, wanted = Predictor.load(tmp_path / "out"), Predictor.load(run)
    assert_same(found, wanted)
    images = [image[..., None].astype(np.float32) / 255 for image in make_images()]
    scores = [[judgement.score for judgement in predictor.judge(images)] for predictor in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("platforms", "message"),
    [(("cuda",), r"--platforms=cuda: .* add cpu"), (("cpu", "gpu"), r"'gpu' is none of cpu, cuda, rocm")],
)
def test_platforms_that_are_unknown_or_lack_the_cpu_are_refused(platforms, message, tmp_path, run):
    with pytest.raises(InputError, match=message):
        export(run, kind="stablehlo", out=tmp_path / "out", platforms=platforms)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [2e-4, np.nan])
def test_a_graph_that_differs_is_not_left_and_an_earlier_export_stays(size, tmp_path, run, written, monkeypatch):
    out = shutil.copytree(written / "alone", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    runtime = runtimes.RUNTIMES["stablehlo"]

    def write_another(network, path, batch, platforms):
        def function(variables, images):
            outputs = network.function(variables, images)
            return outputs | {"probability": outputs["probability"] + jnp.float32(size)}

        runtime.write(network._replace(function=function), path, batch, platforms)

    monkeypatch.setitem(runtimes.RUNTIMES, "stablehlo", runtime._replace(write=write_another))
    result = export(run, kind="stablehlo", out=out, num_images=1)
    assert not result.graphs
    assert not result.checks["model"].probability <= 1.9e-4
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_original_that_is_not_finite_is_no_match():
    network = runtimes.Network(lambda _, images: {"probability": images[..., 0] * jnp.nan}, {}, (4, 4, 1))
    image = np.zeros((1, 4, 4, 1), np.float32)
    assert not checking.check(network, lambda images: {"probability": images[..., 0]}, image, batch=1).is_passed


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.with_name("model.stablehlo.json").unlink(), "sidecar of the export is missing"),
        (lambda path: path.with_name("model.stablehlo.json").write_text("{"), "not the sidecar of an export"),
        (
            lambda path: edit(path.with_name("model.stablehlo.json"), sidecar_version=2),
            "version 2, written by jaxdefect",
        ),
        (
            lambda path: edit(path.with_name("model.stablehlo.json"), config={"new": 1}),
            r"cannot be read here \(config.new",
        ),
        (lambda path: edit(path.with_name("model.stablehlo.json"), graphs={}), "cannot be read here"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "SHA-256 differs"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
    ids=["no sidecar", "broken sidecar", "newer sidecar", "newer config", "no graph", "another file", "no file"],
)
def test_an_export_that_is_not_whole_says_what_to_do(spoil, message, alone):
    spoil(alone / "model.stablehlo")
    with pytest.raises(InputError, match=message):
        Predictor.load(alone)


def test_what_is_no_export_for_here_is_refused(tmp_path, alone, monkeypatch):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds model.onnx, which runs in its own runtime.*--format=stablehlo"):
        Predictor.load(tmp_path / "onnx")
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"image\.png: not an exported StableHLO file"):
        Predictor.load(tmp_path / "image.png")
    with pytest.raises(InputError, match="not the directory of a run"):
        Predictor.load(tmp_path)
    with pytest.raises(InputError, match=r"--checkpoint=best.* holds only one"):
        Predictor.load(alone, checkpoint="best")
    monkeypatch.setattr(exported.jax, "default_backend", lambda: "tpu")
    with pytest.raises(InputError, match="exported for cpu, cuda, and this is tpu"):
        Predictor.load(alone)


def test_a_run_without_thresholds_says_so_once_exported(tmp_path, run, caplog):
    calibrations.calibration_path(run).unlink()
    export(run, kind="stablehlo", out=tmp_path / "out", num_images=1)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert Predictor.load(tmp_path / "out").threshold == 0.5
    assert "without a calibration" in caplog.text


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_an_ensemble_is_one_graph_and_its_thresholds_stand_beside_it(kind, tmp_path, untrained_run):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    member = config_lib.from_dict(STEEL)
    config = dataclasses.replace(member, ensemble=config_lib.EnsembleConfig("per_class"))
    workdir = tmp_path / "run"
    untrained_run(workdir, config)
    for seed, name, threshold in ((0, "dent", 0.2), (1, "scratch", 0.7)):
        training = dataclasses.replace(member.training, seed=seed)
        untrained_run(workdir / "members" / name, dataclasses.replace(member, training=training))
        calibrations.save(Calibration(threshold, threshold / 2, "validation", 1), workdir / "members" / name)
    result = export(workdir, kind=kind, out=tmp_path / "out", num_images=2)
    assert result.checks["model"].is_passed
    (path,) = (tmp_path / "out").glob("*.json")
    sidecar = json.loads(path.read_text())
    outputs = sidecar["graphs"]["model"]["outputs"]
    assert outputs["probability"]["shape"] == ["batch", 2, 8, 8]
    assert "class_thresholds[k]: a defect of classes[k]" in outputs["decision"]["meaning"]
    assert (sidecar["classes"], sidecar["class_thresholds"]) == (["dent", "scratch"], [0.2, 0.7])
    assert sidecar["class_pixel_thresholds"] == pytest.approx([0.1, 0.35])
    if kind == "stablehlo":
        assert_same(Predictor.load(tmp_path / "out"), Predictor.load(workdir))
        sha256 = Predictor.load(workdir).weights_sha256
        path = tmp_path / "joint.json"
        calibrations.write(Calibration(0.3, 0.5, "validation", 1, weights_sha256=sha256, reject_threshold=0.9), path)
        exported = Predictor.load(tmp_path / "out", calibration=path)
        assert [exported.verdict(score) for score in (0.2, 0.4, 0.9)] == ["accept", "inspect", "reject"]
        calibrations.write(Calibration(0.3, 0.5, "validation", 1, weights_sha256="another"), path)
        with pytest.raises(InputError, match=r"joint\.json: not chosen for the joined score"):
            Predictor.load(tmp_path / "out", calibration=path)


def test_the_classifier_of_defects_is_exported_beside_its_detector(tmp_path, untrained_run):
    data = {"image_size": (64, 64), "fit": "patches", "target": "severity"}
    config = config_lib.from_dict(
        {
            "data": data,
            "model": {"architecture": "regression"},
            "loss": {"segmentation": "l2", "balance": "none", "decision_weight": 0.0},
            "classifier": {"is_enabled": True, "window_px": 64, "model": {"depth": 18}},
        }
    )
    own = {"image_size": (64, 64), "classes": ("a b", "c")}
    classifier = config_lib.from_dict(
        {
            "data": own,
            "model": {"architecture": "resnet", "depth": 18, "num_classes": 3},
            "loss": {"balance": "none"},
        }
    )
    workdir = tmp_path / "run"
    untrained_run(workdir, config)
    untrained_run(workdir / "classifier", classifier)
    calibrations.save(Calibration(0.5, 0.01, "validation", 1), workdir)
    result = export(workdir, kind="stablehlo", out=tmp_path / "out", num_images=1)
    assert list(result.graphs) == ["model", "classifier"]
    found, wanted = Predictor.load(tmp_path / "out"), Predictor.load(workdir)
    assert found.classifier is not None
    assert wanted.classifier is not None
    assert found.classifier.classes == ("a b", "c")
    windows = np.random.default_rng(0).random((16, 64, 64, 1), np.float32)
    ours, theirs = (part.forward(part.variables, windows) for part in (found.classifier, wanted.classifier))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert_same(found, wanted)
    assert Predictor.load(tmp_path / "out", stages="detector").classifier is None
    (tmp_path / "out" / "classifier.stablehlo").write_bytes(b"")
    with pytest.raises(InputError, match=r"classifier\.stablehlo: not the file"):
        Predictor.load(tmp_path / "out")
    # A classifier by itself is a graph of its own, and no predictor.
    assert export(workdir / "classifier", kind="stablehlo", out=tmp_path / "alone", num_images=1).graphs
