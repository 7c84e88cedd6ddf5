"""Splits: groups stay whole, supervision is nested, the published ones are exact, and useless ones are refused."""

import collections
import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from jaxdefect.config import Config, LossConfig, SplitConfig, TrainingConfig
from jaxdefect.data import splits
from jaxdefect.types import InputError, Sample, Split


def make_samples(num_groups: int = 30, *, parts: int = 4, every: int = 2) -> list[Sample]:
    """`num_groups` groups of `parts` images; of every `every`-th group the first image is defective, with a mask."""
    samples = []
    for number in range(num_groups):
        for part in range(parts):
            label = int(part == 0 and number % every == 0)
            mask = Path("mask.png") if label else None
            group = f"item{number}"
            samples.append(Sample(f"{group}/{part}", Path(f"{group}/{part}.png"), mask, label, group))
    return samples


def samples_of_classes(num_groups: dict[tuple[str, ...], int]) -> list[Sample]:
    """So many groups with these classes, an image for each class and a good one."""
    samples = []
    for classes, number in num_groups.items():
        for group in (f"{'+'.join(classes)}{i}" for i in range(number)):
            samples.append(Sample(f"{group}/good", Path("i"), None, 0, group))
            samples += [Sample(f"{group}/{kind}", Path("i"), Path("m"), 1, group, (kind,)) for kind in classes]
    return samples


def kolektor_samples(num_items: int = 50) -> list[Sample]:
    return [
        Sample(f"kos{n:02d}/Part{p}", Path(f"kos{n:02d}/Part{p}.jpg"), Path("mask.bmp"), int(p == 0), f"kos{n:02d}")
        for n in range(1, num_items + 1)
        for p in range(3)
    ]


def groups_of(samples: list[Sample], ids: tuple[str, ...]) -> set[str]:
    group = {sample.id: sample.group for sample in samples}
    return {group[item] for item in ids}


def test_random_parts_are_stratified_whole_and_reproducible():
    samples = make_samples(100)
    config = SplitConfig(kind="random", test_fraction=0.2, validation_fraction=0.25, seed=3)
    split = splits.make(samples, config)
    assert len(groups_of(samples, split.test)) == 20
    assert len(groups_of(samples, split.validation)) == 20
    assert sorted(split.train + split.validation + split.test) == sorted(sample.id for sample in samples)
    assert sum(item.endswith("/0") and int(item[4:-2]) % 2 == 0 for item in split.test) == 10
    again = splits.make(samples[::-1], config)
    for part in (*splits.PARTS, "masked"):
        assert set(getattr(again, part)) == set(getattr(split, part))
    assert splits.make(samples, dataclasses.replace(config, seed=4)).test != split.test


@pytest.mark.parametrize("classes", [(), ("dent",)])
@pytest.mark.parametrize(
    ("kind", "test", "validation"),
    [("random", {0, 1, 3, 10}, {2, 7}), ("folds", {2, 4, 7, 11}, {3, 10})],  # before classes counted
)
def test_the_split_of_a_single_class_stays_as_it_was_published(kind, test, validation, classes):
    samples = [dataclasses.replace(each, classes=classes if each.label else ()) for each in make_samples(12)]
    config = SplitConfig(kind=kind, fold=1, test_fraction=0.3, validation_fraction=0.3, seed=5)
    split = splits.make(samples, config)
    assert groups_of(samples, split.test) == {f"item{number}" for number in test}
    assert groups_of(samples, split.validation) == {f"item{number}" for number in validation}


# What the reader of the magnetic-tile data finds; Fray is the rarest class, with 7 of 193 groups.
MAGNETIC_TILE = {
    (): 123,
    ("Blowhole",): 21,
    ("Uneven",): 17,
    ("Break",): 14,
    ("Crack",): 10,
    ("Fray",): 5,
    ("Blowhole", "Fray"): 1,
    ("Break", "Crack"): 1,
    ("Break", "Fray"): 1,
}


@pytest.mark.parametrize("kind", ["random", "folds"])
@pytest.mark.parametrize("seed", range(12))
def test_every_part_has_its_share_of_every_class(kind: str, seed: int):
    samples = samples_of_classes(MAGNETIC_TILE)
    num_groups = collections.Counter(sample.classes for sample in samples if sample.label)
    for fold in range(3 if kind == "folds" else 1):
        config = SplitConfig(kind=kind, fold=fold, test_fraction=0.3, validation_fraction=0.15, seed=seed)
        split = splits.make(samples, config)
        assert len(groups_of(samples, split.test)) == (58 if kind == "random" else pytest.approx(64.5, abs=0.5))
        share = {"test": 0.3 if kind == "random" else 1 / 3}
        share["validation"] = 0.15 * (1 - share["test"])
        share["train"] = 1 - share["test"] - share["validation"]
        for part in splits.PARTS:
            ids = set(getattr(split, part))
            found = collections.Counter(sample.classes for sample in samples if sample.label and sample.id in ids)
            for classes, number in num_groups.items():
                assert found[classes] >= 1
                assert found[classes] == pytest.approx(share[part] * number, abs=1.7)


def test_rare_classes_are_tested_validated_and_trained_as_far_as_they_reach():
    rare = {(f"class{number}",): number for number in range(1, 5)}
    samples = samples_of_classes({(): 20, ("common",): 40, **rare})
    for seed in range(12):
        split = splits.make(samples, SplitConfig(test_fraction=0.1, validation_fraction=0.1, seed=seed))
        where = {
            sample.classes[0]: [
                part for part in splits.PARTS if any(item.endswith(sample.classes[0]) for item in getattr(split, part))
            ]
            for sample in samples
            if sample.label
        }
        assert where.pop("class1") == ["train"]
        assert where.pop("class2") == ["train", "test"]
        assert all(parts == list(splits.PARTS) for parts in where.values())


def test_every_group_is_tested_in_exactly_one_fold():
    samples = make_samples(32)
    tested = collections.Counter()
    for fold in range(3):
        config = SplitConfig(kind="folds", num_folds=3, fold=fold, validation_fraction=0.2, seed=1)
        split = splits.make(samples, config)
        tested.update(groups_of(samples, split.test))
        assert 10 <= len(groups_of(samples, split.test)) <= 11
        assert 5 <= sum(sample.label for sample in samples if sample.id in split.test) <= 6
    assert tested == collections.Counter({sample.group for sample in samples})


def test_published_kolektor_folds(shared: Path):
    published = json.loads((shared / "data" / "kolektor_folds.json").read_text())
    samples = kolektor_samples()
    for fold in range(3):
        config = SplitConfig(kind="kolektor_published", fold=fold, validation_fraction=0.0)
        split = splits.make(samples, config)
        assert sorted(groups_of(samples, split.test)) == published[f"test_fold_{fold}"]
        assert split.validation == ()
        assert len(split.train) + len(split.test) == len(samples)
    with pytest.raises(InputError, match=r"config\.split\.fold = 3: out of range"):
        splits.make(samples, SplitConfig(kind="kolektor_published", fold=3))
    with pytest.raises(InputError, match=r"kolektor_published.*'kos50' is missing"):
        splits.make(kolektor_samples(49), SplitConfig(kind="kolektor_published"))


def test_published_kolektor_folds_cannot_keep_duplicates_together(tmp_path: Path):
    samples = kolektor_samples()
    for sample in samples:
        path = tmp_path / sample.image
        path.parent.mkdir(exist_ok=True)
        path.write_text("twins" if sample.group in ("kos01", "kos26") else sample.id)
    samples = [dataclasses.replace(sample, image=tmp_path / sample.image) for sample in samples]
    with pytest.raises(InputError, match=r"published folds part duplicates .* use 'drop'"):
        splits.make(samples, SplitConfig(kind="kolektor_published", duplicates="together"))


def test_fewer_positives_and_masks_are_nested_and_keep_all_negatives():
    samples = make_samples(60)
    label = {sample.id: sample.label for sample in samples}

    def positives(num_positives: int, num_masks: int) -> tuple[set[str], set[str], int]:
        split = splits.make(samples, SplitConfig(num_positives=num_positives, num_masks=num_masks))
        kept = {item for item in split.train if label[item]}
        return kept, set(split.masked), len(split.train) - len(kept)

    everything, all_masked, num_negatives = positives(-1, -1)
    assert everything == all_masked
    five, five_masked, _ = positives(5, 2)
    ten, ten_masked, num_negatives_of_ten = positives(10, 6)
    assert (len(five), len(five_masked), len(ten), len(ten_masked)) == (5, 2, 10, 6)
    assert five < ten < everything
    assert five_masked < ten_masked < ten
    assert num_negatives_of_ten == num_negatives
    assert positives(10, 0)[1] == set()


def write_pickle(path: Path, content: object) -> SplitConfig:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return SplitConfig(kind="official_pickle", path=str(path), validation_fraction=0.0)


def test_official_pickle_by_item_and_fold(tmp_path: Path):
    samples = kolektor_samples(6)
    train = [[("kos01", True), ("kos02", False)], [("kos03", False), ("kos04", True)]]
    test = [[("kos05", False)], [("kos06", False)]]
    config = write_pickle(tmp_path / "split_33_5.pyb", (train, test))
    split = splits.make(samples, dataclasses.replace(config, fold=1))
    assert groups_of(samples, split.train) == {"kos03", "kos04"}
    assert groups_of(samples, split.test) == {"kos06"}
    assert split.masked == ("kos04/Part0",)
    with pytest.raises(InputError, match=r"fold = 2: out of range, .*split_33_5\.pyb holds folds 0 to 1"):
        splits.make(samples, dataclasses.replace(config, fold=2))


def test_official_pickle_by_image_with_validation(tmp_path: Path):
    samples = [
        Sample(f"{i:04d}", Path(f"{i:04d}.jpg"), Path("m") if i % 2 else None, i % 2, f"{i:04d}") for i in range(12)
    ]
    train = [("0000", False), ("0001", True), ("0002", False), ("0003", False)]
    test, validation = [("0004", False), ("0005", True)], [("0006", False), ("0007", True)]
    config = write_pickle(tmp_path / "split_300_150.pyb", [train, test, validation])
    split = splits.make(samples, config)
    assert (split.train, split.validation) == (("0000", "0001", "0002", "0003"), ("0006", "0007"))
    assert (split.test, split.masked) == (("0004", "0005"), ("0001",))
    with pytest.raises(InputError, match=r"fold = 1: .*split_300_150\.pyb holds no folds"):
        splits.make(samples, dataclasses.replace(config, fold=1))
    with pytest.raises(InputError, match=r"split_300_150\.pyb: 4 ids that the data set lacks, the first is '0000'"):
        splits.make(samples[4:], config)


def test_official_names_mean_an_id_before_a_group_before_a_file(tmp_path: Path):
    samples = [
        Sample("x", Path("x.png"), Path("m"), 1, "y"),
        Sample("y", Path("y.png"), None, 0, "y"),
        Sample("folder/1", Path("folder/1.PNG"), Path("m"), 1, "z"),
        Sample("folder/2", Path("folder/2.PNG"), None, 0, "z"),
        Sample("a/same", Path("a/same.png"), None, 0, "v"),
        Sample("b/same", Path("b/same.png"), None, 0, "w"),
    ]
    config = write_pickle(tmp_path / "split.pyb", ([("x", True), ("y", False)], [("1.PNG", True), ("2", True)]))
    split = splits.make(samples, config)
    assert (split.train, split.test) == (("x", "y"), ("folder/1", "folder/2"))
    config = write_pickle(tmp_path / "split.pyb", ([("x", True), ("y", False)], [("z", True), ("same", True)]))
    with pytest.raises(InputError, match=r"split\.pyb: 1 ids that the data set lacks, the first is 'same'"):
        splits.make(samples, config)


class Exploit:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return eval, (self.command,)


def test_pickles_run_no_code(tmp_path: Path):
    witness = tmp_path / "witness"
    for protocol in (0, 2, 5):
        path = tmp_path / "evil.pyb"
        path.write_bytes(pickle.dumps([Exploit(f"open({str(witness)!r}, 'w')"), []], protocol=protocol))
        with pytest.raises(InputError, match=r"evil\.pyb: .*refused: it asks for (__builtin__|builtins)\.eval"):
            splits.make(make_samples(), SplitConfig(kind="official_pickle", path=str(path)))
    assert not witness.exists()
    for content in (b"", b"hello", pickle.dumps([1, 2, 3, 4]), pickle.dumps(([1], [2])), pickle.dumps(([], []))[:-3]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"evil\.pyb"):
            splits.make(make_samples(), SplitConfig(kind="official_pickle", path=str(path)))


def test_pickles_get_no_more_memory_than_they_fill(tmp_path: Path):
    path = tmp_path / "bomb.pyb"
    path.write_bytes(b"\x80\x04]r" + (10**6).to_bytes(4, "little") + b".")
    with pytest.raises(InputError, match=r"bomb\.pyb: .*refused: place 1000000 of its memo in a file of 9 bytes"):
        splits.make(make_samples(), SplitConfig(kind="official_pickle", path=str(path)))
    path.write_bytes(b"\x80\x02](" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"]e.")  # a list in a list in a list...
    with pytest.raises(InputError, match=r"bomb\.pyb: not an official split"):
        splits.make(make_samples(), SplitConfig(kind="official_pickle", path=str(path)))


def test_manifest_round_trip(tmp_path: Path):
    samples = make_samples()
    split = splits.make(samples, SplitConfig(num_masks=3))
    path = tmp_path / "split.json"
    splits.save(split, path)
    assert splits.load(path) == split
    path.write_text(path.read_text(), encoding="utf-8-sig")  # as editors on Windows save it
    assert splits.load(path) == split
    assert splits.make(samples, SplitConfig(kind="manifest", path=str(path))) == split
    fewer = splits.make(samples, SplitConfig(kind="manifest", path=str(path), num_masks=2))
    assert set(fewer.masked) < set(split.masked)
    assert [file.name for file in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON manifest.*line 1"),
        ("[]", "a JSON object"),
        pytest.param("[" * 10**5, "not a JSON manifest.*recursion", id="deep"),
        ('{"train": [], "validation": [], "test": []}', "'masked' must be a list of ids"),
        ('{"train": [1], "validation": [], "test": [], "masked": []}', "'train' must be a list of ids"),
        ('{"train": [], "validation": [], "test": [], "masked": [], "tset": []}', "unknown key 'tset'"),
    ],
)
def test_broken_manifests_are_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(InputError, match=rf"split\.json: .*{message}"):
        splits.make(make_samples(), SplitConfig(kind="manifest", path=str(tmp_path / "split.json")))
    with pytest.raises(InputError, match=r"config\.split\.path = 'gone\.json': no such file"):
        splits.make(make_samples(), SplitConfig(kind="manifest", path="gone.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": ("b/1", "b/0", "a/1")}, "id 'a/1' is in two parts of the split, train and test"),
        ({"test": ("b/1", "b/0", "c/1")}, "group 'c' is in two parts of the split, validation and test"),
        ({"test": ("b/1", "b/0", "nobody")}, "manifest: 1 ids that the data set lacks, the first is 'nobody'"),
        ({"test": ("b/1", "b/1", "b/0")}, "duplicate id 'b/1' in the test part"),
        ({"train": ("a/0",)}, "the train part of the split has no positives"),
        ({"train": ("a/1",)}, "the train part of the split has no negatives"),
        ({"test": ("b/0",)}, "the test part of the split has no positives"),
        ({"test": ("b/1",)}, "the test part of the split has no negatives"),
        ({"validation": ("c/0",)}, "the validation part of the split has no positives"),
        ({"masked": ("b/1",)}, "id 'b/1' is listed as masked but is not a training positive"),
        ({"masked": ("a/0",)}, "id 'a/0' is listed as masked but is not a training positive"),
        ({"masked": ("a/2",)}, "id 'a/2' is listed as masked but is not a training positive with a mask"),
    ],
)
def test_splits_that_cannot_serve_are_refused(change: dict, message: str):
    samples = [
        Sample(f"{g}/{p}", Path("i"), Path("m") if p == 1 else None, int(p > 0), g) for g in "abc" for p in range(3)
    ]
    good = Split(("a/0", "a/1", "a/2"), ("c/0", "c/2"), ("b/0", "b/1"), ("a/1",), source="manifest")
    splits.check(good, samples, held_out="both_labels")
    with pytest.raises(InputError, match=message):
        splits.check(dataclasses.replace(good, **change), samples, held_out="both_labels")


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_manifest_may_hold_out_images_of_one_label(tmp_path: Path, part: str, label: int):
    samples = make_samples(8)
    held_out = tuple(sample.id for sample in samples if sample.group == "item0" and sample.label == label)
    train = tuple(sample.id for sample in samples if sample.group != "item0")
    split = dataclasses.replace(Split(train, (), (), (), source="mine"), **{part: held_out})
    config = SplitConfig(kind="manifest", path=str(tmp_path / "split.json"))
    splits.save(split, Path(config.path))
    assert getattr(splits.make(samples, config), part) == held_out
    splits.save(dataclasses.replace(split, train=held_out, **{part: ()}), Path(config.path))
    with pytest.raises(InputError, match="the train part of the split has no"):
        splits.make(samples, config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(kind="folds", fold=3), r"config\.split\.fold = 3: out of range, must be 0 to 2"),
        (SplitConfig(num_positives=99), r"config\.split\.num_positives = 99: the training part has only 10"),
        (SplitConfig(num_masks=99), r"config\.split\.num_masks = 99: more masks asked than .*positives \(10\)"),
        (SplitConfig(num_positives=0), "the train part of the split has no positives"),
    ],
)
def test_more_than_there_is_is_refused(config: SplitConfig, message: str):
    with pytest.raises(InputError, match=message):
        splits.make(make_samples(), config)


def test_the_test_part_may_be_empty():
    split = splits.make(make_samples(), SplitConfig(test_fraction=0.0))
    assert split.test == ()
    assert len(split.train) + len(split.validation) == 120


def test_masks_that_do_not_exist_cannot_be_asked_for():
    samples = [dataclasses.replace(sample, mask=None) for sample in make_samples()]
    assert splits.make(samples, SplitConfig()).masked == ()
    with pytest.raises(
        InputError, match=r"config\.split\.num_masks = 1: only 0 of the 10 training positives have a mask"
    ):
        splits.make(samples, SplitConfig(num_masks=1))


def test_a_network_without_a_decision_cannot_be_trained_without_masks():
    samples = [dataclasses.replace(sample, mask=None) for sample in make_samples()]
    split = splits.make(samples, SplitConfig())
    splits.check_training(split, samples, Config())
    no_decision = dataclasses.replace(Config(), loss=LossConfig(balance="none", decision_weight=0.0))
    two_stage = dataclasses.replace(Config(), training=TrainingConfig(stages="two_stage"))
    for config in (no_decision, two_stage):
        with pytest.raises(InputError, match="no defective image of the training part has a mask"):
            splits.check_training(split, samples, config)


def test_duplicate_ids_are_refused():
    samples = make_samples()
    with pytest.raises(InputError, match="duplicate id 'item0/1' in the data set"):
        splits.make([*samples, samples[1]], SplitConfig())
