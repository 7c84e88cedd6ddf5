"""Audits: each fault of a data set is found once and at the right severity; duplicates against brute force."""

import collections
import dataclasses
import itertools
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxdefect.config import Config, DataConfig, EnsembleConfig, SplitConfig, from_dict
from jaxdefect.data import audit, duplicates, inspection, splits
from jaxdefect.data.readers import kolektor
from jaxdefect.types import InputError, RunLengthMask, Sample, Split

RESIZED = Config()
PATCHES = Config(data=DataConfig(fit="patches"))


def surface(seed: int, *, height: int = 120, width: int = 90) -> np.ndarray:
    """A rough surface [H, W] uint8, under the same light for every seed."""
    rough = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(height, width)), (0, 0), 1.5) * 60
    return np.clip(60 + rough + np.linspace(0, 120, width), 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def findings_of(
    samples: list[Sample], config: Config = RESIZED, **splits_by_name: Split
) -> dict[str, list[audit.Finding]]:
    found = collections.defaultdict(list)
    for finding in audit.audit(inspection.inspect(samples), splits_by_name, config).findings:
        found[finding.kind].append(finding)
    return found


def test_near_duplicates_are_copies_and_not_look_alikes():
    pictures = [surface(seed).astype(np.float32) for seed in range(40)]
    _, encoded = cv2.imencode(".jpg", surface(3), [cv2.IMWRITE_JPEG_QUALITY, 60])
    copies = {
        3: cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE),
        7: np.clip(surface(7) * 0.8 + 30.0, 0, 255),
        11: cv2.resize(surface(11), (75, 100), interpolation=cv2.INTER_AREA),
    }
    signatures = [duplicates.signature(picture) for picture in [*pictures, *copies.values(), np.zeros((9, 9))]]
    found = {(pair.first, pair.second) for pair in duplicates.near_pairs(signatures)}
    assert found == {(original, 40 + place) for place, original in enumerate(copies)}


def test_near_pairs_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch):
    signatures = [duplicates.signature(surface(seed % 7)) for seed in range(20)]
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    found = [(pair.first, pair.second) for pair in duplicates.near_pairs(signatures)]
    assert sorted(found) == [(i, j) for i, j in itertools.combinations(range(20), 2) if i % 7 == j % 7]


def test_joined_sets_are_the_connected_components():
    edges = np.random.default_rng(0).integers(0, 60, (45, 2))
    _, component = connected_components(coo_array((np.ones(45), edges.T), shape=(60, 60)), directed=False)
    wanted = {frozenset(map(str, np.flatnonzero(component == number))) for number in component[edges[:, 0]]}
    assert set(map(frozenset, duplicates.joined([str(a), str(b)] for a, b in edges))) == wanted


@pytest.fixture
def files(tmp_path: Path) -> list[Sample]:
    """Fifty items of three parts, as KolektorSDD names them; kos26 equals kos01, and kos01/Part2 also kos07/Part0."""
    samples = []
    for number, part in itertools.product(range(1, 51), range(3)):
        group = f"kos{number:02d}"
        path = tmp_path / group / f"Part{part}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{(1 if number == 26 else number, part)}")
        mask = Path("mask.bmp") if part == 0 else None
        samples.append(Sample(f"{group}/Part{part}", path, mask, int(part == 0), group))
    (tmp_path / "kos07/Part0.jpg").write_text("(1, 2)")
    return samples


def test_identical_files_are_those_with_the_same_bytes(files: list[Sample]):
    pairs = itertools.combinations(files, 2)
    wanted = {(a.id, b.id) for a, b in pairs if a.image.read_bytes() == b.image.read_bytes()}
    sets = duplicates.identical_files(files)
    assert {(a.id, b.id) for members in sets for a, b in itertools.combinations(members, 2)} == wanted
    assert len(wanted) == 5


@pytest.mark.parametrize("kind", ["random", "folds"])
def test_together_keeps_duplicates_in_one_part(kind: str, files: list[Sample]):
    is_parted = []
    for seed in range(5):
        keep = SplitConfig(kind=kind, seed=seed)
        together = splits.make(files, dataclasses.replace(keep, duplicates="together"))
        assert sorted(together.train + together.validation + together.test) == sorted(each.id for each in files)
        for split in (splits.make(files, keep), together):
            part_of = {item.split("/")[0]: part for part in splits.PARTS for item in getattr(split, part)}
            is_parted.append(len({part_of[group] for group in ("kos01", "kos07", "kos26")}) > 1)
    assert not any(is_parted[1::2])
    assert any(is_parted[::2])


def test_together_changes_nothing_without_duplicates(files: list[Sample]):
    unique = [each for each in files if each.group not in ("kos07", "kos26")]
    config = SplitConfig(seed=4)
    assert splits.make(unique, dataclasses.replace(config, duplicates="together")) == splits.make(unique, config)


@pytest.mark.parametrize(("fold", "dropped"), [(0, set()), (1, {"kos26", "kos07"}), (2, {"kos01"})])
def test_drop_takes_what_is_tested_from_the_published_folds(fold: int, dropped: set[str], files: list[Sample]):
    config = SplitConfig(kind="kolektor_published", fold=fold, validation_fraction=0.0)
    before, after = splits.make(files, config), splits.make(files, dataclasses.replace(config, duplicates="drop"))
    assert after.test == before.test
    gone = set(before.train) - set(after.train)
    assert {item.split("/")[0] for item in gone} == dropped
    assert set(after.masked) == set(before.masked) - gone
    assert "kos07/Part1" in {*after.train, *after.test}  # an item's other images stay


def test_drop_takes_validation_images_that_are_tested_and_training_images_that_are_validated(files: list[Sample]):
    split = Split(("kos26/Part0", "kos26/Part1"), ("kos01/Part0", "kos01/Part2"), ("kos07/Part0",), ("kos26/Part0",))
    after = duplicates.without_leaks(split, files)
    assert (after.train, after.validation) == (("kos26/Part1",), ("kos01/Part0",))
    assert after.test == split.test
    assert after.masked == ()


def test_given_parts_cannot_keep_duplicates_together():
    with pytest.raises(InputError, match="use 'drop'"):
        from_dict({"split": {"kind": "kolektor_published", "duplicates": "together"}})


def test_every_fault_is_found(tmp_path: Path):
    mask = np.zeros((120, 90), np.uint8)
    mask[20:40, 20:40] = 255
    odd, tiny, other = mask.copy(), np.zeros_like(mask), np.roll(mask, 5)
    odd[0, 0], tiny[0, 0] = 85, 255
    pictures = {f"good{seed}": surface(seed) for seed in range(12)}
    pictures |= {name: surface(50 + place) for place, name in enumerate(("ok", "odd", "tiny", "small", "off", "empty"))}
    pictures |= {"twin": pictures["ok"], "copy": pictures["good0"], "near": cv2.resize(surface(1), (80, 100))}
    pictures |= {"dark": surface(70) // 8, "turned": surface(71).T}
    masks = {"ok": mask, "odd": odd, "tiny": tiny, "small": mask[:50], "twin": other, "empty": 0 * mask}
    samples = []
    for name, pixels in pictures.items():
        path = write(tmp_path / f"{name}.png", pixels)
        stored = write(tmp_path / f"{name}_mask.png", masks[name]) if name in masks else None
        samples.append(Sample(name, path, stored, int(name in masks or name in ("off", "copy", "weak")), name))
    weak = write(tmp_path / "weak.jpg", surface(80))
    write(tmp_path / "weak.png", 0 * mask)
    samples.append(Sample("weak", weak, None, 1, "weak"))
    samples.append(Sample("broken", tmp_path / "absent.png", None, 0, "good2"))
    runs = RunLengthMask(((120 * 90, 2),), "train.csv, line 7")
    samples = [dataclasses.replace(each, mask=runs) if each.id == "off" else each for each in samples]
    split = Split(("ok", "good0", "good1", "good2"), ("near",), ("twin", "broken", "unknown"), ())

    found = findings_of(samples, split=split)
    assert {kind: [finding.images for finding in findings] for kind, findings in found.items()} == {
        "split": [()],
        "leak": [("ok", "twin")],
        "group_leak": [("good2", "broken")],
        "duplicate_labels": [("good0", "copy")],
        "duplicate_masks": [("ok", "twin")],
        "unreadable": [("broken",)],
        "mask_unusable": [("small",), ("off",)],
        "mask_label": [("empty",)],
        "near_leak": [("good1", "near")],
        "duplicates": [("good0", "copy")],
        "mask_empty": [("weak",)],
        "mask_tiny": [("tiny",)],
        "mask_values": [("odd",)],
        "orientation": [("turned",)],
        "intensity": [("dark",)],
    }
    assert "split: 1 in train and test" in found["leak"][0].text
    assert "85 beside 0 and 255" in found["mask_values"][0].text
    assert "train.csv, line 7" in found["mask_unusable"][1].text
    assert list(found) == [kind for kind in audit.TITLES if kind in found]  # errors first


def test_a_group_that_lacks_an_image_is_found(files: list[Sample]):
    (finding,) = findings_of(files[:-1])["group_size"]
    assert finding.text == "kos50: 2 images, where 49 groups have 3"


def test_a_split_that_cannot_be_made_is_a_finding(files: list[Sample]):
    made, problems = audit.splits_of(files[:9], SplitConfig(kind="kolektor_published"))
    assert made == {}
    assert [problem.kind for problem in problems] == ["split"]
    assert "complete" in problems[0].text
    assert list(audit.splits_of(files, SplitConfig(kind="folds", fold=1))[0]) == ["fold 1", "fold 0", "fold 2"]


@pytest.mark.parametrize(
    ("split", "config", "message"),
    [
        (Split(("bad0", "bad1"), (), ("good",), ()), RESIZED, r"here: the train part of the split has no negatives"),
        (Split(("bad0", "good"), (), (), ("bad2",)), RESIZED, r"here: id 'bad2' is listed as masked but"),
        (Split(("bad0", "good"), (), (), ()), PATCHES, r"here: .* no image of the training part has a mask"),
        (Split(("bad0", "good"), (), (), ()), RESIZED, None),
    ],
)
def test_a_split_that_stops_a_training_is_an_error(tmp_path: Path, split: Split, config: Config, message: str | None):
    samples = [
        Sample(name, write(tmp_path / f"{name}.png", surface(seed)), None, int(name != "good"), name)
        for seed, name in enumerate(("bad0", "bad1", "bad2", "good"))
    ]
    found = findings_of(samples, config, here=split)
    texts = [finding.text for finding in found["split"]]
    assert len(texts) == (message is not None)
    assert not texts or re.match(message, texts[0])


def test_good_images_may_lack_where_training_does_without(tmp_path: Path):
    samples = [
        Sample(name, write(tmp_path / f"{name}.png", surface(seed)), tmp_path / "mask.png", 1, name, (name,))
        for seed, name in enumerate("ab")
    ]
    write(tmp_path / "mask.png", np.eye(120, 90, dtype=np.uint8))
    split = Split(("a", "b"), (), (), ("a", "b"))
    assert "no negatives" in findings_of(samples, here=split)["split"][0].text
    for config in (PATCHES, Config(ensemble=EnsembleConfig(kind="per_class"))):
        assert not findings_of(samples, config, here=split)["split"]


def test_robust_scores_are_a_z_score_where_nothing_is_odd():
    values = np.random.default_rng(0).normal(0.5, 0.1, 20_000)
    np.testing.assert_allclose(audit.robust_scores(values), (values - 0.5) / 0.1, atol=0.15)


def test_real_kolektor_holds_items_twice(shared: Path, tmp_path: Path):
    items = {1, 20, 26, 27, 34, 38, 39}
    archive = shared / "data" / "KolektorSDD.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path, [name for name in file.namelist() if any(f"kos{n:02d}/" in name for n in items)])
    samples = kolektor.read(tmp_path)
    folds = {}
    for number, fold in enumerate(splits.KOLEKTOR_TEST_FOLDS):
        is_tested = {sample.id: int(sample.group[3:]) in fold for sample in samples}
        train, test = (tuple(item for item in is_tested if is_tested[item] is wanted) for wanted in (False, True))
        folds[f"fold {number}"] = Split(train, (), test, ())
    found = findings_of(samples, **folds)
    assert [finding.text for finding in found["leak"]] == [
        "kos01, kos26: 8 pictures in 16 images, the same pixel for pixel; "
        "fold 1: 8 in train and test; fold 2: 8 in train and test",
        "kos27, kos34: 8 pictures in 16 images, the same pixel for pixel; "
        "fold 0: 8 in train and test; fold 2: 8 in train and test",
    ]
    assert sorted(finding.images for finding in found["duplicate_masks"]) == [
        ("kos01/Part5", "kos26/Part5"),
        ("kos27/Part0", "kos34/Part0"),
    ]
    assert [finding.text for finding in found["mask_values"]] == ["kos20/Part4: the mask holds 85 beside 0 and 255"]
    assert "kos38, kos39: 8 pictures in 16 images" in found["near_leak"][0].text
