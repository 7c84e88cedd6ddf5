"""Divides groups of samples so that every part gets about its share of the good ones and of each class of defect.

A group is positive if any of its images is. Positive groups with the same set of classes form a stratum. Every random
choice orders names by a hash of the purpose and the name, so that it depends neither on a library's version nor on the
order of the files.
"""

import collections
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from jaxdefect.types import Sample

Groups = Mapping[str, Sequence[Sample]]
_Stratum = frozenset[str]  # the classes of a positive group; empty where they are not known


def shuffled(names: Iterable[str], purpose: str) -> list[str]:
    """The names in an order that the text `purpose` gives."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())


def take(groups: Groups, fraction: float, purpose: str, *, num_later: int) -> set[str]:
    """About `fraction` of the positive groups and of the others, one at least of either where two are there.

    Each stratum gives its share (largest remainders). Every class of two groups or more is taken, though it may need
    more than `fraction`; a class's last groups are left for the rest as long as there are others to take.

    Args:
      groups: the samples of each group, by its name.
      fraction: in [0, 1].
      purpose: what orders the groups.
      num_later: parts that the rest will be divided into: so many groups of a class are left, if it has them.

    Returns:
      Names.
    """
    positive, negative = _by_label(groups, purpose)
    num_positive, num_negative = (_count(len(names), fraction) for names in (positive, negative))
    return {*_take_positive(positive, num_positive, num_later=num_later), *negative[:num_negative]}


def deal(groups: Groups, num_folds: int, purpose: str) -> list[set[str]]:
    """The names of the groups in `num_folds` folds of about the same size, each with about its share of every class.

    The groups of the rarest class come first. Each goes to the fold that has the fewest of its classes, counted from
    the rarest, then to the smallest. That is greedy: where groups have several classes at once, a fold may lack a class
    that has groups enough for all.

    References:
      Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data (2011), which deals by class like this.
    """
    positive, negative = _by_label(groups, purpose)
    num_groups = _num_groups(positive.values())
    rarity = {kind: place for place, kind in enumerate(_rarest_first(num_groups))}
    folds: list[list[str]] = [[] for _ in range(num_folds)]
    seen: list[collections.Counter[str]] = [collections.Counter() for _ in range(num_folds)]
    for name in sorted(positive, key=lambda name: min((rarity[kind] for kind in positive[name]), default=len(rarity))):
        kinds = sorted(positive[name], key=rarity.__getitem__)
        fold = min(range(num_folds), key=lambda fold: ([seen[fold][kind] for kind in kinds], len(folds[fold])))
        folds[fold].append(name)
        seen[fold].update(kinds)
    # The negatives are dealt from the last fold down, so that no fold gets both remainders.
    return [{*fold, *negative[num_folds - 1 - number :: num_folds]} for number, fold in enumerate(folds)]


def _by_label(groups: Groups, purpose: str) -> tuple[dict[str, _Stratum], list[str]]:
    """The shuffled positive groups with their classes, and the shuffled others."""
    positive = [name for name, members in groups.items() if any(sample.label for sample in members)]
    negative = sorted(set(groups).difference(positive))
    kinds = {name: frozenset(kind for sample in groups[name] for kind in sample.classes) for name in positive}
    return {name: kinds[name] for name in shuffled(positive, purpose)}, shuffled(negative, purpose)


def _count(number: int, fraction: float) -> int:
    count = round(fraction * number)
    return min(max(count, 1), number - 1) if fraction > 0 and number >= 2 else count


def _num_groups(strata: Iterable[_Stratum]) -> collections.Counter[str]:
    """How many groups have each class."""
    return collections.Counter(kind for stratum in strata for kind in stratum)


def _rarest_first(num_groups: Mapping[str, int]) -> list[str]:
    return sorted(num_groups, key=lambda kind: (num_groups[kind], kind))


def _take_positive(positive: Mapping[str, _Stratum], count: int, *, num_later: int) -> list[str]:
    """`count` names, or more where `count` leaves out a class of two groups or more."""
    if count == 0:
        return []
    waiting: dict[_Stratum, collections.deque[str]] = {}
    for name, stratum in positive.items():
        waiting.setdefault(stratum, collections.deque()).append(name)
    owed = {stratum: count * len(names) for stratum, names in waiting.items()}  # in 1 / len(positive) of a group
    num_groups = _num_groups(positive.values())
    left = num_groups.copy()
    kept = {kind: max(1, min(num_later, number - 1)) for kind, number in num_groups.items()}
    taken: list[str] = []

    def take_one(strata: Collection[_Stratum]) -> None:
        def preference(stratum: _Stratum) -> tuple[bool, int, list[str]]:
            return any(left[kind] <= kept[kind] for kind in stratum), -owed[stratum], sorted(stratum)

        chosen = min((stratum for stratum in strata if waiting[stratum]), key=preference)
        taken.append(waiting[chosen].popleft())
        owed[chosen] -= len(positive)
        left.subtract(chosen)

    for kind in _rarest_first(num_groups):
        if left[kind] == num_groups[kind] >= 2:
            take_one([stratum for stratum in waiting if kind in stratum])
    while len(taken) < count:
        take_one(waiting)
    return taken
