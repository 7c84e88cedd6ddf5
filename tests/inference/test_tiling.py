"""Images in tiles against the same network on the whole image; one program for all sizes; bounded memory."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from jaxdefect import models
from jaxdefect.config import Config, DataConfig
from jaxdefect.inference import devices, pixel_map
from jaxdefect.inference.components import runs_of
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.inference.tiles import Tiling, make_tiling
from jaxdefect.model_config import ModelConfig, RegressionConfig, UNetConfig
from jaxdefect.models.layers import feature_norm
from jaxdefect.types import InputError


def make_predictor(
    model: ModelConfig, *, image_size: tuple[int, int], apply: Callable[..., Any], variables: Any = None
) -> Predictor:
    return Predictor(
        config=Config(data=DataConfig(image_size=image_size), model=model),
        variables={} if variables is None else variables,
        checkpoint_step=1,
        workdir=Path("run"),
        calibration=None,
        forward=compile_forward(apply),
    )


def with_input_size(predictor: Predictor, image_size: tuple[int, int]) -> Predictor:
    data = dataclasses.replace(predictor.config.data, image_size=image_size)
    return dataclasses.replace(predictor, config=dataclasses.replace(predictor.config, data=data))


def surface(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    image = rng.normal(0.5, 0.1, (height, width, 1))
    image[height // 3 : height // 3 + 4, width // 4 : width // 2] += 0.4
    return np.clip(image, 0, 1).astype(np.float32)


def spread_out(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    """Random averages for the batch norms, as after a training; a last layer whose map is not all the same."""
    rng = np.random.default_rng(len(str(path)))
    name = jax.tree_util.keystr(path)
    if "batch_stats" in name:
        values = rng.normal(0, 0.1, leaf.shape) if "mean" in name else rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, jnp.float32)
    return 60 * leaf if "severity" in name and "kernel" in name else leaf


@pytest.mark.parametrize(
    ("model", "tile", "spread"),
    [
        (RegressionConfig(), (320, 320), 0.3),
        pytest.param(UNetConfig(norm="batch"), (160, 160), 3e-3, marks=pytest.mark.slow),
    ],
    ids=["regression", "unet"],
)
def test_with_batch_norm_the_map_in_tiles_is_that_of_the_whole_image(model, tile, spread):
    height, width = 3 * tile[0] // 2, 2 * tile[1]
    image = surface(height, width)[..., 0]
    module = models.build(model)
    variables = jax.tree_util.tree_map_with_path(spread_out, models.init(module, num_channels=1, seed=0))
    predictor = make_predictor(model, image_size=tile, apply=module.apply, variables=variables)
    whole, tiled = with_input_size(predictor, (height, width))(image), predictor.in_tiles()(image)
    assert np.ptp(whole.probability) > spread  # there is something to see
    assert np.abs(tiled.probability - whole.probability).max() < 1e-3 * min(1, 10 * spread)
    assert tiled.score == pytest.approx(whole.score, abs=1e-4)


def test_what_a_network_normalises_by_its_input_it_normalises_by_each_tile():
    """On a homogeneous texture that changes little; what is far away changes nothing, unlike in the whole image."""

    def apply(variables, image, *, train):
        normal = feature_norm(image, jnp.ones(1), jnp.zeros(1), False)
        return {"probability": jax.nn.sigmoid(normal[..., 0]), "decision": normal.max((1, 2, 3))}

    tiled = make_predictor(UNetConfig(), image_size=(128, 128), apply=apply).in_tiles()
    whole = with_input_size(dataclasses.replace(tiled, tiling=None), (128, 512))
    texture = np.random.default_rng(0).normal(0.5, 0.1, (128, 512)).clip(0, 1).astype(np.float32)
    bright = texture.copy()
    bright[:, 384:] = 1
    in_tiles = [tiled(image).probability for image in (texture, bright)]
    at_once = [whole(image).probability for image in (texture, bright)]
    assert np.abs(in_tiles[0] - at_once[0]).max() < 0.03
    np.testing.assert_array_equal(in_tiles[0][:, :280], in_tiles[1][:, :280])
    assert np.abs(at_once[0] - at_once[1])[:, :280].max() > 0.2
    # A tile is judged as an image of its size is.
    alone = with_input_size(whole, (128, 128))(texture[:, 64:192]).probability
    np.testing.assert_allclose(in_tiles[0][:, 124:132], alone[:, 60:68], atol=1e-6)


def test_images_of_any_size_run_one_program():
    traces = []

    def apply(variables, image, *, train):
        traces.append(image.shape)
        cells = image[..., 0].reshape(len(image), 16, 4, 16, 4).mean((2, 4))
        return {"probability": cells, "decision": cells.max((1, 2))}

    predictor = make_predictor(RegressionConfig(), image_size=(64, 64), apply=apply).in_tiles()
    for height, width in ((64, 64), (300, 70), (10, 500), (129, 257)):
        image = surface(height, width)
        judged = predictor.judge([image, image], batch_size=8)
        assert [each.probability.shape for each in judged] == [(height, width)] * 2
        np.testing.assert_array_equal(judged[0].probability, judged[1].probability)
    assert traces == [(8, 64, 64, 1)]


def test_integers_are_scaled_on_the_device_to_the_bit(monkeypatch):
    """Also where the images of a batch are stored in different types."""

    def apply(variables, image, *, train):
        assert image.dtype == jnp.float32
        cells = image[..., 0].reshape(len(image), 16, 4, 16, 4).max((2, 4))
        return {"probability": cells, "decision": cells.max((1, 2))}

    predictor = make_predictor(RegressionConfig(), image_size=(64, 64), apply=apply).in_tiles(overlap=0)
    rng, images = np.random.default_rng(0), []
    for dtype in (np.uint8, np.uint16, np.uint8):
        images.append(rng.integers(0, np.iinfo(dtype).max, (128, 192, 1), dtype, endpoint=True))
    images.append(surface(128, 192))
    sent, place = [], devices.place
    monkeypatch.setattr(devices, "place", lambda tiles, variables: sent.append(tiles.dtype) or place(tiles, variables))
    for image, judged in zip(images, predictor.stream(map(predictor.prepare, images), batch_size=4), strict=True):
        scale = np.float32(1 if image.dtype == np.float32 else np.iinfo(image.dtype).max)
        cells = (image / scale).astype(np.float32).reshape(32, 4, 48, 4).max((1, 3))
        assert not isinstance(judged, InputError)
        np.testing.assert_array_equal(judged.map.cells.read(0, 32, plane=0), cells)
    assert set(sent) == {np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)}


def test_bands_without_a_defect_need_not_be_interpolated(monkeypatch):
    cells = np.random.default_rng(0).random((1, 200, 90)).astype(np.float32) * 0.4
    cells[0, 60:64, 20:30], cells[0, 199, 89] = 0.9, 0.5
    monkeypatch.setattr(pixel_map, "_BAND_PIXELS", 360 * 24)
    whole = pixel_map.PixelMap(800, 360, pixel_map.Cells.of(cells), 200, (4, 4), 1)
    for threshold in (0.3, 0.45, float(whole.whole().max())):
        few = list(whole.bands(reaching=threshold))
        assert len(few) < len(list(whole.bands())) or threshold == 0.3
        expected = runs_of([(0, whole.whole())], threshold=threshold)
        assert len(expected.row) > 0
        for found, value in zip(runs_of(few, threshold=threshold), expected, strict=True):
            np.testing.assert_array_equal(found, value)
    assert not list(whole.bands(reaching=1.0))
    assert len(runs_of([], threshold=1.0).row) == 0


def test_a_tile_of_another_size_is_resized_as_the_training_images_were():
    def apply(variables, image, *, train):
        cells = image[..., 0].reshape(len(image), 16, 4, 16, 4).mean((2, 4))
        return {"probability": cells, "decision": jnp.zeros(len(image))}

    predictor = make_predictor(RegressionConfig(), image_size=(64, 64), apply=apply)
    rows, columns = np.mgrid[:300, :400].astype(np.float32)
    ramp = 0.2 + 0.3 * rows / 300 + 0.4 * columns / 400
    found = predictor.in_tiles((128, 96))(ramp).probability
    np.testing.assert_allclose(found[8:-8, 8:-8], ramp[8:-8, 8:-8], atol=4e-3)


def test_tiles_lie_on_the_grid_of_the_network():
    unet = Config(data=DataConfig(image_size=(208, 160)), model=UNetConfig())
    assert make_tiling(unet) == Tiling((208, 160), (96, 80))  # 104 is no multiple of 16
    assert make_tiling(unet, overlap=0) == Tiling((208, 160), (208, 160))
    assert make_tiling(unet, size=(416, 320), overlap=0.75).stride_px == (96, 64)
    segdec = Config(data=DataConfig(image_size=(704, 256)))
    assert make_tiling(segdec, size=(1232, 512)) == Tiling((1232, 512), (616, 256))
    with pytest.raises(InputError, match=r"1250x500.*nearest valid size is 1232x512"):
        make_tiling(segdec, size=(1250, 500))
    with pytest.raises(InputError, match=r"overlap of 0\.95"):
        make_tiling(segdec, overlap=0.95)


MEASURE = """
import sys
from pathlib import Path
import jax.numpy as jnp
from jaxdefect.benchmark import measure
from jaxdefect.config import Config, DataConfig
from jaxdefect.inference import batch
from jaxdefect.inference.predictor import Predictor, compile_forward
from jaxdefect.model_config import UNetConfig

def apply(variables, image, *, train):
    return {"probability": image[..., 0], "decision": jnp.zeros(len(image))}

config = Config(data=DataConfig(image_size=(64, 256)), model=UNetConfig(norm="batch", threshold=0.5))
predictor = Predictor(config, {}, 1, Path("run"), None, compile_forward(apply)).in_tiles()
for name in sys.argv[1:]:
    measure.forget_peak()
    before = measure.resident_bytes("VmRSS")
    path = Path(name)
    batch.predict_files(predictor, {path.name: path}, out=path.parent / "out", batch_size=8)
    print((measure.resident_bytes("VmHWM") - before) // 1024)
"""


def test_memory_does_not_grow_with_the_image(tmp_path: Path):
    """A map at full resolution, so that nothing is small."""
    paths = []
    for name, height in (("small", 8192), ("large", 32768)):
        pixels = np.zeros((height, 768), np.uint8)
        pixels[100:140, 200:700] = 255
        paths.append(str(tmp_path / f"{name}.tif"))
        tifffile.imwrite(paths[-1], pixels, rowsperstrip=64, compression="zlib")
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    growth_kb = int(done.stdout.split()[-1])
    float32_kb = 4 * 32768 * 768 // 1024
    assert growth_kb < 0.5 * float32_kb  # of one float32 copy
