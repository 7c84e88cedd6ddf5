"""The predictor: one program for all sizes, one score for the same content, exact scores."""

import dataclasses
import logging
import types
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect.config import Config, DataConfig
from jaxdefect.inference import calibration as calibrations
from jaxdefect.inference import predictor as predictor_module
from jaxdefect.inference.calibration import Calibration
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.inference.score_maps import Platt
from jaxdefect.model_config import RegressionConfig
from jaxdefect.types import InputError

GAIN = 10.0


def make_predictor(*, num_channels: int = 1, calibration: Calibration | None = None) -> tuple[Predictor, list]:
    """A model whose logit map is 10 (cell mean - 0.5) and whose score is its maximum; and what it was traced for."""
    traces = []

    def apply(variables, image, *, train):
        assert not train
        traces.append(image.shape)
        batch, height, width, channels = image.shape
        cells = image.reshape(batch, height // 8, 8, width // 8, 8, channels).mean((2, 4, 5))
        logits = variables["gain"] * (cells - 0.5)
        return {"probability": jax.nn.sigmoid(logits), "decision": logits.max((1, 2))}

    predictor = Predictor(
        config=Config(data=DataConfig(image_size=(64, 96), num_channels=num_channels)),
        variables={"gain": jnp.float32(GAIN)},
        checkpoint_step=7,
        workdir=Path("run"),
        calibration=calibration,
        forward=compile_forward(apply),
    )
    return predictor, traces


def reference_scores(images: np.ndarray) -> np.ndarray:
    cells = images.astype(np.float64).reshape(len(images), 8, 8, 12, 8, -1).mean((2, 4, 5))
    return 1 / (1 + np.exp(-GAIN * (cells.max((1, 2)) - 0.5)))


@pytest.mark.parametrize("num_channels", [1, 3])
def test_the_same_content_scores_the_same_in_every_type_and_layout(num_channels):
    predictor, _ = make_predictor(num_channels=num_channels)
    gray = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    gray[:32] //= 2
    variants = {
        "flat": gray,
        "channel": gray[..., None],
        "colour": np.repeat(gray[..., None], 3, axis=-1),
        "uint16": gray.astype(np.uint16) * 257,
        "uint16 colour": np.repeat(gray[..., None].astype(np.uint16) * 257, 3, axis=-1),
        "float32": gray.astype(np.float32) / 255,
        "float64": gray / 255,
        "strided": np.repeat(gray, 2, axis=1)[:, ::2],
    }
    expected = reference_scores(gray[None, ..., None] / 255)[0]
    for name, image in variants.items():
        assert predictor(image).score == pytest.approx(expected, abs=1e-6), name


def test_colour_is_read_as_rgb():
    predictor, _ = make_predictor()
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = 255
    assert predictor(red).score == pytest.approx(1 / (1 + np.exp(-GAIN * (0.299 - 0.5))), rel=1e-5)


def test_any_image_size_runs_the_one_compiled_program():
    predictor, traces = make_predictor()
    for height, width in ((64, 96), (13, 500), (301, 7), (1, 1), (200, 300)):
        prediction = predictor(np.full((height, width), 204, np.uint8))
        assert prediction.probability.shape == (height, width)
        np.testing.assert_allclose(prediction.probability, 1 / (1 + np.exp(-3)), rtol=1e-5)
    assert traces == [(1, 64, 96, 1)]


def test_padding_changes_nothing_and_saves_compilation():
    predictor, traces = make_predictor()
    images = np.random.default_rng(1).random((8, 64, 96, 1), np.float32) ** np.arange(1, 9)[:, None, None, None]
    for count in (5, 6, 7, 8):
        judgements = predictor.judge(list(images[:count]))
        assert {judgement.probability.shape for judgement in judgements} == {(8, 12)}
        np.testing.assert_allclose([j.score for j in judgements], reference_scores(images[:count]), rtol=1e-5)
    judgements = predictor.judge(list(images[:3]), batch_size=8)
    np.testing.assert_allclose([j.score for j in judgements], reference_scores(images[:3]), rtol=1e-5)
    assert traces == [(8, 64, 96, 1)]


def test_judging_one_by_one_takes_the_next_batch_before_it_waits_for_the_last():
    predictor, _ = make_predictor()
    images = np.random.default_rng(2).random((5, 64, 96, 1), np.float32)
    taken, taken_before = [], []

    def take():
        for number, image in enumerate(images):
            taken.append(number)
            yield image

    scores = []
    for judgement in predictor.on_all_devices().judge_each(take(), batch_size=2):
        taken_before.append(len(taken))
        scores.append(judgement.score)
    np.testing.assert_allclose(scores, reference_scores(images), rtol=1e-5)
    assert taken_before == [4, 4, 5, 5, 5]


def test_strong_scores_are_not_tied():
    predictor, _ = make_predictor()
    strong = dataclasses.replace(predictor, variables={"gain": jnp.float32(50)})  # logits 20 and 25
    images = np.stack([np.full((64, 96, 1), value, np.float32) for value in (0.9, 1.0)])
    first, second = (judgement.score for judgement in strong.judge(list(images)))
    np.testing.assert_allclose([1 - first, 1 - second], [np.exp(-20), np.exp(-25)], rtol=1e-3)
    assert first < second < 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((0, 8), np.uint8), r"shape \(0, 8\)"),
        (np.zeros((8, 8), np.int32), "type int32"),
        (np.full((8, 8), 1.5), "from 1.5 to 1.5"),
        (np.full((8, 8), np.nan), "from nan to nan"),
    ],
)
def test_an_array_that_is_no_image_is_refused(image, message):
    predictor, _ = make_predictor()
    with pytest.raises(InputError, match=message):
        predictor(image)


def test_an_image_of_other_channels_or_a_broken_model_is_refused():
    predictor, _ = make_predictor()
    with pytest.raises(InputError, match=r"\[H, W, 1\]"):
        predictor.judge([np.zeros((64, 96, 3), np.float32)])
    broken = dataclasses.replace(predictor, variables={"gain": jnp.float32(np.nan)})
    with pytest.raises(InputError, match="step 7 gives NaN"):
        broken.judge([np.zeros((64, 96, 1), np.float32)])


def test_load_takes_thresholds_from_the_calibration_and_says_when_there_is_none(tmp_path, monkeypatch, caplog):
    source, _ = make_predictor()
    asked = []

    def restore(workdir, *, config, which):
        asked.append(which)
        return {"gain": np.float32(GAIN)}, 40

    run = types.SimpleNamespace(config=source.config, workdir=tmp_path)
    monkeypatch.setattr(predictor_module.runs, "load", lambda workdir: run)
    monkeypatch.setattr(predictor_module.checkpoints, "restore_variables", restore)
    image = np.full((64, 96), 128, np.uint8)  # score 0.505

    with caplog.at_level(logging.WARNING):
        uncalibrated = Predictor.load(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no calibration" in caplog.text
    assert uncalibrated.threshold == uncalibrated.pixel_threshold == 0.5
    assert source(image).is_defective

    caplog.clear()
    calibrations.save(Calibration(0.6, 0.3, "validation", 40), tmp_path)
    calibrated = Predictor.load(tmp_path, checkpoint="best")
    assert (calibrated.threshold, calibrated.pixel_threshold, calibrated.checkpoint_step) == (0.6, 0.3, 40)
    assert not caplog.records
    assert asked == [None, "best"]
    decided = dataclasses.replace(calibrated, forward=source.forward)
    assert not decided(image).is_defective
    exact = Calibration(source(image).score, 0.3, "validation", 40)  # a score right at the threshold is defective
    assert dataclasses.replace(decided, calibration=exact)(image).is_defective

    calibrations.save(Calibration(0.6, 0.3, "validation", 30), tmp_path)
    Predictor.load(tmp_path)
    assert "step 30" in caplog.text


@pytest.mark.parametrize(("height", "width"), [(96, 120), (131, 149), (50, 70)])
def test_the_map_of_a_patched_image_lies_on_the_image(height, width):
    """Sides that are no multiple of a cell, and an image smaller than a patch."""

    def apply(variables, image, *, train):
        cells = image[..., 0].reshape(len(image), 16, 4, 16, 4).mean((2, 4))
        return {"probability": cells, "decision": jnp.zeros(len(image))}

    predictor = Predictor(
        config=Config(
            data=DataConfig(image_size=(64, 64), fit="patches"), model=RegressionConfig(cell_px=4, score="max")
        ),
        variables={},
        checkpoint_step=1,
        workdir=Path("run"),
        calibration=None,
        forward=compile_forward(apply),
    )
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    image = 0.2 + 0.3 * rows / height + 0.4 * columns / width  # a linear ramp survives averaging and interpolation
    prediction = predictor(image)
    inner = (slice(4, height - 8), slice(4, width - 8))
    np.testing.assert_allclose(prediction.probability[inner], image[inner], atol=4e-3)


def test_a_calibrated_score_is_what_decides_and_the_raw_one_is_kept(tmp_path):
    image = np.full((64, 96), 128, np.uint8)
    raw = make_predictor()[0](image).score
    platt = Platt(slope=2.0, intercept=-1.0)
    expected = 1 / (1 + np.exp(-(2 * np.log(raw / (1 - raw)) - 1)))
    calibration = Calibration(expected - 1e-6, 0.5, "validation", 7, reject_threshold=expected + 1e-6, score_map=platt)
    predictor, _ = make_predictor(calibration=calibration)
    prediction = predictor(image)
    assert prediction.score == pytest.approx(expected, rel=1e-9)
    assert (prediction.is_defective, prediction.verdict) == (True, "inspect")
    (judgement,) = predictor.judge([image[..., None].astype(np.float32) / 255])
    assert judgement.raw_score == raw
    assert predictor(np.zeros((64, 96), np.uint8)).verdict == "accept"
    assert predictor(np.full((64, 96), 255, np.uint8)).verdict == "reject"
    assert make_predictor()[0](image).verdict == "reject"  # without a calibration there are two ways only


def test_another_calibration_than_the_run_s_can_be_loaded(tmp_path, monkeypatch):
    source, _ = make_predictor()
    run = types.SimpleNamespace(config=source.config, workdir=tmp_path)
    monkeypatch.setattr(predictor_module.runs, "load", lambda workdir: run)
    monkeypatch.setattr(
        predictor_module.checkpoints, "restore_variables", lambda *_, **__: ({"gain": np.float32(GAIN)}, 40)
    )
    calibrations.save(Calibration(0.6, 0.3, "validation", 40), tmp_path)
    calibrations.write(Calibration(0.1, 0.3, "test", 40), tmp_path / "elsewhere" / "other.json")
    assert Predictor.load(tmp_path, calibration=tmp_path / "elsewhere" / "other.json").threshold == 0.1
    assert Predictor.load(tmp_path).threshold == 0.6


def test_rounding_beyond_one_in_a_resized_image_is_no_mistake():
    """OpenCV's averages of saturated pixels are a little above 1."""
    predictor, _ = make_predictor()
    image = np.full((333, 500, 1), 0.35, np.float32)
    image[100:200, 100:300] = 1
    resized = cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA)[..., None]
    assert resized.max() > 1
    (judged,) = predictor.judge([resized])
    assert 0 <= judged.score <= 1
