"""Pictures that a data set holds more than once: identical files, identical pixels, and near duplicates.

Near duplicates are two pictures with nearly the same perceptual hash that also agree in their fine structure. The hash
alone takes a line of look-alike surfaces, lit alike, for copies of one picture.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jaxdefect.types import InputError, Sample, Split

# On KolektorSDD and the magnetic tiles, pictures of different places correlate at 0.3 and 0.8 at most where the hashes
# are this close; the same picture encoded anew, resized or made brighter at 0.95 and more, taken once more at 0.85.
_MAX_DISTANCE = 10
_MIN_CORRELATION = 0.85
_THUMBNAIL_PX = 64
_HASH_SIDE = 8
_FINE_SIGMA_PX = 4.0  # of the thumbnail: coarser structure is the lighting's, and alike all over a line
_BLOCK = 1024


class Signature(NamedTuple):
    """What near duplicates are found by.

    `hash` [63] float32 of -1 and 1: which of the lowest frequencies of the picture are above their median.
    `detail` [4096] float32: the thumbnail's fine structure, of norm 1; 0 for a picture that has none.
    """

    hash: np.ndarray
    detail: np.ndarray


class NearPair(NamedTuple):
    """Two pictures by their places in the sequence, and the correlation of their fine structure in [-1, 1]."""

    first: int
    second: int
    correlation: float


def signature(gray: np.ndarray) -> Signature:
    """The signature of a picture [H, W] float32, whatever its size; brightness and contrast do not matter."""
    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    thumbnail = cv2.resize(gray.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(thumbnail)[:_HASH_SIDE, :_HASH_SIDE].ravel()[1:]  # without the mean brightness
    detail = (thumbnail - cv2.GaussianBlur(thumbnail, (0, 0), _FINE_SIGMA_PX)).ravel()
    detail -= detail.mean()
    norm = float(np.linalg.norm(detail))
    is_above = frequencies > np.median(frequencies)
    # Rounding gives an even picture some 1e-6 of structure.
    return Signature(
        np.where(is_above, 1, -1).astype(np.float32), detail / norm if norm > 1e-3 else np.zeros_like(detail)
    )


def near_pairs(signatures: Sequence[Signature]) -> list[NearPair]:
    """The pairs of near duplicates, by a matrix product of the hashes and a comparison of what is left."""
    if not signatures:
        return []
    hashes = np.stack([each.hash for each in signatures])
    details = np.stack([each.detail for each in signatures])
    pairs = []
    for start in range(0, len(hashes), _BLOCK):
        # Hashes of -1 and 1 that differ in d of n places have the product n - 2 d.
        distance = (hashes.shape[1] - hashes[start : start + _BLOCK] @ hashes[start:].T) / 2
        rows, columns = np.nonzero(np.triu(distance <= _MAX_DISTANCE, k=1))
        for place in range(0, len(rows), _BLOCK):
            first, second = (indices[place : place + _BLOCK] + start for indices in (rows, columns))
            correlation = np.einsum("ij,ij->i", details[first], details[second])
            near = correlation >= _MIN_CORRELATION
            pairs += map(NearPair, first[near].tolist(), second[near].tolist(), correlation[near].tolist())
    return pairs


def pixel_digest(pixels: np.ndarray) -> str:
    """A text that two arrays share only if their type, shape and values agree."""
    header = f"{pixels.dtype.str} {pixels.shape} ".encode()
    return hashlib.blake2b(header + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


def joined(sets: Iterable[Iterable[str]]) -> list[set[str]]:
    """The sets with those that share a member made one, transitively; each name is then in one set."""
    set_of: dict[str, set[str]] = {}
    for names in map(set, sets):
        union = names.union(*(set_of[name] for name in names if name in set_of))
        set_of.update(dict.fromkeys(union, union))
    return list({id(each): each for each in set_of.values()}.values())


def identical_files(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples whose image files are identical byte for byte, in sets of two or more.

    Only files of the same length are read.

    Raises:
      InputError: a file cannot be read.
    """
    by_length = _grouped(samples, lambda sample: _file_length(sample.image))
    candidates = [sample for members in by_length for sample in members]
    return _grouped(candidates, lambda sample: _file_digest(sample.image))


def with_joined_groups(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with the groups that share an identical file made one group, transitively.

    A joined group has the name of its first, so that data without duplicates keep theirs.

    Raises:
      InputError: a file cannot be read.
    """
    sets = joined({sample.group for sample in members} for members in identical_files(samples))
    name_of = {group: min(groups) for groups in sets for group in groups}
    return [dataclasses.replace(sample, group=name_of.get(sample.group, sample.group)) for sample in samples]


def without_leaks(split: Split, samples: Sequence[Sample]) -> Split:
    """The split without the training images that are validated or tested too, and the validation images tested too.

    Raises:
      InputError: a file cannot be read.
    """
    test, validation = set(split.test), set(split.validation)
    dropped: set[str] = set()
    for members in identical_files(samples):
        ids = {sample.id for sample in members}
        if ids & test:
            dropped |= ids - test
        elif ids & validation:
            dropped |= ids - validation
    return dataclasses.replace(
        split,
        train=tuple(item for item in split.train if item not in dropped),
        validation=tuple(item for item in split.validation if item not in dropped),
        masked=tuple(item for item in split.masked if item not in dropped),
        source=f"{split.source}, without duplicates of what is held out",
    )


def _grouped(samples: Iterable[Sample], key: Callable[[Sample], Hashable]) -> list[list[Sample]]:
    """Those that share a key with others."""
    groups = collections.defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return [members for members in groups.values() if len(members) > 1]


def _file_length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from error


def _file_digest(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from error
