"""From samples to batches with Grain: balanced sampling, decoding, augmentation, targets, batching, sharding.

A training stream is one `grain.MapDataset` of batches: batch k is a pure function of k, the seed and the samples. To
resume at step k is therefore to start reading at k, whatever the number of workers: there is no iterator state to keep.
"""

import dataclasses
import math
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxdefect.config import AugmentConfig, Config, DataConfig
from jaxdefect.data import annotation, augment, images, patches, severity
from jaxdefect.types import Batch, InputError, Sample, Split, Targets

Batches = grain.MapDataset  # of batches
# Most of the reading is OpenCV's, which lets go of Python's lock. One more than cores, for who waits for a disk: of
# four on two cores one that has the lock often has no core, and all wait for it.
_NUM_THREADS = min(1 + len(os.sched_getaffinity(0)), 16)
THREADS_AHEAD = max(8, _NUM_THREADS)  # batches that are read before they are needed
_READING = grain.ReadOptions(num_threads=_NUM_THREADS, prefetch_buffer_size=THREADS_AHEAD)


def steps_per_epoch(samples: Sequence[Sample], *, batch_size: int) -> int:
    """Steps that show every positive once and as many negatives, if there are any.

    All batches are full: where the batch size does not divide, an epoch ends with the first images of the next pass.
    """
    num_positives = sum(sample.label for sample in samples)
    return math.ceil((2 if num_positives < len(samples) else 1) * num_positives / batch_size)


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


def training_samples(samples: Sequence[Sample], split: Split, config: DataConfig) -> list[Sample]:
    """What training draws from: the split's training samples, those whose masks may not be used without them.

    With `fit="patches"` these are cut into patches: a patch is positive where its part of the mask is, negative
    elsewhere, and a defective image without a mask has none.
    """
    by_id = {sample.id: sample for sample in samples}
    masked = frozenset(split.masked)
    train = [by_id[id] for id in split.train]
    train = [s if s.label == 0 or s.id in masked else dataclasses.replace(s, mask=None, class_masks=()) for s in train]
    return in_patches(train, config, stride_px=config.patch_stride_px) if config.fit == "patches" else train


def validation_samples(samples: Sequence[Sample], split: Split, config: DataConfig) -> list[Sample]:
    """The samples that validation inside a training looks at; with `fit="patches"` patches side by side."""
    by_id = {sample.id: sample for sample in samples}
    chosen = [by_id[id] for id in split.validation]
    return in_patches(chosen, config, stride_px=min(config.image_size)) if config.fit == "patches" else chosen


def in_patches(samples: Sequence[Sample], config: DataConfig, *, stride_px: int) -> list[Sample]:
    """The samples cut into overlapping patches of `config.image_size`; positives without a mask are left out."""
    return patches.patch_samples(samples, size=config.image_size, stride_px=stride_px, load_mask=_stored_mask)


def _stored_mask(sample: Sample) -> np.ndarray:
    height, width = images.image_size(sample.image)
    return annotation.load_mask(sample, height=height, width=width)


def make_targets(train: Sequence[Sample], config: Config) -> Targets:
    """What the targets need besides `config.data`: of the training samples, for severities, the largest raw one.

    Raises:
      InputError: severities are wanted and none is above 0.
    """
    stride = config.model.output_stride
    if config.data.target != "severity":
        return Targets(stride, undisputed_power=config.loss.undisputed_power)
    largest = max((float(_raw_severity(s, config.data, stride).max()) for s in train if s.label), default=0.0)
    if not largest > 0:
        raise InputError(
            "config.data.target = 'severity': no training image has a defect that differs in intensity from its "
            "surroundings; see the masks, config.data.root and config.split"
        )
    return Targets(stride, largest)


def _raw_severity(sample: Sample, config: DataConfig, stride: int) -> np.ndarray:
    return severity.severity(*load(sample, config), cell_px=stride)


def training_batches(
    samples: Sequence[Sample],
    config: DataConfig,
    *,
    targets: Targets,
    batch_size: int,
    num_steps: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.MapDataset:
    """All training batches in order: positive, negative, positive, negative...

    Positives are shuffled anew each epoch. Negatives are shuffled and gone through (`sampling="alternate"`), or drawn
    by how rarely they have been used (`"rare_negatives"`). With shards, each has its own part of both classes, and
    `batch_size` is the shard's. Patches may all be positive (cracks run through every part of a road): the network
    learns what is good from what lies beside the defects.

    Args:
      samples: of `training_samples`.
      config: of the data.
      targets: what the targets need besides.
      batch_size: elements of a batch.
      num_steps: how many batches.
      seed: of all random choices.
      shard_index: which of `shard_count` parts of the samples.
      shard_count: how many.

    Raises:
      InputError: a shard has no positive or no negative.
    """
    labels = [sample.label for sample in samples]
    shard = (shard_index, shard_count)
    order = _order(labels, config, num_draws=num_steps * batch_size, seed=seed, shard=shard)
    drawn = grain.MapDataset.range(len(order)).map(_Drawn(samples, order))
    return drawn.seed(seed).random_map(TrainingElement(config, targets)).batch(batch_size)


def training_draws(
    samples: Sequence[Sample], config: DataConfig, *, batch_size: int, num_steps: int, seed: int
) -> np.ndarray:
    """Which samples `training_batches` draws: their indices, [num_steps, batch_size] int32."""
    order = _order([s.label for s in samples], config, num_draws=num_steps * batch_size, seed=seed, shard=(0, 1))
    return order.reshape(num_steps, batch_size)


def _order(
    labels: Sequence[int], config: DataConfig, *, num_draws: int, seed: int, shard: tuple[int, int]
) -> np.ndarray:
    """Indices of samples in the order of training, [num_draws] int32; of more draws these are the first.

    Not by Grain's `shuffle`, which computes each place on demand, under Python's lock: of 33 positives in 1 ms.
    """
    index, count = shard
    positives = [i for i, label in enumerate(labels) if label == 1][index::count]
    negatives = [i for i, label in enumerate(labels) if label == 0][index::count]
    if not positives or (not negatives and config.fit != "patches"):
        raise InputError(
            f"training data (shard {index} of {count}): {len(positives)} positives and {len(negatives)} "
            "negatives; at least one of each is needed: see split.json, config.split and config.data.root"
        )
    per_class = math.ceil(num_draws / (2 if negatives else 1))
    drawn = [_shuffled(positives, count=per_class, rng=np.random.default_rng([seed, 2]))]
    if negatives and config.sampling == "rare_negatives":
        num_epochs = math.ceil(per_class / len(positives))
        rare = draw_rare_negatives(len(negatives), per_epoch=len(positives), num_epochs=num_epochs, seed=seed)
        drawn.append(np.array(negatives, np.int32)[rare.ravel()[:per_class]])
    elif negatives:
        drawn.append(_shuffled(negatives, count=per_class, rng=np.random.default_rng([seed, 3])))
    return np.stack(drawn, axis=1).ravel()[:num_draws]


def _shuffled(members: Sequence[int], *, count: int, rng: np.random.Generator) -> np.ndarray:
    """The first `count` of endless passes over all members, each in an order of its own, int32."""
    passes = np.tile(np.array(members, np.int32), (math.ceil(count / len(members)), 1))
    return rng.permuted(passes, axis=1).ravel()[:count]


class _Drawn:
    """Number of a draw -> sample; a class so that worker processes can be sent it."""

    def __init__(self, samples: Sequence[Sample], order: np.ndarray):
        self.samples, self.order = list(samples), order

    def __call__(self, draw: int) -> Sample:
        return self.samples[self.order[draw]]


def resident_elements(
    samples: Sequence[Sample], config: DataConfig, *, targets: Targets, at_full_size: bool
) -> dict[str, np.ndarray]:
    """Every sample's element without augmentation, in order, [N, ...] each: a training set to keep on a device.

    `at_full_size`: mask and weight as they are before the reduction to the model's output, [N, H, W, 1].
    """
    plain = _as_it_is(config)
    if at_full_size:  # what is binary is so after the reduction
        plain, targets = dataclasses.replace(plain, target="soft"), dataclasses.replace(targets, stride=1)
    element = TrainingElement(plain, targets)
    stream = grain.MapDataset.source(list(samples)).seed(0).random_map(element)
    elements: dict[str, np.ndarray] = {}
    for i, row in enumerate(stream.to_iter_dataset(_READING)):
        for name, value in row.items():
            if name == "id":
                continue
            if i == 0:
                elements[name] = np.empty((len(samples), *np.shape(value)), np.asarray(value).dtype)
            elements[name][i] = value
    return elements


def iterate(batches: grain.MapDataset, *, start: int, num_workers: int) -> Iterator[Batch]:
    """Reads the batches from number `start` on, ahead of need: in threads, or in `num_workers` spawned processes."""
    if start >= len(batches):
        return iter(())
    rest = batches[start:]
    if num_workers == 0:
        return iter(rest.to_iter_dataset(_READING))
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
    """Sample -> one element of a training batch; a class so that worker processes can be sent it.

    What it loads it keeps, up to `config.cache_mb`: first come, as every sample comes again once an epoch.
    """

    def __init__(self, config: DataConfig, targets: Targets):
        self.config = config
        self.targets = targets
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._free_bytes = config.cache_mb * 2**20

    def _load(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """`load`, from memory where it can be. Threads may load a sample at once, of which one is kept."""
        kept = self._kept.get(sample.id)
        if kept is not None:
            return kept
        image, mask = load(sample, self.config)
        size = image.nbytes + mask.nbytes
        if size <= self._free_bytes:
            copy = image.copy(), mask.copy()  # not views of larger arrays
            for array in copy:
                array.flags.writeable = False  # what comes unchanged out of the augmentation are these
            if self._kept.setdefault(sample.id, copy) is copy:
                self._free_bytes -= size
        return image, mask

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        image, mask = self._load(sample)
        image, mask = augment.augment(image, mask, config=self.config.augment, rng=rng)
        target, weight = make_target(image, mask, self.config, self.targets)
        element = {
            "image": image,
            "mask": target,
            "weight": weight,
            "label": np.float32(sample.label),
            "has_mask": np.float32(sample.label == 0 or sample.mask is not None),
            "id": sample.id,
        }
        return element | ({"class_id": class_id(sample, self.config.classes)} if self.config.classes else {})


def class_id(sample: Sample, classes: Sequence[str]) -> np.int32:
    """0 for a good image, k for the k-th class.

    Raises:
      InputError: a defective sample of no class, of several, or of one that `classes` lacks.
    """
    if sample.label == 0:
        return np.int32(0)
    if len(sample.classes) != 1 or sample.classes[0] not in classes:
        raise InputError(
            f"{sample.image}: its classes are {sample.classes}; a classifier needs exactly one of "
            f"config.data.classes = {tuple(classes)}"
        )
    return np.int32(1 + list(classes).index(sample.classes[0]))


def load(sample: Sample, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, C] float32 in [0, 1] and annotation [H, W], uint8 in {0, 1} or float32 in [0, 1] if it is soft.

    Of the sample's window where it has one; at the network's input size, unless images keep their size.
    """
    image = images.read_pixels(sample.image, num_channels=config.num_channels)
    if sample.label == 0 and sample.window is None:
        # `checks.check_samples` has read a good image's mask, it is empty: at the size that is wanted in the end.
        mask = np.zeros(image.shape[:2] if config.fit == "patches" else config.image_size, np.uint8)
    else:
        mask = annotation.load_mask(sample, height=image.shape[0], width=image.shape[1])
    if sample.window is not None:
        image, mask = patches.cut(image, sample.window), patches.cut(mask, sample.window)
    if config.fit == "patches":
        return images.to_unit_range(image), mask
    height, width = config.image_size
    return images.to_input(image, height, width), annotation.resize_mask(mask, height, width)


def make_target(
    image: np.ndarray, mask: np.ndarray, config: DataConfig, targets: Targets
) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, C] and annotation [H, W] -> target and pixel weight, [H/stride, W/stride, 1] float32 each.

    A cell weighs what the pixels of its window weigh on average: one that a certain defect covers half is not disputed.
    """
    if config.target == "severity":
        raw = severity.severity(image, mask, cell_px=targets.stride)
        target = severity.scale(raw, targets.severity_scale)[..., None]
        return target, np.ones_like(target)
    if not mask.any():  # as of most images
        height, width = (side // targets.stride for side in mask.shape)
        return np.zeros((height, width, 1), np.float32), np.ones((height, width, 1), np.float32)
    mask = annotation.coarsen(mask, kind=config.annotation)
    mask = annotation.dilate(mask, side_px=config.dilation_px, shape=config.dilation_shape)
    weight = annotation.distance_weights(
        mask, power=config.distance_power, maximum=config.distance_weight_max, scope=config.distance_scope
    )
    if targets.undisputed_power and mask.dtype != np.uint8:  # hard masks are undisputed
        weight *= np.abs(2.0 * mask - 1.0) ** targets.undisputed_power
    if targets.stride == annotation.REDUCTION:
        target, weight = annotation.reduce_by_8(mask), annotation.reduce_by_8(weight)
    else:
        target = mask.astype(np.float32)
    if config.target == "binary":
        target = (target > 0.5).astype(np.float32)
    return target[..., None], weight[..., None]


def evaluation_batches(
    samples: Sequence[Sample], config: DataConfig, *, targets: Targets, batch_size: int
) -> Iterator[Batch]:
    """Each sample once, in order, without augmentation; the last batch may be smaller."""
    element = TrainingElement(_as_it_is(config), targets)
    stream = grain.MapDataset.source(list(samples)).seed(0).random_map(element).batch(batch_size)
    return iter(stream.to_iter_dataset(_READING))


def _as_it_is(config: DataConfig) -> DataConfig:
    """To see every image once: neither changed nor kept."""
    return dataclasses.replace(config, augment=AugmentConfig(), cache_mb=0)


def pad(values: np.ndarray, size: int) -> np.ndarray:
    """[n, ...] -> [size, ...]: the last element repeated, so that every batch has the compiled shape."""
    missing = size - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values
