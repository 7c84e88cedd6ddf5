"""The input pipeline: balance, order, resume, shards, workers."""

import collections
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from jaxdefect.config import AugmentConfig, DataConfig
from jaxdefect.data import pipeline
from jaxdefect.types import InputError, Sample, Split, Targets

TARGETS = Targets(stride=8)
CONFIG = DataConfig(image_size=(64, 72), dilation_px=3, augment=AugmentConfig(flip=True, noise=0.1))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    result = []
    for i in range(16):
        is_positive = i < 5
        image, mask = folder / f"{i}.png", folder / f"{i}_mask.png"
        cv2.imwrite(str(image), rng.integers(0, 255, (64, 72), np.uint8))
        pixels = np.zeros((64, 72), np.uint8)
        pixels[10:20, 10 : 10 + 2 * i + 2] = 255 * is_positive
        cv2.imwrite(str(mask), pixels)
        result.append(Sample(f"s{i}", image, mask if is_positive else None, int(is_positive), f"s{i}"))
    return result


@pytest.fixture
def split(samples: list[Sample]) -> Split:
    return Split(tuple(s.id for s in samples), (), (), masked=("s0", "s1"))


def batches(samples, split, config=CONFIG, *, start=0, num_workers=0, **arguments):
    settings = {"batch_size": 2, "num_steps": 15, "seed": 7, "targets": TARGETS, **arguments}
    stream = pipeline.training_batches(pipeline.training_samples(samples, split, config), config, **settings)
    return list(pipeline.iterate(stream, start=start, num_workers=num_workers))


def same(first, second) -> bool:
    return all(np.array_equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


@pytest.mark.parametrize("sampling", ["alternate", "rare_negatives"])
def test_every_batch_alternates_and_every_epoch_shows_all_positives(samples, split, sampling) -> None:
    config = dataclasses.replace(CONFIG, sampling=sampling)
    seen = batches(samples, split, config)
    assert len(seen) == 3 * 5  # an epoch: 5 positives and 5 negatives in batches of 2
    for batch in seen:
        assert batch["label"].tolist() == [1.0, 0.0]
    epochs = [[id for batch in seen[5 * n : 5 * n + 5] for id in batch["id"][::2]] for n in range(3)]
    assert all(sorted(epoch) == ["s0", "s1", "s2", "s3", "s4"] for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]
    negatives = collections.Counter(id for batch in seen for id in batch["id"][1::2])
    assert max(negatives.values()) <= 2  # 15 draws from 11


def test_only_masked_positives_show_their_mask(samples, split) -> None:
    for batch in batches(samples, split, num_steps=5):
        for id, label, has_mask, mask in zip(
            batch["id"], batch["label"], batch["has_mask"], batch["mask"], strict=True
        ):
            assert has_mask == (label == 0 or id in split.masked)
            assert (mask.max() > 0) == (id in split.masked)
    assert batch["image"].shape == (2, 64, 72, 1)
    assert batch["mask"].shape == batch["weight"].shape == (2, 8, 9, 1)


def test_resuming_gives_the_same_batches_whatever_the_workers(samples, split) -> None:
    whole = batches(samples, split)
    assert same(whole[4:], batches(samples, split, start=4))
    assert same(whole[12:], batches(samples, split, start=12, num_workers=1))
    assert same(whole, batches(samples, split, num_steps=40)[:15])  # a training that is made longer goes on as it was
    assert not same(whole, batches(samples, split, seed=8))


@pytest.mark.parametrize(("cache_mb", "num_kept"), [(0, 0), (1, 16), (5.5 * 64 * 72 * 5 / 2**20, 5)])
def test_what_memory_holds_is_read_once(samples, split, cache_mb, num_kept, monkeypatch) -> None:
    reads: collections.Counter[str] = collections.Counter()

    def load(sample: Sample, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
        reads[sample.id] += 1
        return original(sample, config)

    original, none = pipeline.load, dataclasses.replace(CONFIG, cache_mb=0)
    expected = batches(samples, split, none, num_steps=40)
    monkeypatch.setattr(pipeline, "load", load)
    config = dataclasses.replace(CONFIG, cache_mb=cache_mb)
    stream = pipeline.training_batches(
        pipeline.training_samples(samples, split, config), config, targets=TARGETS, batch_size=2, num_steps=40, seed=7
    )
    assert same(expected, [stream[i] for i in range(40)])
    assert len(reads) == 16
    assert sum(count == 1 for count in reads.values()) == num_kept


def test_threads_that_load_a_sample_at_once_use_up_memory_for_one(samples, monkeypatch) -> None:
    """Of memory for two and a half, so that the second sample is read once however often it comes."""
    reads, both_read = collections.Counter(), threading.Barrier(2)
    original = pipeline.load

    def load(sample: Sample, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
        reads[sample.id] += 1
        if sample is samples[0]:
            both_read.wait(timeout=60)
        return original(sample, config)

    monkeypatch.setattr(pipeline, "load", load)
    element = pipeline.TrainingElement(dataclasses.replace(CONFIG, cache_mb=2.5 * 64 * 72 * 5 / 2**20), TARGETS)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(element, [samples[0]] * 2, [np.random.default_rng(0)] * 2))
    for _ in range(3):
        element(samples[1], np.random.default_rng(0))
    assert reads == {samples[0].id: 2, samples[1].id: 1}


def test_shards_are_disjoint_and_balanced(samples, split) -> None:
    ids = []
    for shard in range(2):
        seen = batches(samples, split, shard_index=shard, shard_count=2, num_steps=6)
        assert all(batch["label"].tolist() == [1.0, 0.0] for batch in seen)
        ids.append({id for batch in seen for id in batch["id"]})
    assert not ids[0] & ids[1]


def test_rare_negatives_are_preferred() -> None:
    drawn = pipeline.draw_rare_negatives(40, per_epoch=10, num_epochs=12, seed=0)
    assert all(len(set(epoch)) == 10 for epoch in drawn)
    counts = np.bincount(drawn.ravel(), minlength=40)
    assert counts.max() - counts.min() <= 2  # 120 draws of 40; independent draws would spread by about 5
    more = pipeline.draw_rare_negatives(3, per_epoch=8, num_epochs=2, seed=0)
    assert np.bincount(more.ravel()).tolist() in ([5, 5, 6], [5, 6, 5], [6, 5, 5])


def test_no_negative_in_a_shard_is_an_error(samples) -> None:
    only = Split(("s0", "s1", "s7"), (), (), ())
    with pytest.raises(InputError, match=r"shard 1 of 2.*0 negatives"):
        batches(samples, only, batch_size=1, num_steps=2, shard_index=1, shard_count=2)


def test_evaluation_shows_each_image_once_as_it_is(samples) -> None:
    seen = list(pipeline.evaluation_batches(samples, CONFIG, targets=TARGETS, batch_size=5))
    assert [id for batch in seen for id in batch["id"]] == [s.id for s in samples]
    first = cv2.imread(str(samples[0].image), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    np.testing.assert_allclose(seen[0]["image"][0, :, :, 0], first, atol=1e-6)


@pytest.mark.parametrize("target", ["soft", "binary"])
@pytest.mark.parametrize("stride", [1, 8])
def test_what_annotators_dispute_weighs_less_but_no_thin_line_that_all_drew(stride, target) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[:, 12:20] = 1.0  # covers half of a window
    mask[:, 36:] = 0.5
    mask[:32, 36:] = 0.75
    targets = Targets(stride, undisputed_power=2.0)
    _, weight = pipeline.make_target(mask[..., None], mask, DataConfig(target=target), targets)
    np.testing.assert_array_equal(weight[:, : 28 // stride], 1.0)
    np.testing.assert_allclose(weight[: 16 // stride, 48 // stride :], 0.25)
    np.testing.assert_array_equal(weight[48 // stride :, 48 // stride :], 0.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("stride", [1, 8])
def test_a_good_image_has_no_defect_anywhere_and_every_pixel_counts_in_full(stride, dtype) -> None:
    mask = np.zeros((64, 72), dtype)
    config = DataConfig(dilation_px=7, distance_power=2.0, distance_weight_max=3.0)
    target, weight = pipeline.make_target(mask[..., None], mask, config, Targets(stride, undisputed_power=2.0))
    assert target.shape == weight.shape == (64 // stride, 72 // stride, 1)
    assert target.dtype == weight.dtype == np.float32
    assert (target == 0).all()
    assert (weight == 1).all()
