"""Image files of every supported kind give the same pixels; broken ones are named."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.data import images
from jaxdefect.types import InputError

HEIGHT, WIDTH = 40, 56
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).random((HEIGHT, WIDTH, 3))


def write(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint8), (".tif", np.uint8), (".bmp", np.uint8), (".png", np.uint16), (".tif", np.uint16)],
)
@pytest.mark.parametrize("has_alpha", [False, True])
def test_lossless_colour_files_give_rgb_and_luminance(tmp_path, rgb, suffix, dtype, has_alpha):
    top = np.iinfo(dtype).max
    stored = np.round(rgb * top).astype(dtype)
    alpha = np.full((HEIGHT, WIDTH, int(has_alpha)), top // 3, dtype)
    path = write(tmp_path / f"image{suffix}", np.dstack([stored[..., ::-1], alpha]))

    color = images.read_image(path, num_channels=3)
    gray = images.read_image(path, num_channels=1)

    assert color.dtype == gray.dtype == np.float32
    assert gray.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(color, stored / top, atol=1e-6)
    np.testing.assert_allclose(gray[..., 0], stored / top @ LUMINANCE, atol=0.51 / top + 3e-5)


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.float32)])
def test_gray_files_serve_one_and_three_channels(tmp_path, rgb, suffix, dtype):
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    stored = (rgb[..., 0] * top).astype(dtype)
    path = write(tmp_path / f"gray{suffix}", stored)
    for num_channels in (1, 3):
        image = images.read_image(path, num_channels=num_channels)
        assert image.shape == (HEIGHT, WIDTH, num_channels)
        np.testing.assert_allclose(image, np.repeat(stored[..., None] / top, num_channels, axis=2), atol=1e-6)


def test_a_colour_jpeg_gives_its_luminance(tmp_path, rgb):
    smooth = cv2.GaussianBlur(rgb, (0, 0), 5)
    path = write(tmp_path / "image.jpg", np.round(smooth[..., ::-1] * 255).astype(np.uint8))
    np.testing.assert_allclose(images.read_image(path, num_channels=1)[..., 0], smooth @ LUMINANCE, atol=0.03)
    np.testing.assert_allclose(images.read_image(path, num_channels=3), smooth, atol=0.06)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_size_is_height_then_width(tmp_path, rgb, suffix):
    assert images.image_size(write(tmp_path / f"x{suffix}", (rgb * 255).astype(np.uint8))) == (HEIGHT, WIDTH)


def test_size_of_a_jpeg_whose_headers_are_longer_than_the_first_read(tmp_path, rgb):
    data = write(tmp_path / "x.jpg", (rgb * 255).astype(np.uint8)).read_bytes()
    # Two comment segments of the largest length, the first with an end marker inside, as a preview image has one.
    comments = b"\xff\xfe\xff\xff" + b"\xff\xd9" + bytes(65531) + b"\xff\xfe\xff\xff" + bytes(65533)
    (tmp_path / "long.jpg").write_bytes(data[:2] + comments + data[2:])
    assert images.image_size(tmp_path / "long.jpg") == (HEIGHT, WIDTH)
    images.read_image(tmp_path / "long.jpg", num_channels=1)
    (tmp_path / "cut.jpg").write_bytes((data[:2] + comments + data[2:])[:-200])
    with pytest.raises(InputError, match=r"cut\.jpg: truncated image \(JPEG without its end marker"):
        images.read_image(tmp_path / "cut.jpg", num_channels=1)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02])
def test_truncated_files_are_named(tmp_path, rgb, suffix, kept):
    path = write(tmp_path / f"cut{suffix}", (rgb * 255).astype(np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=rf"cut\{suffix}: (truncated image|not an image)"):
        images.read_image(path, num_channels=1)


def test_missing_empty_foreign_and_out_of_range_files_are_named(tmp_path):
    cases = {
        "gone.png": (None, "no such image file"),
        "empty.jpg": (b"", r"empty \(0 bytes\)"),
        "text.png": (b"hello", "not an image that OpenCV can decode"),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            images.read_image(tmp_path / name, num_channels=1)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            images.image_size(tmp_path / name)
    path = write(tmp_path / "float.tif", np.full((9, 9), 1.5, np.float32))
    with pytest.raises(InputError, match=r"float\.tif: floating-point values must lie in \[0, 1\], not \[1\.5"):
        images.read_image(path, num_channels=1)
    path = write(tmp_path / "int.tif", np.ones((9, 9), np.int32))
    with pytest.raises(InputError, match=r"int\.tif: pixels of type int32"):
        images.read_image(path, num_channels=1)
    path = write(tmp_path / "color_int.tif", np.ones((9, 9, 3), np.int32))
    with pytest.raises(InputError, match=r"color_int\.tif: pixels of type int32"):
        images.read_image(path, num_channels=1)


def test_colours_of_64_bit_are_read_as_gray_and_as_rgb(tmp_path):
    blue_green_red = np.random.default_rng(0).random((9, 12, 3))
    path = write(tmp_path / "double.tif", blue_green_red)
    colour = images.read_image(path, num_channels=3)
    np.testing.assert_allclose(colour, blue_green_red[..., ::-1], rtol=1e-6)
    np.testing.assert_allclose(images.read_image(path, num_channels=1)[..., 0], colour @ LUMINANCE, atol=1e-3)
    with_alpha = np.dstack([blue_green_red, np.full((9, 12), 255.0)])
    write(path, with_alpha.astype(np.float32))  # alpha is dropped before the range is checked
    np.testing.assert_allclose(images.read_image(path, num_channels=3), colour, rtol=1e-6)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (HEIGHT, WIDTH, 3)])
def test_resizing_keeps_the_axes_and_averages_when_shrinking(shape):
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    quarter = images.resize_image(image, HEIGHT // 4, WIDTH // 4)
    blocks = image.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, *shape[2:])
    np.testing.assert_allclose(quarter, blocks.mean(axis=(1, 3)), atol=1e-6)
    assert images.resize_image(image, 2 * HEIGHT, WIDTH).shape == (2 * HEIGHT, WIDTH, *shape[2:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1263, 500, 1), (97, 301, 3), (9, 2000, 1), (2000, 7, 3)])
def test_shrinking_by_any_factor_averages_over_the_parts_of_pixels_in_a_cell(shape, dtype):
    rng = np.random.default_rng(0)
    values = rng.random(shape)
    pixels = values.astype(np.float32) if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    largest, unit = 1 if dtype is np.float32 else np.iinfo(dtype).max, images.to_unit_range(pixels)
    pixels.flags.writeable = False  # as an uncompressed TIFF's are
    sizes = [(int(rng.integers(1, shape[0] + 1)), int(rng.integers(1, shape[1] + 1))) for _ in range(8)]
    for height, width in [*sizes, (2, 3), (shape[0], 3), (shape[0] - 1, shape[1]), shape[:2]]:
        operands = shares(shape[0], height), unit.astype(np.float64), shares(shape[1], width)
        wanted = np.einsum("ab,bcd,ec->aed", *operands, optimize=True)
        np.testing.assert_allclose(images.resize_image(unit, height, width), wanted, atol=1e-6)
        np.testing.assert_allclose(images.to_input(pixels, height, width), wanted, atol=1e-6)
        assert images.to_input(np.full_like(pixels, largest), height, width).max() <= 1


def test_a_pixel_shows_in_the_cells_that_it_touches_and_in_no_other() -> None:
    for size, wanted in [(30, 22), (49, 47), (100, 3), (299, 230)]:
        for place in range(size):
            image = np.zeros((size, 2), np.float32)
            image[place] = 1
            (cells,) = np.nonzero(images.resize_image(image, wanted, 2)[:, 0])
            assert cells.tolist() == list(range(place * wanted // size, -(-(place + 1) * wanted // size)))


def shares(size: int, wanted: int) -> np.ndarray:
    """[wanted, size]: the share of each cell of a side that each pixel covers, from areas summed up to every edge."""
    up_to_edges = np.clip(np.arange(wanted + 1)[:, None] * (size / wanted) - np.arange(size), 0, 1)
    return np.diff(up_to_edges, axis=0) * wanted / size


def test_written_images_are_rgb_and_whole(tmp_path, rgb):
    pixels = (rgb * 255).astype(np.uint8)
    images.write_image(tmp_path / "overlay.png", pixels)
    np.testing.assert_allclose(images.read_image(tmp_path / "overlay.png", num_channels=3), pixels / 255, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.png"]
