"""Which samples train, validate and test, and which training positives carry masks: a JSON manifest of ids.

Random choices are those of `strata`, by the seed; of the supervision, a smaller choice is contained in a larger one.
"""

import collections
import dataclasses
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxdefect.config import Config, SplitConfig
from jaxdefect.data import duplicates, plain_pickle, strata
from jaxdefect.types import InputError, Sample, Split

PARTS = ("train", "validation", "test")

# The published three folds of KolektorSDD: the items that are tested while the other two folds train.
KOLEKTOR_TEST_FOLDS = (
    (2, 8, 9, 10, 15, 19, 21, 25, 27, 28, 30, 37, 38, 41, 43, 46, 47),
    (1, 3, 4, 6, 11, 17, 22, 24, 29, 31, 32, 36, 39, 40, 42, 44, 48),
    (5, 7, 12, 13, 14, 16, 18, 20, 23, 26, 33, 34, 35, 45, 49, 50),
)


def make(samples: Sequence[Sample], config: SplitConfig) -> Split:
    """Divides the samples as the config says; groups stay whole, and the same seed gives the same split.

    First the parts (`config.kind`), then `num_positives` of the training positives (the others leave the training
    set, all negatives stay), then `num_masks` of those as the ones whose masks may be used.

    "random" and "folds" stratify by label and by the classes of the defects: every part gets about its share of each.
    Where groups have several classes at once, a rare class may still be absent from a fold. A manifest is taken as it
    is: its validation and test parts may lack positives or negatives.

    Image files are read only where `config.duplicates` is not "keep".

    Raises:
      InputError: a split that cannot serve: see `check`; more positives or masks are asked than there are; or an image
        file that is to be compared cannot be read.
    """
    _check_unique([sample.id for sample in samples], "the data set")
    if config.duplicates == "together":
        samples = duplicates.with_joined_groups(samples)
    if config.kind == "random":
        split = _random(samples, config)
    elif config.kind == "folds":
        split = _folds(samples, config)
    elif config.kind == "kolektor_published":
        split = _kolektor_published(samples, config)
    elif config.kind == "official_pickle":
        split = _official_pickle(samples, config)
    else:
        split = load(existing_path(config))
        check(split, samples)
    if config.duplicates == "drop":
        split = duplicates.without_leaks(split, samples)
    split = _limit_supervision(split, samples, config)
    check(split, samples, held_out="any" if config.kind == "manifest" else "both_labels")
    return split


def save(split: Split, path: Path) -> None:
    """Writes the split as a JSON manifest that `load` reads: lists of ids by part, and where the split came from.

    Raises:
      InputError: the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(split), indent=1, ensure_ascii=False)
    temporary = path.with_name(path.name + ".partial")  # a manifest is either whole or absent
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write the split manifest: {error.strerror}") from error


def load(path: Path) -> Split:
    """Reads a manifest: an object with the lists `train`, `validation`, `test`, `masked` of ids, and a text `source`.

    Raises:
      InputError: the file cannot be read, is not JSON, or has not these keys.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the split manifest: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON manifest: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a JSON object with {', '.join(PARTS)} and masked wanted, not a {type(values)}")
    known = {field.name for field in dataclasses.fields(Split)}
    if unknown := sorted(values.keys() - known):
        raise InputError(f"{path}: unknown key {unknown[0]!r}; a manifest has {', '.join(sorted(known))}")
    lists = {}
    for key in (*PARTS, "masked"):
        ids = values.get(key)
        if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
            raise InputError(f"{path}: {key!r} must be a list of ids (text), it is {str(ids)[:60]}")
        lists[key] = tuple(ids)
    return Split(**lists, source=str(values.get("source", "")))


def check(split: Split, samples: Sequence[Sample], *, held_out: Literal["any", "both_labels"] = "any") -> None:
    """Checks that a split can serve for these samples.

    Args:
      split: the split.
      samples: all that it chooses from.
      held_out: "both_labels": validation and test, where they are not empty, must have positives and negatives, like
        the training part. "any": figures of a part that lacks either are undefined, and that is accepted, as in a
        manifest, or for a detector of one class among several.

    Raises:
      InputError: an id that the data set lacks, an id or a group in two parts, no positives or no negatives in a part
        that needs them (a data set may have no negatives at all, where the good parts of its images serve as such), or
        an id in `masked` that is not a training positive with a mask.
    """
    by_id = {sample.id: sample for sample in samples}
    part_of_id: dict[str, str] = {}
    part_of_group: dict[str, str] = {}
    needs_negatives = any(sample.label == 0 for sample in samples)
    for part in PARTS:
        ids = getattr(split, part)
        _check_unique(ids, f"the {part} part of the split")
        _check_known(ids, by_id, split.source or f"the {part} part of the split")
        for item in ids:
            if (other := part_of_id.setdefault(item, part)) != part:
                raise InputError(f"id {item!r} is in two parts of the split, {other} and {part}; keep it in one")
            group = by_id[item].group
            if (other := part_of_group.setdefault(group, part)) != part:
                raise InputError(
                    f"group {group!r} is in two parts of the split, {other} and {part} (id {item!r}): "
                    "images of one item must stay together, or the test result is too good"
                )
        if part == "train" or (ids and held_out == "both_labels"):
            _check_both_classes([by_id[item] for item in ids], part, needs_negatives=needs_negatives)
    train = set(split.train)
    _check_unique(split.masked, "the masked list of the split")
    for item in split.masked:
        if item not in train or by_id[item].label == 0 or by_id[item].mask is None:
            raise InputError(f"id {item!r} is listed as masked but is not a training positive with a mask")


def check_training(split: Split, samples: Sequence[Sample], config: Config) -> None:
    """Checks that a training of this config finds defects and images without one in the training part.

    Patches are defective where a mask says so, and those beside the defects are good; the detector of one class finds
    its good images among those of the others. A network that trains no decision learns defects from masks alone.

    Raises:
      InputError: it does not.
    """
    if config.data.fit == "patches":
        if not split.masked:
            raise InputError(
                "config.data.fit = 'patches': no image of the training part has a mask to say which patches are "
                "defective; draw masks, or see config.split.num_masks"
            )
    elif config.ensemble.kind == "none":
        ids = set(split.train)
        _check_both_classes([sample for sample in samples if sample.id in ids], "train", needs_negatives=True)
    has_decision = config.loss.decision_weight > 0 or bool(config.data.classes)
    if not split.masked and (config.training.stages == "two_stage" or not has_decision):
        raise InputError(
            "no defective image of the training part has a mask, and a segmentation learns defects from masks alone; "
            "draw masks, or see config.split.num_masks. Only a decision trained with it (architecture 'segdec', "
            "config.training.stages = 'joint', config.loss.decision_weight above 0) can do without"
        )


def _check_unique(ids: Iterable[str], where: str) -> None:
    repeated = [item for item, count in collections.Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(
            f"duplicate id {repeated[0]!r} in {where} ({len(repeated)} ids appear more than once); "
            "every image needs an id of its own"
        )


def _check_known(names: Iterable[str], known: Iterable[str], source: str) -> None:
    missing = sorted(set(names).difference(known))
    if missing:
        raise InputError(
            f"{source}: {len(missing)} ids that the data set lacks, the first is {missing[0]!r}; "
            "does config.data.root hold the whole data set for which the split was made?"
        )


def _check_both_classes(samples: Sequence[Sample], part: str, *, needs_negatives: bool) -> None:
    num_positive = sum(sample.label for sample in samples)
    if 0 < num_positive < len(samples) or (num_positive and not needs_negatives):
        return
    kind = "positives (defective images)" if num_positive == 0 else "negatives (images without a defect)"
    raise InputError(
        f"the {part} part of the split has no {kind} ({len(samples)} images, {num_positive} positive); "
        "add such images, or change the fractions, folds or num_positives under config.split"
    )


def _random(samples: Sequence[Sample], config: SplitConfig) -> Split:
    groups = _groups(samples)
    num_later = 2 if config.validation_fraction > 0 else 1
    test = strata.take(groups, config.test_fraction, f"{config.seed}/test", num_later=num_later)
    rest = {name: members for name, members in groups.items() if name not in test}
    return _with_validation(samples, rest, test, config, source=f"random, seed {config.seed}")


def _folds(samples: Sequence[Sample], config: SplitConfig) -> Split:
    if not 0 <= config.fold < config.num_folds:
        raise InputError(
            f"config.split.fold = {config.fold}: out of range, must be 0 to {config.num_folds - 1} "
            f"(config.split.num_folds = {config.num_folds})"
        )
    groups = _groups(samples)
    test = strata.deal(groups, config.num_folds, f"{config.seed}/folds")[config.fold]
    rest = {name: members for name, members in groups.items() if name not in test}
    source = f"fold {config.fold} of {config.num_folds}, seed {config.seed}"
    return _with_validation(samples, rest, test, config, source=source)


def _kolektor_published(samples: Sequence[Sample], config: SplitConfig) -> Split:
    if not 0 <= config.fold < len(KOLEKTOR_TEST_FOLDS):
        raise InputError(f"config.split.fold = {config.fold}: out of range, KolektorSDD's published folds are 0, 1, 2")
    if config.duplicates == "together":
        raise InputError(
            "config.split.duplicates = 'together': KolektorSDD's published folds part duplicates (kos01 and kos26, "
            "kos27 and kos34); use 'drop'"
        )
    groups = _groups(samples)
    folds = [{f"kos{number:02d}" for number in fold} for fold in KOLEKTOR_TEST_FOLDS]
    if different := sorted(set().union(*folds).symmetric_difference(groups)):
        raise InputError(
            "config.split.kind = 'kolektor_published': the data must be KolektorSDD's items kos01 to kos50, complete; "
            f"{different[0]!r} is {'unknown' if different[0] in groups else 'missing'} ({len(different)} such); "
            "use kind 'folds' or 'random' for other data"
        )
    test = folds[config.fold]
    rest = {name: members for name, members in groups.items() if name not in test}
    return _with_validation(samples, rest, test, config, source=f"KolektorSDD, published fold {config.fold}")


def _official_pickle(samples: Sequence[Sample], config: SplitConfig) -> Split:
    """The split files of the published mixed-supervision code: (name, may the mask be used) pairs.

    A file holds (train, test) with one list of pairs per fold, the names being items (KolektorSDD, DAGM), or
    (train, test[, validation]) with one flat list each, the names being images (KolektorSDD2, Severstal).
    """
    path = existing_path(config)
    content = plain_pickle.load(path)
    if not isinstance(content, list | tuple) or len(content) not in (2, 3):
        raise InputError(f"{path}: not an official split: (train, test[, validation]) lists wanted")
    members = _names_to_ids(samples)
    parts: list[tuple[str, ...]] = []
    may_use_mask: set[str] = set()
    for index, entries in enumerate(content):
        pairs = _pairs(entries, config.fold, path)
        _check_known([name for name, _ in pairs], members, str(path))
        parts.append(tuple(item for name, _ in pairs for item in members[name]))
        if index == 0:
            may_use_mask.update(item for name, is_segmented in pairs if is_segmented for item in members[name])
    by_id = {sample.id: sample for sample in samples}
    masked = tuple(item for item in parts[0] if item in may_use_mask and _has_usable_mask(by_id[item]))
    source = f"official split {path.name}, fold {config.fold}"
    if len(parts) == 3:
        return Split(train=parts[0], test=parts[1], validation=parts[2], masked=masked, source=source)
    groups = _groups([by_id[item] for item in dict.fromkeys(parts[0])])
    validation = strata.take(groups, config.validation_fraction, f"{config.seed}/validation", num_later=1)
    return Split(
        train=tuple(item for item in parts[0] if by_id[item].group not in validation),
        validation=tuple(item for item in parts[0] if by_id[item].group in validation),
        test=parts[1],
        masked=tuple(item for item in masked if by_id[item].group not in validation),
        source=source,
    )


def _pairs(entries: Any, fold: int, path: Path) -> list[tuple[str, bool]]:
    """One part's (name, may the mask be used) pairs, of one fold where the file has folds."""

    def is_pair(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)

    if isinstance(entries, list | tuple) and entries and not is_pair(entries[0]):
        if not 0 <= fold < len(entries):
            raise InputError(f"config.split.fold = {fold}: out of range, {path} holds folds 0 to {len(entries) - 1}")
        entries = entries[fold]
    elif fold != 0:
        raise InputError(f"config.split.fold = {fold}: {path} holds no folds; set it to 0")
    if not isinstance(entries, list | tuple) or not all(is_pair(entry) for entry in entries):
        raise InputError(
            f"{path}: not an official split: (name, is_segmented) pairs wanted, got {reprlib.repr(entries):.60}"
        )
    return [(name, bool(is_segmented)) for name, is_segmented in entries]


def _names_to_ids(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The ids that a name in an official split stands for: an id, else a group, else a file that alone has it."""
    files: dict[str, list[str]] = {}
    for sample in samples:
        for name in {sample.image.name, sample.image.stem}:
            files.setdefault(name, []).append(sample.id)
    names = {name: ids for name, ids in files.items() if len(ids) == 1}
    names.update({name: [sample.id for sample in members] for name, members in _groups(samples).items()})
    names.update({sample.id: [sample.id] for sample in samples})
    return names


def existing_path(config: SplitConfig) -> Path:
    path = Path(config.path)
    if not config.path or not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise InputError(
            f"config.split.path = {config.path!r}: no such file{where}; config.split.kind = {config.kind!r} reads one"
        )
    return path


def _with_validation(
    samples: Sequence[Sample],
    rest: Mapping[str, Sequence[Sample]],
    test: Iterable[str],
    config: SplitConfig,
    *,
    source: str,
) -> Split:
    """The split whose test part is the groups `test`; the groups `rest` are divided into training and validation."""
    test = set(test)
    validation = strata.take(rest, config.validation_fraction, f"{config.seed}/validation", num_later=1)
    train = [sample for sample in samples if sample.group in rest and sample.group not in validation]
    return Split(
        train=tuple(sample.id for sample in train),
        validation=tuple(sample.id for sample in samples if sample.group in validation),
        test=tuple(sample.id for sample in samples if sample.group in test),
        masked=tuple(sample.id for sample in train if _has_usable_mask(sample)),
        source=source,
    )


def _limit_supervision(split: Split, samples: Sequence[Sample], config: SplitConfig) -> Split:
    """The split with only `num_positives` training positives, of which only `num_masks` carry masks."""
    by_id = {sample.id: sample for sample in samples}
    positives = strata.shuffled([item for item in split.train if by_id[item].label == 1], f"{config.seed}/positives")
    if config.num_positives >= 0:
        if config.num_positives > len(positives):
            raise InputError(
                f"config.split.num_positives = {config.num_positives}: the training part has only {len(positives)}"
            )
        positives = positives[: config.num_positives]
    kept, maskable = set(positives), set(split.masked)
    masked = [item for item in positives if item in maskable]
    if config.num_masks >= 0:
        if config.num_masks > len(positives):
            raise InputError(
                f"config.split.num_masks = {config.num_masks}: more masks asked than there are training positives "
                f"({len(positives)})"
            )
        if config.num_masks > len(masked):
            raise InputError(
                f"config.split.num_masks = {config.num_masks}: only {len(masked)} of the {len(positives)} training "
                "positives have a mask"
            )
        masked = masked[: config.num_masks]
    return dataclasses.replace(
        split,
        train=tuple(item for item in split.train if by_id[item].label == 0 or item in kept),
        masked=tuple(item for item in split.train if item in set(masked)),
    )


def _has_usable_mask(sample: Sample) -> bool:
    return sample.label == 1 and sample.mask is not None


def _groups(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return groups
