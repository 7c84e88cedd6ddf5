"""Tiles of many images computed in batches of one size; while the device computes some, others are read."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxdefect.inference.tiles import Assembly, Prepared
from jaxdefect.model_config import ModelConfig
from jaxdefect.types import InputError

_IN_FLIGHT = 1  # batches that the device has while the host reads the next and collects the last

_Waiting = collections.deque[Assembly | InputError]
_Started = tuple[Sequence[Assembly], Any]  # the images of a batch's tiles, and what was started


def assemble(
    items: Iterable[Prepared | InputError],
    *,
    model: ModelConfig,
    batch_size: int,
    start: Callable[[np.ndarray], Any],
    finish: Callable[[Any, int], tuple[np.ndarray, np.ndarray]],
) -> Iterator[Assembly | InputError]:
    """Images in their order, each as soon as all its tiles are computed.

    An error among the items comes back in its place, as does that of an image that breaks half-way.

    Args:
      items: the images; taken when there is room for more tiles.
      model: whose maps are assembled.
      batch_size: tiles per computation.
      start: begins to compute tiles [n, h, w, C] of one dtype, n at most `batch_size`.
      finish: waits for what `start` returned, of n tiles: scores [n, K] and maps [n, P, h, w].
    """
    waiting: _Waiting = collections.deque()
    running: collections.deque[_Started] = collections.deque()
    started = _start_batches(items, waiting, model=model, batch_size=batch_size, start=start)
    for batch in itertools.chain(started, [None] * _IN_FLIGHT):
        if batch is not None:
            running.append(batch)
        if running and (batch is None or len(running) > _IN_FLIGHT):
            owners, outputs = running.popleft()
            for owner, scores, planes in zip(owners, *finish(outputs, len(owners)), strict=True):
                owner.add(scores, planes)
        while waiting and (isinstance(waiting[0], InputError) or waiting[0].is_complete):
            head = waiting.popleft()
            yield head if isinstance(head, InputError) else head.error or head


def _start_batches(
    items: Iterable[Prepared | InputError],
    waiting: _Waiting,
    *,
    model: ModelConfig,
    batch_size: int,
    start: Callable[[np.ndarray], Any],
) -> Iterator[_Started]:
    owners: list[Assembly] = []
    batch: list[np.ndarray] = []
    for item in items:
        if isinstance(item, InputError):
            waiting.append(item)
            continue
        assembly = Assembly(item, model)
        waiting.append(assembly)
        try:
            for tile in item.tiles():
                if batch and tile.dtype != batch[0].dtype:
                    yield owners, start(np.stack(batch))
                    owners, batch = [], []
                owners.append(assembly)
                batch.append(tile)
                if len(batch) == batch_size:
                    yield owners, start(np.stack(batch))
                    owners, batch = [], []
        except InputError as error:
            assembly.error = error
    if batch:
        yield owners, start(np.stack(batch))
