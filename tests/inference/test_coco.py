"""Predicted defects as COCO, read back by the reader: the same masks, and full marks in the metrics."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdefect.config import Config, DataConfig, InferenceConfig
from jaxdefect.data import annotation, readers
from jaxdefect.data.readers.coco import decode_counts, encode_counts
from jaxdefect.inference import batch, coco, ensemble
from jaxdefect.inference.components import find_defects
from jaxdefect.inference.defects import UNKNOWN_CLASS, compare, summary
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.model_config import RegressionConfig


def test_run_lengths_are_the_inverse_of_the_reader_and_of_the_published_example():
    rng = np.random.default_rng(0)
    for counts in ([0, 5], [12], [3, 2, 0, 7, 100000, 1, 2], rng.integers(0, 3000, 200).tolist()):
        assert decode_counts(encode_counts(counts)) == counts
    # An example of COCO's: 6 outside, 1 inside, 40 outside, 4 inside, 5, 4, 5, 4, 21.
    assert encode_counts([6, 1, 40, 4, 5, 4, 5, 4, 21]) == "61X13mN000`0"


@pytest.mark.parametrize("seed", range(3))
def test_a_defect_has_its_pixels_column_by_column(seed):
    rng = np.random.default_rng(seed)
    plane = cv2.blur(rng.random((40, 31)).astype(np.float32), (3, 3))
    plane[20:, 5] = 1  # down to the last row, and on from the first of the next column
    plane[:4, 6] = 1
    labels, defects = find_defects(plane, threshold=0.55, join_distance_px=0)
    assert len(defects) > 3
    for defect in defects:
        found = coco.segmentation(defect, height=40, width=31)
        values = np.arange(len(counts := decode_counts(found["counts"]))) % 2
        mask = np.repeat(values, counts).reshape(31, 40).T
        np.testing.assert_array_equal(mask, labels == defect.label)
        assert found["size"] == [40, 31]


def apply(variables, image, *, train):
    cells = image[..., 0].reshape(len(image), 16, 4, 16, 4).mean((2, 4))
    return {"probability": cells, "decision": cells.max((1, 2))}


def member_apply(variables, image, *, train):
    """One member finds what is bright, the other what is dark."""
    sign = variables["sign"]
    return apply({}, sign * image + (1 - sign) / 2, train=train)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(
        config=Config(
            data=DataConfig(image_size=(64, 64)),
            model=RegressionConfig(),
            inference=InferenceConfig(join_distance_px=3, min_area_px=60),
        ),
        variables={},
        checkpoint_step=1,
        workdir=Path("run"),
        calibration=None,
        forward=compile_forward(apply),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "lot").mkdir(parents=True)
    pixels = np.full((3, 120, 90), 100, np.uint8)
    pixels[0, 20:50, 10:16] = pixels[0, 60:70, 30:80] = 255
    pixels[0, 0:4, 84:90] = 200  # too small
    pixels[2, 40:80, 30:60] = 255
    pixels[2, 80:110, 30:60] = 10
    for name, image in zip(("a.png", "lot/b.png", "lot/c.png"), pixels, strict=True):
        assert cv2.imwrite(str(root / name), image)
    return root


def predict(predictor: Predictor, folder: Path, out: Path) -> dict:
    images = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}
    images["none.png"] = folder / "none.png"
    batch.predict_files(predictor, images, out=out, batch_size=2, map_format="npy")
    shutil.copy(out / "defects.json", folder)
    return json.loads((out / "defects.json").read_text())


@pytest.mark.parametrize("is_tiled", [False, True])
def test_defects_go_to_coco_and_back_into_the_metrics(predictor, folder, tmp_path, is_tiled):
    if is_tiled:
        predictor = predictor.in_tiles()
    document = predict(predictor, folder, tmp_path / "out")
    assert [image["file_name"] for image in document["images"]] == ["a.png", "lot/b.png", "lot/c.png"]
    assert [category["name"] for category in document["categories"]] == [UNKNOWN_CLASS]
    assert [each["image_id"] for each in document["annotations"]] == [1, 1, 3]
    assert all(each["area"] >= 60 and 0.5 <= each["score"] <= 1 for each in document["annotations"])
    samples = readers.read(DataConfig(reader="coco", root=str(folder)))
    assert [(sample.id, sample.label) for sample in samples] == [("a", 1), ("lot/b", 0), ("lot/c", 1)]
    found = []
    for sample, image in zip(samples, document["images"], strict=True):
        probability = np.load(tmp_path / "out" / "maps" / f"{image['file_name']}.npy")
        mask = annotation.load_mask(sample, height=120, width=90)
        labels, _ = find_defects(probability, threshold=0.5, join_distance_px=3, min_area_px=60)
        np.testing.assert_array_equal(mask, labels > 0)
        settings = {"threshold": 0.5, "join_distance_px": 3, "min_area_px": 60}
        found.append(compare(sample, mask, probability, **settings))
    figures = summary(found, with_class=False)
    assert (figures["num_true"], figures["num_predicted"]) == (3, 3)
    assert figures["average_recall"] == figures["precision_iou_50"] == figures["mean_iou"] == 1


def test_an_ensemble_has_the_defects_of_each_class(predictor, folder, tmp_path):
    names = ("bright", "dark")
    stacked = {"sign": jnp.array([1.0, -1.0])}
    both = dataclasses.replace(
        predictor,
        forward=ensemble.compile_forward(member_apply),
        variables=(stacked, jnp.array([0.5, 0.8])),  # each member's own pixel threshold
        classes=names,
        class_thresholds=(0.5, 0.8),
    )
    for kind in (both, both.in_tiles()):
        document = predict(kind, folder, tmp_path / "out")
        categories = {category["id"]: category["name"] for category in document["categories"]}
        assert sorted(categories.values()) == ["bright", "dark"]
        places = [(each["image_id"], categories[each["category_id"]]) for each in document["annotations"]]
        assert places == [(1, "bright"), (1, "bright"), (3, "bright"), (3, "dark")]
        samples = readers.read(DataConfig(reader="coco", root=str(folder)))
        assert samples[2].classes == names
