"""Readers of published data sets on tiny copies of their layouts, and on the real ones where present."""

import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from jaxdefect.data import annotation, checks
from jaxdefect.data.readers import aiglern, crackforest, dagm, kolektor2, magnetic_tile, mvtec
from jaxdefect.types import InputError, Sample

HEIGHT, WIDTH = 8, 12
SPOT = np.zeros((HEIGHT, WIDTH), np.uint8)
SPOT[2:4, 5:9] = 255


def write(path: Path, pixels: np.ndarray | int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), pixels, np.uint8) if isinstance(pixels, int) else pixels)
    return path


def mask_of(sample: Sample) -> np.ndarray:
    return annotation.load_mask(sample, height=HEIGHT, width=WIDTH)


def summary(samples: list[Sample]) -> list[tuple]:
    return [(sample.id, sample.label, sample.classes, sample.mask is not None) for sample in samples]


# --- KolektorSDD2


def test_kolektor2_pairs_images_with_masks_in_both_parts(tmp_path: Path):
    for part, number, mask in (("train", "10000", 0), ("train", "10001", SPOT), ("test", "20000", SPOT)):
        write(tmp_path / part / f"{number}.png", 90)
        write(tmp_path / part / f"{number}_GT.png", mask)
    write(tmp_path / "train" / "10000 (copy).png", 90)
    samples = kolektor2.read(tmp_path)
    assert summary(samples) == [("train/10000", 0, (), True), ("train/10001", 1, (), True), ("test/20000", 1, (), True)]
    np.testing.assert_array_equal(mask_of(samples[2]), SPOT > 0)
    (tmp_path / "test" / "20000_GT.png").unlink()
    with pytest.raises(InputError, match=r"test/20000\.png: has no mask \(1 such\)"):
        kolektor2.read(tmp_path)
    (tmp_path / "test" / "20000.png").rename(tmp_path / "test" / "20001_GT.png")
    with pytest.raises(InputError, match=r"test/20001_GT\.png: a mask without its image"):
        kolektor2.read(tmp_path)


# --- DAGM 2007


def write_dagm(root: Path) -> Path:
    for name in ("0001", "0002"):
        write(root / "Class10" / "Train" / f"{name}.PNG", 90)
    write(root / "Class10" / "Train" / "Label" / "0002_label.PNG", SPOT)
    (root / "Class10" / "Train" / "Label" / "Labels.txt").write_text(
        "1\n1\t0\t0001.PNG\t0\t0\n2\t1\t0002.PNG\t0\t0002_label.PNG\n"
    )
    write(root / "Class2" / "Test" / "0003.PNG", 90)
    return root


def write_drawn_dagm(root: Path, text: str) -> Path:
    write(root / "Class1" / "1.png", 90)
    for number in (2, 10):
        write(root / "Class1_def" / f"{number}.png", 90)
    (root / "Class1_def" / "labels.txt").write_text(text)
    return root


def test_dagm_with_masks(tmp_path: Path):
    samples = dagm.read(write_dagm(tmp_path))
    assert summary(samples) == [
        ("Class2/Test/0003", 0, (), False),
        ("Class10/Train/0001", 0, (), False),
        ("Class10/Train/0002", 1, ("Class10",), True),
    ]
    np.testing.assert_array_equal(mask_of(samples[2]), SPOT > 0)
    assert summary(dagm.read(tmp_path / "Class10")) == summary(samples[1:])
    labels = tmp_path / "Class10" / "Train" / "Label" / "Labels.txt"
    labels.write_text("1\n1\t1\t0001.PNG\t0\t0001_label.PNG\n")
    with pytest.raises(InputError, match=r"Labels\.txt, line 2: 0001\.PNG is defective, but there is no mask for it"):
        dagm.read(tmp_path)


def test_dagm_with_ellipses(tmp_path: Path):
    radians = np.pi / 6
    samples = dagm.read(write_drawn_dagm(tmp_path, f"2\t4\t1.5\t{radians}\t6\t4\n 10\t3\t1\t0\t6.5\t4.5\t\n"))
    assert summary(samples) == [
        ("Class1/1", 0, (), False),
        ("Class1_def/2", 1, ("Class1",), True),
        ("Class1_def/10", 1, ("Class1",), True),
    ]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    along = (columns - 6) * np.cos(radians) + (rows - 4) * np.sin(radians)
    across = (rows - 4) * np.cos(radians) - (columns - 6) * np.sin(radians)
    np.testing.assert_array_equal(mask_of(samples[1]), (along / 4) ** 2 + (across / 1.5) ** 2 <= 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 4 1 0 6 4\n", r"labels\.txt: no line for 10\.png"),
        ("2 4 1 0 6 4\n10 4 1 0 6\n", r"labels\.txt, line 2: 5 numbers; wanted are number, semi-major axis"),
        ("2 4 1 x 6 4\n", r"labels\.txt, line 1: could not convert string to float: 'x'"),
        ("3 4 1 0 6 4\n", r"labels\.txt, line 1: there is no image 3"),
        ("2 4 0 0 6 4\n", r"labels\.txt, line 1: radii of 4 and 0 pixels; both must be above 0"),
        ("2 4 nan 0 6 4\n", r"labels\.txt, line 1: nan is not a coordinate"),
        ("nan 4 1 0 6 4\n", r"labels\.txt, line 1: there is no image nan"),
    ],
)
def test_dagm_ellipse_mistakes_name_the_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputError, match=message):
        dagm.read(write_drawn_dagm(tmp_path, text))


# --- AigleRN


def test_aiglern_takes_the_rarer_colour_for_the_crack(tmp_path: Path):
    base = tmp_path / "TITS"
    for name in ("F01a", "F01b"):
        write(base / "IMAGES" / "AIGLE_RN" / f"Im_GT_AIGLE_RN_{name}or.png", 90)
    write(base / "IMAGES" / "AIGLE_RN" / "Im_noGT_AIGLE_RN_F02aor.png", 90)
    write(base / "GROUND_TRUTH" / "AIGLE_RN" / "GT_AIGLE_RN_F01a.png", SPOT)
    white = write(base / "GROUND_TRUTH" / "AIGLE_RN" / "GT_AIGLE_RN_F01b.png", 255 - SPOT)
    for root in (tmp_path, base):
        samples = aiglern.read(root)
        assert summary(samples) == [("F01a", 1, ("crack",), True), ("F01b", 1, ("crack",), True)]
        assert {sample.group for sample in samples} == {"F01"}
        for sample in samples:
            np.testing.assert_array_equal(mask_of(sample), SPOT > 0)
    write(white, 255)
    with pytest.raises(InputError, match=r"GT_AIGLE_RN_F01b\.png: the mask is of one colour"):
        aiglern.read(base)
    white.unlink()
    with pytest.raises(InputError, match=r"Im_GT_AIGLE_RN_F01bor\.png: has no mask"):
        aiglern.read(base)


# --- CrackForest


def write_crackforest(root: Path) -> Path:
    for name in ("001", "002"):
        write(root / "image" / f"{name}.jpg", 90)
    (root / "groundTruth").mkdir()
    truth = {"groundTruth": {"Segmentation": (SPOT > 0).astype(np.uint8) + 1, "Boundaries": SPOT}}
    scipy.io.savemat(root / "groundTruth" / "001.mat", truth)
    return root


def test_crackforest_masks_are_where_the_segmentation_is_above_one(tmp_path: Path):
    first, second = crackforest.read(write_crackforest(tmp_path))
    assert summary([first, second]) == [("001", 1, ("crack",), True), ("002", 1, ("crack",), False)]
    np.testing.assert_array_equal(mask_of(first), SPOT > 0)


@pytest.mark.parametrize("content", [b"", b"not MATLAB" * 40, {"other": 1}, {"groundTruth": {"Segmentation": "text"}}])
def test_crackforest_broken_matlab_files_are_named(tmp_path: Path, content: bytes | dict):
    path = write_crackforest(tmp_path) / "groundTruth" / "001.mat"
    if isinstance(content, dict):
        scipy.io.savemat(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"001\.mat: .*groundTruth\.Segmentation"):
        mask_of(crackforest.read(tmp_path)[0])


def test_real_crackforest_has_the_published_counts(shared: Path, tmp_path: Path):
    samples = crackforest.read(unpacked(shared, "CrackForest", tmp_path))
    assert len(samples) == 155
    assert sum(sample.mask is not None for sample in samples) == 118
    checks.check_samples(samples)


def unpacked(shared: Path, name: str, folder: Path) -> Path:
    archive = shared / "data" / f"{name}.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


# --- Magnetic tile


def write_tiles(root: Path, **numbers: list[tuple[int, int]]) -> Path:
    for kind, pictures in numbers.items():
        for exposure, number in pictures:
            path = root / f"MT_{kind}" / "Imgs" / f"exp{exposure}_num_{number}.jpg"
            write(path, 90)
            stray = np.where(SPOT > 0, SPOT, 9).astype(np.uint8)  # beside the defects
            write(path.with_suffix(".png"), 0 if kind == "Free" else stray)
    return root


def test_magnetic_tile_masks_and_types(tmp_path: Path):
    root = write_tiles(tmp_path, Free=[(1, 10)], Crack=[(1, 200)], Uneven=[(1, 400), (2, 420)])
    empty = write(root / "MT_Uneven" / "Imgs" / "exp2_num_420.png", 0)
    samples = magnetic_tile.read(root)
    assert summary(samples) == [
        ("Crack/exp1_num_200", 1, ("Crack",), True),
        ("Free/exp1_num_10", 0, (), True),
        ("Uneven/exp1_num_400", 1, ("Uneven",), True),
        ("Uneven/exp2_num_420", 1, ("Uneven",), False),
    ]
    np.testing.assert_array_equal(mask_of(samples[0]), SPOT > 0)
    write(root / "MT_Crack" / "Imgs" / "exp1_num_200.png", 9)
    with pytest.raises(InputError, match=r"MT_Crack/Imgs/exp1_num_200\.png: the mask is empty, unlike its folder"):
        magnetic_tile.read(root)
    empty.unlink()
    with pytest.raises(InputError, match=r"exp2_num_420\.jpg: has no mask"):
        magnetic_tile.read(root)


def test_magnetic_tile_groups_are_series_of_rising_exposures(tmp_path: Path):
    write_tiles(
        tmp_path,
        Crack=[(1, 100), (2, 120), (4, 160), (1, 200), (2, 1600), (3, 9000)],  # two tiles, and one far away
        Break=[(1, 20000), (3, 20040)],  # beside the first of Free
        Free=[(1, 20010), (2, 20020), (3, 20050), (1, 20200), (4, 20350), (5, 20500)],
        Fray=[(2, 20220)],  # shown between two exposures of the second of Free
        Blowhole=[(6, 20550), (6, 20600)],  # the last exposure of the second of Free, and a tile of its own
    )
    groups = defaultdict(list)
    for sample in magnetic_tile.read(tmp_path):
        groups[sample.group].append(int(sample.id.rpartition("_")[2]))
    assert sorted(map(sorted, groups.values())) == [
        [100, 120, 160],
        [200, 1600],
        [9000],
        [20000, 20010, 20020, 20040, 20050],
        [20200, 20220, 20350, 20500, 20550],
        [20600],
    ]


def test_real_magnetic_tile_has_the_published_counts(shared: Path, tmp_path: Path):
    samples = magnetic_tile.read(unpacked(shared, "MagneticTile", tmp_path))
    types = Counter(sample.classes[0] if sample.classes else "Free" for sample in samples)
    assert types == {"Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103, "Free": 476}
    unmasked = [sample for sample in samples if sample.mask is None]
    assert [sample.classes for sample in unmasked] == [("Uneven",)] * 4
    checks.check_samples(samples)
    tiles = defaultdict(list)
    for sample in samples:
        tiles[sample.group].append(sample.id)
    assert Counter(map(len, tiles.values())).most_common(1)[0] == (6, 78)  # most tiles have their six exposures
    # The same fracture with a long pause between two exposures, seen in the pictures.
    crack = [f"Crack/exp{exposure}_num_{n}" for exposure, n in enumerate((86828, 86854, 86892, 88149, 88170, 88201), 1)]
    assert crack in tiles.values()


# --- MVTec AD


def write_category(root: Path) -> Path:
    write(root / "train" / "good" / "000.png", 90)
    write(root / "test" / "good" / "000.png", 90)
    write(root / "test" / "scratch" / "000.png", 90)
    write(root / "ground_truth" / "scratch" / "000_mask.png", SPOT)
    return root


def test_mvtec_one_category_and_several(tmp_path: Path):
    samples = mvtec.read(write_category(tmp_path / "bottle"))
    one = [
        ("train/good/000", 0, (), False),
        ("test/good/000", 0, (), False),
        ("test/scratch/000", 1, ("scratch",), True),
    ]
    assert summary(samples) == one
    np.testing.assert_array_equal(mask_of(samples[2]), SPOT > 0)
    write_category(tmp_path / "cable")
    (tmp_path / "license.txt").write_text("")
    several = [
        (f"{category}/{id}", label, tuple(f"{category}/{name}" for name in names), has_mask)
        for category in ("bottle", "cable")
        for id, label, names, has_mask in one
    ]
    assert summary(mvtec.read(tmp_path)) == several
    (tmp_path / "cable" / "ground_truth" / "scratch" / "000_mask.png").unlink()
    with pytest.raises(InputError, match=r"cable/test/scratch/000\.png: has no mask"):
        mvtec.read(tmp_path)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (kolektor2, r"no images train/NNNNN\.png or test"),
        (dagm, "neither ClassN/Train nor"),
        (aiglern, "no folder IMAGES/AIGLE_RN"),
        (crackforest, "no images in image/"),
        (magnetic_tile, r"no images MT_TYPE/Imgs/\*\.jpg"),
        (mvtec, r"no images train/good/\* or"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, reader, message: str):
    write(tmp_path / "holiday" / "beach.png", 90)
    with pytest.raises(InputError, match=rf"{message}.*config\.data\.root must name"):
        reader.read(tmp_path)
