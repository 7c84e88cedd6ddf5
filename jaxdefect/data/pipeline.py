"""From samples to batches with Grain: balanced sampling, decoding, augmentation, targets, batching, sharding.

A training stream is one `grain.MapDataset` of batches: batch k is a pure function of k, the seed and the samples. To
resume at step k is therefore to start reading at k, whatever the number of workers: there is no iterator state to keep.
"""

import dataclasses
import math
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxdefect.config import AugmentConfig, DataConfig
from jaxdefect.data import annotation, augment, images
from jaxdefect.types import Batch, InputError, Sample, Split

Batches = grain.MapDataset  # of batches


def steps_per_epoch(num_positives: int, *, batch_size: int) -> int:
    """Steps that show every positive once and as many negatives.

    All batches are full: where the batch size does not divide, an epoch ends with the first images of the next pass.
    """
    return math.ceil(2 * num_positives / batch_size)


def draw_rare_negatives(num_negatives: int, *, per_epoch: int, num_epochs: int, seed: int) -> np.ndarray:
    """Indices of negatives for every epoch, [num_epochs, per_epoch] int64, rarely used ones first (Božič 2021).

    Within an epoch they are drawn without replacement, with probability
    p ∝ (1 - f/f_max - median(1 - f/f_max) + 1)^(4 ln num_negatives), where f counts how often each one has been used.
    When an epoch wants more than there are, whole passes over all of them come first.
    """
    rng = np.random.default_rng([seed, 1])
    used = np.zeros(num_negatives)
    epochs = np.empty((num_epochs, per_epoch), np.int64)
    passes, rest = divmod(per_epoch, num_negatives)
    for epoch in epochs:
        rareness = 1.0 - used / max(used.max(), 1.0)
        weights = (rareness - np.median(rareness) + 1.0) ** (4.0 * np.log(max(num_negatives, 2)))
        drawn = rng.choice(num_negatives, rest, replace=False, p=_with_support(weights, rest))
        order = np.concatenate([*(rng.permutation(num_negatives) for _ in range(passes)), drawn])
        epoch[:] = order
        np.add.at(used, order, 1)
    return epochs


def _with_support(weights: np.ndarray, count: int) -> np.ndarray:
    """Probabilities from weights, with at least `count` above zero (a draw without replacement needs that many)."""
    if np.count_nonzero(weights) < count:
        weights = weights + weights.max() * 1e-9 + np.finfo(float).tiny
    return weights / weights.sum()


def training_batches(
    samples: Sequence[Sample],
    split: Split,
    config: DataConfig,
    *,
    batch_size: int,
    num_epochs: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.MapDataset:
    """All training batches in order: positive, negative, positive, negative...

    Positives are shuffled anew each epoch. Negatives are shuffled and gone through (`sampling="alternate"`), or drawn
    by how rarely they have been used (`"rare_negatives"`). With shards, each has its own part of both classes, and
    `batch_size` is the shard's.

    Raises:
      InputError: a shard has no positive or no negative.
    """
    by_id = {sample.id: sample for sample in samples}
    train = [by_id[id] for id in split.train]
    masked = frozenset(split.masked)
    positives = [s for s in train if s.label == 1][shard_index::shard_count]
    negatives = [s for s in train if s.label == 0][shard_index::shard_count]
    if not positives or not negatives:
        raise InputError(
            f"training data (shard {shard_index} of {shard_count}): {len(positives)} positives and {len(negatives)} "
            "negatives; at least one of each is needed: see split.json, config.split and config.data.root"
        )
    num_steps = num_epochs * steps_per_epoch(len(positives), batch_size=batch_size)
    count = math.ceil(num_steps * batch_size / 2)  # of each class
    positive_stream = grain.MapDataset.source(positives).shuffle(seed=seed)
    if config.sampling == "rare_negatives":
        num_draws = math.ceil(count / len(positives))
        drawn = draw_rare_negatives(len(negatives), per_epoch=len(positives), num_epochs=num_draws, seed=seed)
        negative_stream = grain.MapDataset.source([negatives[i] for i in drawn.ravel()])
    else:
        negative_stream = grain.MapDataset.source(negatives).shuffle(seed=seed + 1)
    streams = [stream.repeat(math.ceil(count / len(stream))) for stream in (positive_stream, negative_stream)]
    loader = TrainingElement(config, masked)
    stream = grain.MapDataset.mix(streams, weights=[1.0, 1.0])
    return stream.seed(seed).random_map(loader).batch(batch_size)[:num_steps]


def iterate(batches: grain.MapDataset, *, start: int, num_workers: int) -> Iterator[Batch]:
    """Reads the batches from number `start` on, ahead of need: in threads, or in `num_workers` spawned processes."""
    if start >= len(batches):
        return iter(())
    rest = batches[start:]
    if num_workers == 0:
        return iter(rest.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)))
    if not flags.FLAGS.is_parsed():  # Grain's worker processes read absl flags, which only launchers parse
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
    stream = rest.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    return iter(stream.mp_prefetch(options, _ignore_interrupt))


def _ignore_interrupt(worker_index: int, worker_count: int) -> None:
    """In a worker process: a Ctrl-C is for the training loop, which still needs the worker to finish its step."""
    del worker_index, worker_count
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class TrainingElement:
    """Sample -> one element of a training batch; a class so that worker processes can be sent it."""

    def __init__(self, config: DataConfig, masked: frozenset[str]):
        self.config = config
        self.masked = masked

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        image, mask = load(sample, self.config)
        image, mask = augment.augment(image, mask, config=self.config.augment, rng=rng)
        has_mask = sample.label == 0 or sample.id in self.masked
        if not has_mask:
            mask = np.zeros_like(mask)
        target, weight = targets(mask, self.config)
        return {
            "image": image,
            "mask": target,
            "weight": weight,
            "label": np.float32(sample.label),
            "has_mask": np.float32(has_mask),
            "id": sample.id,
        }


def load(sample: Sample, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, C] float32 in [0, 1] and annotation [H, W] uint8 in {0, 1}, both at the network's input size."""
    height, width = config.image_size
    image = images.read_image(sample.image, num_channels=config.num_channels)
    mask = annotation.load_mask(sample, height=image.shape[0], width=image.shape[1])
    return images.resize_image(image, height, width), annotation.resize_mask(mask, height, width)


def targets(mask: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Annotation [H, W] -> segmentation target and pixel weight, [H/8, W/8, 1] float32 each."""
    mask = annotation.dilate(mask, side_px=config.dilation_px, shape=config.dilation_shape)
    weight = annotation.distance_weights(
        mask, power=config.distance_power, maximum=config.distance_weight_max, scope=config.distance_scope
    )
    target = annotation.reduce_by_8(mask)
    if config.target == "binary":
        target = (target > 0.5).astype(np.float32)
    return target[..., None], annotation.reduce_by_8(weight)[..., None]


def evaluation_batches(samples: Sequence[Sample], config: DataConfig, *, batch_size: int) -> Iterator[Batch]:
    """Each sample once, in order, without augmentation; the last batch may be smaller."""
    plain = dataclasses.replace(config, augment=AugmentConfig())
    element = TrainingElement(plain, frozenset(s.id for s in samples if s.mask is not None))
    stream = grain.MapDataset.source(list(samples)).seed(0).random_map(element).batch(batch_size)
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)))
