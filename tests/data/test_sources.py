"""Windows of image files against OpenCV's decoding of the whole, and how little of a TIFF is decoded for them."""

import types
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile

from jaxdefect.data import exif, images, patches, sources
from jaxdefect.data.images import read_image, to_unit_range
from jaxdefect.types import InputError, Window

SIZE = (150, 220)
WINDOWS = (
    Window(0, 0, *SIZE),
    Window(37, 65, 50, 100),
    Window(149, 219, 1, 1),
    Window(-10, 200, 60, 40),
    Window(140, -5, 64, 64),
)


def pixels(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    values = np.random.default_rng(0).random(shape)
    return values.astype(dtype) if dtype == np.float32 else (values * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        (SIZE, np.uint8, {}),
        (SIZE, np.uint8, {"rowsperstrip": 16, "bigtiff": True}),
        (SIZE, np.uint8, {"tile": (64, 48)}),
        (SIZE, np.uint16, {"rowsperstrip": 7, "byteorder": ">"}),
        (SIZE, np.uint16, {"tile": (32, 64), "compression": "zlib", "predictor": True, "bigtiff": True}),
        ((*SIZE, 3), np.uint8, {"rowsperstrip": 16, "compression": "zlib", "predictor": True, "photometric": "rgb"}),
        ((*SIZE, 3), np.uint16, {"tile": (64, 64), "photometric": "rgb"}),
        (SIZE, np.float32, {"rowsperstrip": 20, "compression": "zlib"}),
    ],
    ids=str,
)
def test_windows_of_a_tiff_are_those_of_the_decoded_image(tmp_path: Path, shape, dtype, options, num_channels):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(shape, dtype), **options)
    source = sources.open_image(path, num_channels=num_channels)
    assert isinstance(source, sources.TiffImage)
    whole = read_image(path, num_channels=num_channels)
    assert (source.height, source.width) == whole.shape[:2]
    for window in WINDOWS:
        found = patches.cut_source(source, window)
        assert found.dtype == dtype  # as stored: a byte a value is less to copy and to send
        np.testing.assert_array_equal(to_unit_range(found), patches.cut(whole, window))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])  # read in parts, and by OpenCV
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_not_turned(tmp_path: Path, orientation: int, compression: str):
    path, stored = tmp_path / "a.tif", pixels((40, 60), np.uint8)
    PIL.Image.fromarray(stored).save(path, compression=compression, tiffinfo={274: orientation})
    np.testing.assert_array_equal(images.read_pixels(path, num_channels=1)[..., 0], stored)
    assert images.image_size(path) == stored.shape
    assert exif.orientation(path) == orientation  # so that regions drawn on it are refused


def test_alpha_is_dropped_from_a_tiff_and_where_it_cannot_be_the_file_is_refused(tmp_path: Path):
    path, stored = tmp_path / "a.tif", pixels((40, 60, 4), np.uint8)
    PIL.Image.fromarray(stored).save(path, compression="raw")
    np.testing.assert_array_equal(images.read_pixels(path, num_channels=3), stored[..., :3])
    PIL.Image.fromarray(stored).save(path, compression="tiff_lzw")
    with pytest.raises(InputError, match=r"a\.tif: a TIFF with transparency"):
        images.read_pixels(path, num_channels=3)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tiff"])
def test_any_other_image_is_decoded_as_a_whole(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), pixels((*SIZE, 3), np.uint8))  # OpenCV's TIFF has LZW
    source = sources.open_image(path, num_channels=1)
    assert isinstance(source, sources.DecodedImage)
    whole = read_image(path, num_channels=1)
    for window in WINDOWS:
        np.testing.assert_array_equal(to_unit_range(patches.cut_source(source, window)), patches.cut(whole, window))


def test_a_sweep_in_overlapping_bands_decodes_each_tile_once_and_holds_a_band(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((1024, 256), np.uint8), tile=(64, 64), compression="zlib")
    source = sources.open_image(path, num_channels=1)
    stored, decoded = source._pixels, []  # pyright: ignore
    decode = stored._decode
    monkeypatch.setattr(stored, "_decode", lambda index: decoded.append(index) or decode(index))
    for top in range(0, 1024 - 128 + 1, 64):
        source.read(Window(top, 0, 128, 256))
        assert len(stored._decoded) <= 8
    assert sorted(decoded) == list(range(64))
    decoded.clear()
    source.read(Window(70, 70, 20, 20))
    assert decoded == [5]


def test_rows_that_are_stored_as_they_are_are_read_alone(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((1024, 256), np.uint8))  # one strip
    source = sources.open_image(path, num_channels=1)
    stored, sizes = source._pixels, []  # pyright: ignore
    file = stored._file
    handle = types.SimpleNamespace(
        seek=file.filehandle.seek, read=lambda size: sizes.append(size) or file.filehandle.read(size)
    )
    monkeypatch.setattr(stored, "_file", types.SimpleNamespace(filehandle=handle, byteorder=file.byteorder))
    source.read(Window(500, 10, 20, 30))
    assert sizes == [20 * 256]


def test_a_broken_tiff_says_so(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(SIZE, np.uint8), rowsperstrip=16, compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(InputError, match="truncated"):
        sources.open_image(path, num_channels=1)
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[5]  # pyright: ignore
    path.write_bytes(content[:start] + bytes(50) + content[start + 50 :])
    source = sources.open_image(path, num_channels=1)
    source.read(Window(0, 0, 80, 10))
    with pytest.raises(InputError, match=r"a\.tif: broken TIFF"):
        source.read(Window(0, 0, 81, 10))
    for content in (b"", b"II*\0", b"no image"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.tif"):
            sources.open_image(path, num_channels=1)


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 16, "compression": "zlib"}, {"tile": (32, 32)}], ids=str)
def test_damaged_bytes_give_pixels_or_one_clear_error(tmp_path: Path, options):
    path, rng = tmp_path / "a.tif", np.random.default_rng(0)
    tifffile.imwrite(path, pixels((120, 90), np.uint8), **options)
    whole, outcomes = path.read_bytes(), set()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 400), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            source = sources.open_image(path, num_channels=1)
            if source.height * source.width < 1e7:
                source.read(Window(0, 0, source.height, source.width))
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
