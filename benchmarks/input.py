"""Times the input of a training, ours against a PyTorch DataLoader over the same files, in turns.

    python -m benchmarks.input --root=KolektorSDD --out=benchmarks/results/input_cpu.json [--workers=2 --repetitions=3]

Wants the `benchmark` extra. Both sides decode, resize to the network's size, flip at random, dilate the annotation,
weigh pixels by their distance to the edge, and reduce both to an eighth, the DataLoader by OpenCV's calls and ours in
its own ways (`data/area.py`; masks near their defects only); the arrays are compared first. Ours is timed as
`launch.train` reads (files in the first pass, then memory: `config.data.cache_mb`) and with no memory at all; the
DataLoader with as many worker processes as there are cores, and with none; all with glibc's settings that our launchers
start with. Beside them stands what OpenCV needs for decoding and resizing alone, in as many threads as there are cores.
"""

import collections
import dataclasses
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from jaxdefect.benchmark import environment, results
from jaxdefect.config import AugmentConfig, DataConfig, SplitConfig
from jaxdefect.data import pipeline, readers, splits
from jaxdefect.types import Sample, Targets
from launch import cli

try:
    import torch
    from torch.utils.data import DataLoader, Dataset
except ModuleNotFoundError:
    sys.exit("error: torch is missing: pip install '.[benchmark]'")

_ROOT = flags.DEFINE_string("root", "KolektorSDD", "Folder of KolektorSDD.")
_WORKERS = flags.DEFINE_integer("workers", os.cpu_count(), "Worker processes of the DataLoader.")
_SIZE = flags.DEFINE_string("size", "704x256", "Of the network's input, HEIGHTxWIDTH.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Passes over all images, in turns, after a first one.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the figures.")


class Surfaces(Dataset):
    """What the pipeline makes of a sample, written as PyTorch users write it."""

    def __init__(self, samples: Sequence[Sample], config: DataConfig, *, is_flipped: bool):
        self.samples, self.config, self.is_flipped = samples, config, is_flipped

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample, (height, width) = self.samples[index], self.config.image_size
        image = cv2.imread(str(sample.image), cv2.IMREAD_GRAYSCALE)
        mask = np.zeros(image.shape, np.uint8)
        if sample.label and isinstance(sample.mask, Path):
            mask = (cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8)
        image = cv2.resize(image.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        mask = (mask >= 0.5).astype(np.uint8)
        for axis in (0, 1):
            if self.is_flipped and torch.rand(()) < 0.5:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
        mask = cv2.dilate(np.ascontiguousarray(mask), np.ones((self.config.dilation_px,) * 2, np.uint8))
        weight = np.ones(mask.shape, np.float32)
        if mask.any():
            distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            weight[mask > 0] = (distance[mask > 0] / distance.max()) ** self.config.distance_power
        reduced = [
            cv2.boxFilter(values.astype(np.float32), cv2.CV_32F, (17, 17), borderType=cv2.BORDER_REFLECT_101)[::8, ::8]
            for values in (mask, weight)
        ]
        arrays = dict(zip(("image", "mask", "weight"), (image, *reduced), strict=True))
        return {name: torch.from_numpy(np.ascontiguousarray(array))[None] for name, array in arrays.items()}


def main(argv: Sequence[str]) -> None:
    """Compares, times, prints a line for each side, writes the JSON file."""
    del argv
    height, width = cli.size(_SIZE.value, flag="size")
    config = DataConfig(
        reader="kolektor",
        root=_ROOT.value,
        image_size=(height, width),
        dilation_px=7,
        distance_power=2.0,
        distance_weight_max=1.0,
        augment=AugmentConfig(flip=True),
    )
    samples = readers.read(config)
    samples = pipeline.training_samples(samples, splits.make(samples, SplitConfig(kind="kolektor_published")), config)
    _compare(samples, config)
    cv2.setNumThreads(0)  # as PyTorch's guides advise, and its workers take over; ours parallelises over images too
    positives, negatives = ([i for i, sample in enumerate(samples) if sample.label == label] for label in (1, 0))
    # A pass shows every image: an epoch shows every positive, and negatives in turns.
    epochs = math.ceil(len(negatives) / len(positives))
    count, passes = epochs * pipeline.steps_per_epoch(samples, batch_size=1), _REPETITIONS.value + 1

    def ours(config: DataConfig) -> Iterator[Any]:
        batches = pipeline.training_batches(
            samples, config, targets=Targets(8), batch_size=1, num_steps=passes * count, seed=0
        )
        return iter(pipeline.iterate(batches, start=0, num_workers=0))

    # Positive and negative in turns, as ours.
    pairs = zip(itertools.cycle(positives), itertools.cycle(negatives), strict=False)
    order = list(itertools.islice(itertools.chain.from_iterable(pairs), passes * count))

    def theirs(workers: int) -> Iterator[Any]:
        dataset = Surfaces(samples, config, is_flipped=True)
        return iter(DataLoader(dataset, batch_size=1, sampler=order, num_workers=workers))

    sides = {
        "jaxdefect": ours(config),
        "jaxdefect, no memory": ours(dataclasses.replace(config, cache_mb=0)),
        f"DataLoader, {_WORKERS.value} workers": theirs(_WORKERS.value),
        "DataLoader, no workers": theirs(0),
        "OpenCV's part alone": _decoded([samples[i] for i in order], config),
    }
    seconds = {name: [_time(lambda side=side: next(side), count)] for name, side in sides.items()}  # the first pass
    for _ in range(_REPETITIONS.value):
        for name, side in sides.items():
            seconds[name].append(_time(lambda side=side: next(side), count))
    rates = {
        name: {"first": count / each[0], "later": count / statistics.median(each[1:])} for name, each in seconds.items()
    }
    best = max(rate["later"] for name, rate in rates.items() if name.startswith("DataLoader"))
    for name, rate in rates.items():
        share = rate["later"] / best
        print(f"{name}: {rate['first']:.0f} images/s in the first pass, {rate['later']:.0f} later; {share:.2f}")
    if _OUT.value:
        content = {"images_per_second": rates, "size": [height, width], "environment": environment.describe()}
        results.save(Path(_OUT.value), content)


def _decoded(samples: Sequence[Sample], config: DataConfig) -> Iterator[np.ndarray]:
    """The samples' images decoded and resized, in a thread for each core; nothing else."""
    height, width = config.image_size

    def resized(sample: Sample) -> np.ndarray:
        image = cv2.imread(str(sample.image), cv2.IMREAD_GRAYSCALE)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = collections.deque(pool.submit(resized, sample) for sample in samples[:8])
        for sample in samples[8:]:
            yield ahead.popleft().result()
            ahead.append(pool.submit(resized, sample))
        while ahead:
            yield ahead.popleft().result()


def _compare(samples: Sequence[Sample], config: DataConfig) -> None:
    """Raises RuntimeError where the two sides give other arrays."""
    plain = dataclasses.replace(config, augment=AugmentConfig())
    ours = pipeline.TrainingElement(plain, Targets(8))
    theirs = Surfaces(samples, plain, is_flipped=False)
    chosen = [*[i for i, sample in enumerate(samples) if sample.label][:5], 0]
    for i in chosen:
        element, tensors = ours(samples[i], np.random.default_rng(0)), theirs[i]
        for name, tensor in tensors.items():
            difference = float(np.abs(element[name][..., 0] - tensor[0].numpy()).max())
            if difference > 1e-4:
                raise RuntimeError(f"{samples[i].id}: {name} differs by {difference:.1e}")


def _time(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


if __name__ == "__main__":
    cli.run(main)
