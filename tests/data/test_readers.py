"""Readers on small folders written here, on the real data where present, and on every mistake a folder can hold."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdefect.config import DataConfig
from jaxdefect.data import annotation, readers
from jaxdefect.data.readers import folder, kolektor, severstal
from jaxdefect.types import InputError, Sample

HEIGHT, WIDTH = 8, 12


def write(path: Path, pixels: np.ndarray | int, *, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full(shape, pixels, np.uint8) if isinstance(pixels, int) else pixels
    assert cv2.imwrite(str(path), image)
    return path


def mask_of(sample: Sample) -> np.ndarray:
    return annotation.load_mask(sample, height=HEIGHT, width=WIDTH)


# --- KolektorSDD


def write_kolektor(root: Path) -> None:
    for item in ("kos01", "kos02"):
        for part in range(2):
            write(root / item / f"Part{part}.jpg", 90)
            write(root / item / f"Part{part}_label.bmp", 85 if (item, part) == ("kos02", 1) else 0)


def test_kolektor_labels_come_from_the_masks(tmp_path: Path):
    write_kolektor(tmp_path)
    samples = kolektor.read(tmp_path)
    assert [(sample.id, sample.group, sample.label) for sample in samples] == [
        ("kos01/Part0", "kos01", 0),
        ("kos01/Part1", "kos01", 0),
        ("kos02/Part0", "kos02", 0),
        ("kos02/Part1", "kos02", 1),
    ]
    assert mask_of(samples[3]).all()


def test_kolektor_mistakes_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"config\.data\.root must name the folder that holds kos01"):
        kolektor.read(tmp_path)
    write_kolektor(tmp_path)
    mask = tmp_path / "kos01" / "Part1_label.bmp"
    data = mask.read_bytes()
    mask.write_bytes(data[:-10])
    with pytest.raises(InputError, match=r"kos01/Part1_label\.bmp: truncated image"):
        kolektor.read(tmp_path)
    mask.unlink()
    with pytest.raises(InputError, match=r"kos01/Part1_label\.bmp: mask missing \(1 of 4\)"):
        kolektor.read(tmp_path)
    mask.write_bytes(data)
    (tmp_path / "kos01" / "Part1.jpg").unlink()
    with pytest.raises(InputError, match=r"kos01/Part1_label\.bmp: a mask without its image"):
        kolektor.read(tmp_path)


def test_real_kolektor_has_the_published_counts(shared: Path, tmp_path: Path):
    archive = shared / "data" / "KolektorSDD.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as file:  # the reader opens masks only, so the images may stay packed
        for name in file.namelist():
            target = tmp_path / name
            if name.endswith(".bmp"):
                file.extract(name, tmp_path)
            elif name.endswith(".jpg"):
                target.parent.mkdir(exist_ok=True)
                target.touch()
    samples = kolektor.read(tmp_path)
    assert len(samples) == 399
    assert sum(sample.label for sample in samples) == 52
    assert len({sample.group for sample in samples}) == 50


# --- Severstal


def write_severstal(root: Path, table: str, *, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for name in names:
        write(root / "train_images" / f"{name}.jpg", 90)
    (root / "train.csv").write_text(table)
    return root


def test_severstal_rows_of_an_image_are_united(tmp_path: Path):
    separate = "ImageId,ClassId,EncodedPixels\na.jpg,4,2 3 90 7\na.jpg,1,1 4\nb.jpg,3,\n"
    combined = (
        "ImageId_ClassId,EncodedPixels\n"
        "a.jpg_1,1 4\na.jpg_2,\na.jpg_3,\na.jpg_4,2 3 90 7\nb.jpg_1,\nb.jpg_2,\nb.jpg_3,\nb.jpg_4,\n"
    )
    expected = np.zeros(HEIGHT * WIDTH, np.uint8)
    expected[0:4] = 1  # class 1, and 2 to 4 of class 4 within it
    expected[89:96] = 1
    for name, table in (("separate", separate), ("combined", combined)):
        a, b, c = severstal.read(write_severstal(tmp_path / name, table))
        assert (a.id, a.group, a.label, a.classes) == ("a", "a", 1, ("1", "4"))
        np.testing.assert_array_equal(mask_of(a), expected.reshape(WIDTH, HEIGHT).T)
        assert [(name, mask.runs) for name, mask in a.class_masks] == [("1", ((1, 4),)), ("4", ((2, 3), (90, 7)))]
        for negative in (b, c):
            assert (negative.label, negative.mask, negative.classes) == (0, None, ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,1,1 4 9", r"line 3: 3 run-length values, an odd number"),
        ("a.jpg,1,1 4x", r"line 3: '4x' in the run lengths is not an integer"),
        ("a.jpg,1,1 --4", r"line 3: '--4' in the run lengths is not an integer"),
        ("a.jpg,1,0 4", r"line 3: the run 0 4 is impossible"),
        ("a.jpg,1,1 0", r"line 3: the run 1 0 is impossible"),
        ("a.jpg,1,5 4 1 5", r"line 3: the run 1 5 overlaps the run that starts at 5"),
        ("a.jpg,1,1 4 90 8", r"line 3: the run 90 8 leaves the image a\.jpg of 8 x 12 = 96 pixels"),
        ("b.jpg,2,5 5", r"line 3: image 'b\.jpg' and class 2 appear twice"),
        ("gone.jpg,1,1 4", r"line 3: image 'gone\.jpg' is not in .*train_images"),
        ("a.jpg,1", r"line 3: 2 columns instead of 3"),
        ("a.jpg,,1 4", r"line 3: class '' must be a whole number from 1 on"),
        ("a.jpg,01,1 4", r"line 3: class '01' must be a whole number from 1 on"),
    ],
)
def test_severstal_mistakes_name_the_line(tmp_path: Path, row: str, message: str):
    root = write_severstal(tmp_path, f"ImageId,ClassId,EncodedPixels\nb.jpg,2,1 4\n{row}\n")
    with pytest.raises(InputError, match=rf"train\.csv, {message}"):
        severstal.read(root)


def test_severstal_folder_mistakes_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.csv: missing; config\.data\.root"):
        severstal.read(tmp_path)
    write_severstal(tmp_path, "image,class\n")
    with pytest.raises(InputError, match=r"train\.csv, line 1: the header is 'image,class'"):
        severstal.read(tmp_path)
    (tmp_path / "train.csv").write_text("ImageId_ClassId,EncodedPixels\na.jpg,1 4\n")
    with pytest.raises(InputError, match=r"train\.csv, line 2: 'a\.jpg' must be an image and a class"):
        severstal.read(tmp_path)
    write(tmp_path / "train_images" / "a.png", 90)
    with pytest.raises(InputError, match=r"duplicate id 'a'"):
        severstal.read(tmp_path)
    for path in (tmp_path / "train_images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train_images: missing or without images"):
        severstal.read(tmp_path)


# --- A plain folder


def write_folder(root: Path) -> Path:
    for name, value in (("a", 0), ("b", 255)):
        write(root / "images" / f"{name}.jpg", 90)
        write(root / "masks" / f"{name}.png", value)
    return root


def test_folder_pairs_by_name(tmp_path: Path):
    write_folder(tmp_path)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    a, b = folder.read(tmp_path)
    assert [(s.id, s.group, s.label) for s in (a, b)] == [("a", "a", 0), ("b", "b", 1)]
    assert mask_of(b).all()


def test_hidden_files_are_no_images(tmp_path: Path):
    write_folder(tmp_path / "folder")
    write_severstal(tmp_path / "severstal", "ImageId,ClassId,EncodedPixels\n")
    for path in ("folder/images/._a.jpg", "folder/masks/._b.png", "severstal/train_images/._a.jpg"):
        (tmp_path / path).write_bytes(b"\0\5\x16\7")  # as macOS leaves them
    write(tmp_path / "folder" / "images" / "@eaDir" / "a.jpg", 90)  # a network drive's thumbnail
    assert [sample.id for sample in folder.read(tmp_path / "folder")] == ["a", "b"]
    assert [sample.id for sample in severstal.read(tmp_path / "severstal")] == ["a", "b", "c"]


def test_folder_pair_mistakes_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no labels\.csv and no images"):
        folder.read(tmp_path)
    write_folder(tmp_path)
    for name in "cdefghi":
        write(tmp_path / "images" / f"{name}.png", 90)
    with pytest.raises(
        InputError, match=r"masks: no mask for c\.png, .*, g\.png and 2 more; .* all zero.* labels\.csv"
    ):
        folder.read(tmp_path)
    for name in "cdefghi":
        (tmp_path / "images" / f"{name}.png").unlink()
    orphan = write(tmp_path / "masks" / "z.png", 0)
    with pytest.raises(InputError, match=r"images: no image for the mask of z\.png"):
        folder.read(tmp_path)
    orphan.unlink()
    twin = write(tmp_path / "images" / "a.png", 90)
    with pytest.raises(InputError, match=r"images/a\.png: duplicate id 'a', a\.jpg|images/a\.jpg: duplicate id 'a'"):
        folder.read(tmp_path)
    twin.unlink()
    write(tmp_path / "masks" / "b.png", 255, shape=(HEIGHT, WIDTH - 1))
    with pytest.raises(InputError, match=r"b\.png: the mask is 8 x 11 .* is 8 x 12"):
        folder.read(tmp_path)


def test_folder_images_that_would_be_left_out_are_named(tmp_path: Path):
    write(write_folder(tmp_path) / "images" / ".thumbnails" / "a.png", 90)
    assert len(folder.read(tmp_path)) == 2
    write(tmp_path / "images" / "line 2" / "today" / "c.png", 90)
    with pytest.raises(InputError, match=r"images/line 2: holds images, but only those directly in"):
        folder.read(tmp_path)


def write_table(root: Path, text: str) -> Path:
    write_folder(root)
    (root / "labels.csv").write_text(text)
    return root


def test_folder_table_with_and_without_masks(tmp_path: Path):
    text = (
        "image,label,mask,group,classes\n"
        "images/a.jpg,good,masks/a.png,plate 1,OK\n"
        "images/b.jpg,1,,plate 1,scratch dent\n"
        "masks/b.png,defective,masks/b.png,,\n"
    )
    a, b, c = folder.read(write_table(tmp_path, text))
    assert (a.id, a.label, a.group, a.mask, a.classes) == ("images/a", 0, "plate 1", tmp_path / "masks/a.png", ())
    assert (b.id, b.label, b.group, b.mask, b.classes) == ("images/b", 1, "plate 1", None, ("dent", "scratch"))
    assert (c.id, c.label, c.group) == ("masks/b", 1, "masks/b")
    (tmp_path / "labels.csv").write_text("image,label\nimages/a.jpg,0\nimages/b.jpg,1\n")
    assert [sample.mask for sample in folder.read(tmp_path)] == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\n", r": no rows"),
        ("image;label\nimages/a.jpg;0\n", r"line 1: unknown column 'image;label'"),
        ("image,mask\nimages/a.jpg,\n", r"line 1: the column 'label' is missing"),
        ("image,label,label\nimages/a.jpg,1,0\n", r"line 1: the column 'label' stands there twice"),
        (f"image,label\n{'x' * 300}.jpg,1\n", r"line 2: the image 'x+\.jpg' does not exist"),
        ("image,label,classes\nimages/a.jpg,ok,dent\n", r"line 2: the label is 'ok' but the classes are 'dent'"),
        ("image,label\nimages/a.jpg,0\nmasks/../images/a.jpg,1\n", r"line 3: the image .*a\.jpg stands in line 2 too"),
        ("image,label\nimages/a.jpg,2\n", r"line 2: label '2' must be 0 \(good\) or 1 \(defective\)"),
        ("image,label\nimages/a.jpg\n", r"line 2: as many columns"),
        ("image,label\nimages/a.jpg,0,0\n", r"line 2: as many columns"),
        ("image,label\nimages/gone.jpg,0\n", r"line 2: the image 'images/gone\.jpg' does not exist"),
        ("image,label,mask\nimages/b.jpg,1,masks/gone.png\n", r"line 2: the mask 'masks/gone\.png' does not exist"),
        ("image,label\nimages/a.jpg,0\nimages/a.jpg,0\n", r"line 3: duplicate id 'images/a', it stands in line 2"),
        ("image,label,mask\nimages/b.jpg,0,masks/b.png\n", r"line 2: the label is 0 but the mask .*b\.png marks"),
        ("image,label,mask\nimages/a.jpg,1,masks/a.png\n", r"line 2: the label is 1 but the mask .*a\.png is empty"),
    ],
)
def test_folder_table_mistakes_name_the_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputError, match=rf"labels\.csv(, )?{message}"):
        folder.read(write_table(tmp_path, text))


# --- The choice of the reader


def test_the_config_chooses_the_reader(tmp_path: Path):
    write_kolektor(tmp_path / "kolektor")
    write_severstal(tmp_path / "severstal", "ImageId,ClassId,EncodedPixels\na.jpg,1,1 4\n")
    write_folder(tmp_path / "folder")
    for reader, count in (("kolektor", 4), ("severstal", 3), ("folder", 2)):
        assert len(readers.read(DataConfig(reader=reader, root=str(tmp_path / reader)))) == count


def test_masks_that_are_gray_images_can_be_soft(tmp_path: Path):
    degrees = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    write(write_folder(tmp_path / "folder") / "masks" / "b.png", degrees)
    good, defective = readers.read(DataConfig(reader="folder", root=str(tmp_path / "folder"), masks="soft"))
    assert (good.label, defective.label) == (0, 1)
    assert mask_of(good).dtype == np.float32
    np.testing.assert_allclose(mask_of(defective), degrees / 255, rtol=1e-6)
    root = write_severstal(tmp_path / "severstal", "ImageId,ClassId,EncodedPixels\na.jpg,1,1 4\n")
    with pytest.raises(InputError, match=r"config\.data\.masks = 'soft': the masks of the reader 'severstal' are not"):
        readers.read(DataConfig(reader="severstal", root=str(root), masks="soft"))


def test_one_class_can_be_picked(tmp_path: Path):
    table = "ImageId,ClassId,EncodedPixels\na.jpg,1,1 4\na.jpg,2,9 3\nb.jpg,2,5 2\n"
    root = str(write_severstal(tmp_path, table))
    a, b, c = readers.read(DataConfig(reader="severstal", root=root, only_class="1"))
    assert [sample.label for sample in (a, b, c)] == [1, 0, 0]
    assert [sample.classes for sample in (a, b, c)] == [("1",), (), ()]
    assert (mask_of(a).sum(), b.mask) == (4, None)
    with pytest.raises(InputError, match=r"config\.data\.only_class = 'x': .* its classes are 1, 2"):
        readers.read(DataConfig(reader="severstal", root=root, only_class="x"))


@pytest.mark.parametrize(
    ("reader", "source"),
    [
        ("kolektor2", r"https://www\.vicos\.si/resources/kolektorsdd2/"),
        ("dagm", r"https://hci\.iwr\.uni-heidelberg\.de"),
        ("aiglern", r"Crack_Detection_Database\.html"),
        ("crackforest", r"CrackForest-dataset"),
        ("magnetic_tile", r"Magnetic-tile-defect-datasets\."),
        ("mvtec", r"https://www\.mvtec\.com"),
        ("via", "the JSON or CSV file"),
        ("coco", "one JSON file in COCO's format"),
        ("labelme", "the JSON files that labelme"),
        ("kolektor", r"https://www\.vicos\.si/resources/kolektorsdd/"),
        ("severstal", "severstal-steel-defect-detection"),
        ("folder", r"images/ and their masks into masks/"),
    ],
)
def test_a_missing_data_set_says_where_to_get_it(tmp_path: Path, reader: str, source: str):
    (tmp_path / "empty").mkdir()
    for root, message in (
        ("", "is not set"),
        (str(tmp_path / "gone"), "no such folder"),
        (str(tmp_path / "empty"), "empty"),
    ):
        with pytest.raises(InputError, match=rf"config\.data\.root.*{message}.*{source}"):
            readers.read(DataConfig(reader=reader, root=root))
