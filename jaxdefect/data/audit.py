"""An audit of a data set and of its split: duplicates, leaks, masks and labels that contradict, odd images.

A finding is an error if it spoils a result or stops a training, else a warning.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdefect.config import Config, SplitConfig
from jaxdefect.data import annotation, duplicates, splits
from jaxdefect.data.inspection import ImageFacts, Inspection, MaskFacts
from jaxdefect.types import InputError, Sample, Split

ERRORS = {
    "data": "The data set cannot be read",
    "split": "The split cannot be made or used",
    "leak": "One picture in several parts of the split",
    "group_leak": "One item in several parts of the split",
    "duplicate_labels": "Duplicates with different labels",
    "duplicate_masks": "Duplicates with different masks",
    "unreadable": "Images that cannot be read",
    "mask_unusable": "Masks that cannot be read, or are of another size than their image or off it",
    "mask_label": "Masks that contradict the label",
}
WARNINGS = {
    "near_leak": "Near duplicates in several parts of the split",
    "duplicates": "One picture several times, not in several parts of the split",
    "near_duplicates": "Near duplicates in different groups",
    "mask_empty": "Defective images whose mask is empty and not used",
    "mask_tiny": "Tiny masks",
    "mask_large": "Masks of more than half the image",
    "mask_values": "Odd values in mask files",
    "group_size": "Groups with more or fewer images than the others",
    "orientation": "Images that are turned",
    "intensity": "Unusual brightness or contrast",
}
TITLES = ERRORS | WARNINGS

_TINY_PX = annotation.REDUCTION**2  # a mask of less than one cell of the networks' output
_LARGE_FRACTION = 0.5
_USUAL_FRACTION = 0.9  # what so many have is the rule, and the others are exceptions
_MAX_DEVIATIONS = 6.0  # of a normal distribution one in a billion lies beyond; of real images a few in a thousand
_MIN_SPREAD = 1 / 255  # gray levels are no finer, so a smaller spread says nothing
_NUM_LISTED = 8


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to look at: its kind (a key of `TITLES`), what it says, and the ids of the images that show it."""

    kind: str
    text: str
    images: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.kind in ERRORS


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was looked at, the findings in the order of `TITLES`, and the counts for audit.json."""

    inspections: tuple[Inspection, ...]
    findings: tuple[Finding, ...]
    summary: Mapping[str, Any]

    @property
    def num_errors(self) -> int:
        return sum(finding.is_error for finding in self.findings)


def audit(
    inspections: Sequence[Inspection],
    splits_by_name: Mapping[str, Split],
    config: Config,
    *,
    problems: Sequence[Finding] = (),
) -> Audit:
    """Finds what is wrong with a data set and with the ways in which it is divided.

    Args:
      inspections: of every image.
      splits_by_name: the splits to look for leaks in; the first is the one that the summary counts.
      config: of the training that the splits must do for.
      problems: findings of before, as `splits_of` gives them.
    """
    readable = [each for each in inspections if each.image]
    near, num_near_within = _near(readable, splits_by_name)
    samples = [each.sample for each in inspections]
    findings = [
        *problems,
        *_split_problems(samples, splits_by_name, config),
        *_identical(readable, splits_by_name),
        *_contradictions(readable),
        *near,
        *_files(inspections),
        *_masks(inspections),
        *_group_sizes(samples),
        *_orientations(readable),
        *_intensities(readable),
    ]
    order = list(TITLES)
    findings.sort(key=lambda finding: order.index(finding.kind))
    summary = _summary(inspections, splits_by_name) | {"num_near_duplicates_within_groups": num_near_within}
    return Audit(tuple(inspections), tuple(findings), summary)


def splits_of(samples: Sequence[Sample], config: SplitConfig) -> tuple[dict[str, Split], list[Finding]]:
    """The splits that a config means, by name: of folds all, the config's own first.

    A split that cannot be made is a finding, and the audit of the images goes on. A manifest is taken as it is, so that
    the audit can say what is wrong with it.
    """
    num_folds = {"folds": config.num_folds, "kolektor_published": len(splits.KOLEKTOR_TEST_FOLDS)}.get(config.kind, 0)
    folds = [config.fold, *(fold for fold in range(num_folds) if fold != config.fold)]
    made: dict[str, Split] = {}
    try:
        if config.kind == "manifest" and config.duplicates == "keep":
            return {config.path: splits.load(splits.existing_path(config))}, []
        for fold in folds:
            name = f"fold {fold}" if num_folds else f"split {config.kind!r}"
            made[name] = splits.make(samples, dataclasses.replace(config, fold=fold))
    except InputError as error:
        return made, [Finding("split", str(error))]
    return made, []


def _split_problems(
    samples: Sequence[Sample], splits_by_name: Mapping[str, Split], config: Config
) -> Iterable[Finding]:
    """Ids that the data set lacks, and groups in several parts; where there are none, what else stops a training."""
    group_of = {sample.id: sample.group for sample in samples}
    for name, split in splits_by_name.items():
        parts = _parts_of(split)
        if unknown := sorted(parts.keys() - group_of):
            yield Finding("split", f"{name}: {len(unknown)} ids that the data set lacks: {_listed(unknown)}")
        members = collections.defaultdict(list)
        for item in parts:
            if item in group_of:
                members[group_of[item]].append(item)
        leaks = [
            Finding("group_leak", f"{name}: {group} is in {_in_order(found)}", tuple(ids))
            for group, ids in members.items()
            if len(found := set().union(*(parts[item] for item in ids))) > 1
        ]
        yield from leaks
        if unknown or leaks:
            continue
        try:
            splits.check(split, samples)
            splits.check_training(split, samples, config)
        except InputError as error:
            yield Finding("split", f"{name}: {error}")


def _parts_of(split: Split) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = collections.defaultdict(set)
    for part in splits.PARTS:
        for item in getattr(split, part):
            parts[item].add(part)
    return parts


def _identical(readable: Sequence[Inspection], splits_by_name: Mapping[str, Split]) -> Iterable[Finding]:
    """Sets of identical pictures; those of the same groups are one finding."""
    by_groups = _by_groups(_identical_sets(readable))
    for groups, sets in by_groups.items():
        leaks = _crossings(sets, splits_by_name)
        text = f"{_listed(groups)}: {_pictures(sets)}, the same pixel for pixel"
        yield Finding(
            "leak" if leaks else "duplicates",
            "; ".join([text, *leaks]),
            tuple(each.sample.id for members in sets for each in members),
        )


def _identical_sets(readable: Sequence[Inspection]) -> list[list[Inspection]]:
    by_digest = collections.defaultdict(list)
    for each in readable:
        by_digest[_image(each).digest].append(each)
    return [members for members in by_digest.values() if len(members) > 1]


def _by_groups(sets: Iterable[list[Inspection]]) -> dict[tuple[str, ...], list[list[Inspection]]]:
    by_groups = collections.defaultdict(list)
    for members in sets:
        by_groups[tuple(sorted({each.sample.group for each in members}))].append(members)
    return by_groups


def _crossings(sets: Sequence[Sequence[Inspection]], splits_by_name: Mapping[str, Split]) -> list[str]:
    """For each split how many of the sets lie in several parts, as text."""
    texts = []
    for name, split in splits_by_name.items():
        parts = _parts_of(split)
        found = [set().union(*(parts.get(each.sample.id, ()) for each in members)) for members in sets]
        crossing = collections.Counter(_in_order(one) for one in found if len(one) > 1)
        texts += [f"{name}: {count} in {where}" for where, count in crossing.items()]
    return texts


def _near(readable: Sequence[Inspection], splits_by_name: Mapping[str, Split]) -> tuple[list[Finding], int]:
    """Near duplicates that are not identical and not of one group, and how many pairs there are within groups."""
    first_of = {_image(each).digest: each for each in reversed(readable)}
    candidates = list(first_of.values())
    pairs = duplicates.near_pairs([_image(each).signature for each in candidates])
    by_id = {each.sample.id: each for each in candidates}
    apart = [pair for pair in pairs if candidates[pair.first].sample.group != candidates[pair.second].sample.group]
    correlation_of: dict[str, float] = {}
    for first, second, correlation in apart:
        for place in (first, second):
            item = candidates[place].sample.id
            correlation_of[item] = min(correlation, correlation_of.get(item, 1.0))
    sets = duplicates.joined((candidates[first].sample.id, candidates[second].sample.id) for first, second, _ in apart)
    findings = []
    for groups, members in _by_groups([[by_id[item] for item in sorted(each)] for each in sets]).items():
        ids = tuple(each.sample.id for one in members for each in one)
        leaks = _crossings(members, splits_by_name)
        lowest = min(correlation_of[item] for item in ids)
        text = f"{_listed(groups)}: {_pictures(members)}, nearly the same (correlation from {lowest:.2f} on)"
        num_mixed = sum(len({each.sample.label for each in one}) > 1 for one in members)
        labels = [f"good and defective at once: {num_mixed}"] if num_mixed else []
        findings.append(Finding("near_leak" if leaks else "near_duplicates", "; ".join([text, *labels, *leaks]), ids))
    return findings, len(pairs) - len(apart)


def _contradictions(readable: Sequence[Inspection]) -> Iterable[Finding]:
    """Identical pictures whose labels, classes or masks differ."""
    for members in _identical_sets(readable):
        ids = tuple(each.sample.id for each in members)
        if len({(each.sample.label, each.sample.classes) for each in members}) > 1:
            text = ", ".join(f"{each.sample.id} is {_label(each.sample)}" for each in members)
            yield Finding("duplicate_labels", text, ids)
        masked = [(each.sample.id, each.mask) for each in members if each.mask]
        if len({mask.digest for _, mask in masked}) > 1:
            text = ", ".join(f"{item} has {mask.area_px} px marked" for item, mask in masked)
            yield Finding("duplicate_masks", text, ids)


def _label(sample: Sample) -> str:
    return ("defective" if sample.label else "good") + (f" ({', '.join(sample.classes)})" if sample.classes else "")


def _files(inspections: Sequence[Inspection]) -> Iterable[Finding]:
    for each in inspections:
        if each.image_error:
            yield Finding("unreadable", each.image_error, (each.sample.id,))
        if each.mask_error:
            yield Finding("mask_unusable", each.mask_error, (each.sample.id,))
        if each.unused_mask:
            yield Finding("mask_empty", f"{each.sample.id}: {each.unused_mask.name} marks nothing", (each.sample.id,))


def _masks(inspections: Sequence[Inspection]) -> Iterable[Finding]:
    """What is odd about masks that can be read."""
    masked = [(each.sample, each.mask, _image(each)) for each in inspections if each.mask]
    masked.sort(key=lambda each: each[1].area_px)  # the tiniest first
    for sample, mask, image in masked:
        is_marked, fraction = mask.area_px > 0, mask.area_px / (image.height * image.width)
        if is_marked != bool(sample.label):
            found = f"{mask.area_px} px marked" if is_marked else "its mask is empty"
            yield Finding("mask_label", f"{sample.id}: {_label(sample)}, but {found}", (sample.id,))
        elif is_marked and mask.area_px < _TINY_PX:
            yield Finding("mask_tiny", f"{sample.id}: {mask.area_px} px marked", (sample.id,))
        elif fraction > _LARGE_FRACTION:
            yield Finding("mask_large", f"{sample.id}: {fraction:.0%} of the image marked", (sample.id,))
    yield from _odd_values([(sample.id, mask) for sample, mask, _ in masked])


def _odd_values(masks: Sequence[tuple[str, MaskFacts]]) -> Iterable[Finding]:
    """Masks with other values than the two that the most masks hold; where many have some, all are one finding."""
    counts = collections.Counter(value for _, mask in masks for value in mask.values)
    usual = [value for value, _ in counts.most_common(2)]
    beside = f"beside {' and '.join(map(str, sorted(usual)))}"
    odd = {item: found for item, mask in masks if (found := [value for value in mask.values if value not in usual])}
    if len(odd) > _NUM_LISTED:
        found = sorted(set().union(*odd.values()))
        text = f"{len(odd)} of {len(masks)} masks hold values from {found[0]} to {found[-1]} {beside}"
        yield Finding("mask_values", text, tuple(odd))
        return
    for item, found in odd.items():
        yield Finding("mask_values", f"{item}: the mask holds {_listed(map(str, found))} {beside}", (item,))


def _group_sizes(samples: Sequence[Sample]) -> Iterable[Finding]:
    """Groups of another size than nearly all have."""
    members = collections.defaultdict(list)
    for sample in samples:
        members[sample.group].append(sample.id)
    usual, count = next(iter(collections.Counter(map(len, members.values())).most_common(1)), (0, 0))
    if usual > 1 and count >= _USUAL_FRACTION * len(members):
        for group, ids in members.items():
            if len(ids) != usual:
                yield Finding(
                    "group_size", f"{group}: {len(ids)} images, where {count} groups have {usual}", tuple(ids)
                )


def _orientations(readable: Sequence[Inspection]) -> Iterable[Finding]:
    """Upright images among lying ones, or the reverse."""
    upright = [each for each in readable if _image(each).height > _image(each).width]
    lying = [each for each in readable if _image(each).height < _image(each).width]
    fewer, more = sorted((upright, lying), key=len)
    if fewer and len(more) >= _USUAL_FRACTION * len(readable):
        sizes = _listed(sorted({f"{_image(each).height} x {_image(each).width}" for each in fewer}))
        word = "upright" if fewer is upright else "lying"
        yield Finding(
            "orientation",
            f"{len(fewer)} of {len(readable)} images are {word} (height x width {sizes}), unlike the rest",
            tuple(each.sample.id for each in fewer),
        )


def _intensities(readable: Sequence[Inspection]) -> Iterable[Finding]:
    """Images whose mean or standard deviation lies far from the median, the farthest first."""
    values = np.array([(_image(each).mean, _image(each).deviation) for each in readable]).reshape(-1, 2)
    medians = np.median(values, axis=0) if readable else np.zeros(2)
    scores = np.stack([robust_scores(column) for column in values.T], axis=1)
    farthest = np.abs(scores).max(axis=1)
    for place in np.argsort(-farthest, kind="stable")[: int((farthest > _MAX_DEVIATIONS).sum())]:
        texts = [
            f"{name} {255 * value:.0f} of 255, where the median is {255 * median:.0f} ({score:+.1f} robust deviations)"
            for name, value, median, score in zip(
                ("mean", "standard deviation"), values[place], medians, scores[place], strict=True
            )
            if abs(score) > _MAX_DEVIATIONS
        ]
        item = readable[place].sample.id
        yield Finding("intensity", f"{item}: {'; '.join(texts)}", (item,))


def robust_scores(values: np.ndarray) -> np.ndarray:
    """(x - median) / (1.4826 * median absolute deviation): a z-score that the outliers themselves do not blunt.

    References:
      Iglewicz, Hoaglin: How to detect and handle outliers (1993).
    """
    if not values.size:
        return values
    distance = values - np.median(values)
    return distance / max(1.4826 * float(np.median(np.abs(distance))), _MIN_SPREAD)


def _summary(inspections: Sequence[Inspection], splits_by_name: Mapping[str, Split]) -> dict[str, Any]:
    samples = [each.sample for each in inspections]
    sizes = collections.Counter((each.image.height, each.image.width) for each in inspections if each.image)
    parts = {"all": _counts(samples)}
    for split in list(splits_by_name.values())[:1]:
        chosen = [(part, set(getattr(split, part))) for part in splits.PARTS]
        parts |= {part: _counts([each for each in samples if each.id in ids]) for part, ids in chosen}
    return {
        "split": next(iter(splits_by_name), None),
        "parts": parts,
        "sizes": [{"height": height, "width": width, "num_images": n} for (height, width), n in sizes.most_common()],
    }


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    positives = [sample for sample in samples if sample.label]
    return {
        "num_images": len(samples),
        "num_groups": len({sample.group for sample in samples}),
        "num_good": len(samples) - len(positives),
        "num_defective": len(positives),
        "num_defective_with_mask": sum(sample.mask is not None for sample in positives),
        "classes": dict(sorted(collections.Counter(name for each in positives for name in each.classes).items())),
    }


def _image(inspection: Inspection) -> ImageFacts:
    assert inspection.image is not None
    return inspection.image


def _pictures(sets: Sequence[Sequence[Inspection]]) -> str:
    return f"{len(sets)} picture{'s' if len(sets) > 1 else ''} in {sum(map(len, sets))} images"


def _in_order(parts: Iterable[str]) -> str:
    return " and ".join(part for part in splits.PARTS if part in parts)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
    return ", ".join(names[:_NUM_LISTED]) + rest
