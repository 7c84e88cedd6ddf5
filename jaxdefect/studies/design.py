"""A study: axes of settings, which of their combinations to compare, over which seeds and folds.

A study file defines `get_study()`, which returns a dict:
  axes: {axis: [{label: {"section.setting": value, ...}}, ...]}, the labels in the order of the table.
  combinations: "grid" (all with all), "one_at_a_time" (the baseline, and every label in its place), or a list of
    {axis: label}; an axis left out has the baseline's label. Default: "grid".
  baseline: {axis: label}; an axis left out has its first label.
  seeds: of the trainings. Default: [0].
  folds: Default: all that the config's split has.
"""

import dataclasses
import difflib
import itertools
import runpy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdefect import config as config_lib
from jaxdefect import user_files
from jaxdefect.config import Config
from jaxdefect.studies import folds
from jaxdefect.types import InputError

Overrides = Mapping[str, Any]  # "section.setting" -> value
Setting = tuple[str, ...]  # a label for each axis
_KEYS = ("axes", "combinations", "baseline", "seeds", "folds")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared. `axes`: {axis: {label: overrides}}; `settings`: distinct, the baseline among them."""

    name: str
    axes: Mapping[str, Mapping[str, Overrides]]
    settings: tuple[Setting, ...]
    baseline: Setting
    seeds: tuple[int, ...]
    folds: tuple[int, ...] | None


def load(path: Path) -> Study:
    """Reads a study file.

    Raises:
      InputError: no such file, an error in it, or a study that is not one.
    """
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs/studies")
        choices = ", ".join(sorted(str(other) for other in folder.glob("*.py")))
        raise InputError(f"--study={path}: no such file; there are: {choices or 'none'}")
    with user_files.errors_of(path, flag=f"--study={path}"):
        namespace = runpy.run_path(str(path))
        if "get_study" not in namespace:
            raise InputError(f"--study={path}: defines no get_study()")
        values = namespace["get_study"]()
    return parse(values.to_dict() if hasattr(values, "to_dict") else values, name=path.stem)


def parse(values: Any, *, name: str) -> Study:
    """A checked study from what `get_study()` returned.

    Raises:
      InputError: an unknown key, axis or label (with the nearest), empty axes, or values of the wrong kind.
    """
    where = f"study {name}"
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: get_study() must return a dict with {', '.join(_KEYS)}, not {values!r:.60}")
    for key in values:
        _check_known(key, _KEYS, where, "key")
    axes = _axes(values.get("axes"), where)
    baseline = _setting(values.get("baseline", {}), axes, where, base={axis: next(iter(axes[axis])) for axis in axes})
    settings = _settings(values.get("combinations", "grid"), axes, where, baseline=baseline)
    if baseline not in settings:
        raise InputError(
            f"{where}: the baseline {dict(zip(axes, baseline, strict=True))} is not among its combinations; add it, or "
            "name another as 'baseline'"
        )
    numbers = _integers(values.get("folds"), where, "folds")
    seeds = _integers(values.get("seeds", [0]), where, "seeds")
    return Study(name, axes, settings, baseline, folds.check_seeds(seeds or ()), numbers)


def replace_runs(study: Study, *, seeds: Sequence[int] | None, wanted_folds: Sequence[int] | None) -> Study:
    """The study over other seeds or folds, where they are given.

    Raises:
      InputError: seeds that are none.
    """
    return dataclasses.replace(
        study,
        seeds=study.seeds if seeds is None else folds.check_seeds(seeds),
        folds=study.folds if wanted_folds is None else tuple(wanted_folds),
    )


def _check_known(name: Any, known: Iterable[str], where: str, what: str) -> None:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
        raise InputError(f"{where}: no such {what}: {name!r}; the nearest is {near[0]!r} (of {', '.join(names)})")


def _axes(values: Any, where: str) -> dict[str, dict[str, Overrides]]:
    if not isinstance(values, Mapping) or not values:
        raise InputError(
            f"{where}: 'axes' must name at least one axis, as {{'attention': [{{'off': {{'model.attention': False}}}}, "
            "{'on': {'model.attention': True}}]}"
        )
    axes: dict[str, dict[str, Overrides]] = {}
    for axis, options in values.items():
        parts = [options] if isinstance(options, Mapping) else options
        if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, Mapping) for part in parts):
            raise InputError(f"{where}: axis {axis!r} must be a list of {{label: overrides}}, not {options!r:.60}")
        labels: dict[str, Overrides] = {}
        for label, overrides in (item for part in parts for item in part.items()):
            if not isinstance(label, str) or not isinstance(overrides, Mapping):
                raise InputError(
                    f"{where}: axis {axis!r}, label {label!r}: a text and its overrides are wanted, as "
                    f"{{'on': {{'model.attention': True}}}}, not {{{label!r}: {overrides!r:.60}}}"
                )
            if label in labels:
                raise InputError(f"{where}: axis {axis!r} has the label {label!r} twice")
            labels[label] = dict(_flat(overrides))
        axes[str(axis)] = labels
        if not labels:
            raise InputError(f"{where}: axis {axis!r} has no labels; give it at least one, or remove it")
    return axes


def _flat(overrides: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested overrides as "section.setting": value."""
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _setting(given: Any, axes: Mapping[str, Mapping[str, Any]], where: str, *, base: Mapping[str, str]) -> Setting:
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: a combination must be a dict {{axis: label}}, not {given!r:.60}")
    for axis, label in given.items():
        _check_known(axis, axes, where, "axis")
        _check_known(label, axes[axis], f"{where}, axis {axis!r}", "label")
    return tuple((dict(base) | dict(given))[axis] for axis in axes)


def _settings(
    combinations: Any, axes: Mapping[str, Mapping[str, Any]], where: str, *, baseline: Setting
) -> tuple[Setting, ...]:
    if combinations == "grid":
        return tuple(itertools.product(*axes.values()))
    if combinations == "one_at_a_time":
        changed = [
            (*baseline[:i], label, *baseline[i + 1 :]) for i, labels in enumerate(axes.values()) for label in labels
        ]
        return tuple(dict.fromkeys([baseline, *changed]))
    if not isinstance(combinations, list | tuple) or not combinations:
        raise InputError(
            f"{where}: combinations = {combinations!r:.60}: must be 'grid', 'one_at_a_time' or a list of "
            "{axis: label}"
        )
    base = dict(zip(axes, baseline, strict=True))
    return tuple(dict.fromkeys(_setting(one, axes, where, base=base) for one in combinations))


def _integers(values: Any, where: str, key: str) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        raise InputError(f"{where}: {key} = {values!r:.60}: a list of whole numbers is wanted, as [0, 1, 2]")
    return tuple(values)


def resolve(study: Study, setting: Setting, config: Config) -> Config:
    """The base config with the overrides of every label of a setting, checked like those of the command line.

    Raises:
      InputError: no such setting (with the nearest), a wrong value, or two labels that want different values for one.
    """
    overrides: dict[str, Any] = {}
    where = f"study {study.name}, " + ", ".join(f"{a} = {b}" for a, b in zip(study.axes, setting, strict=True))
    for axis, label in zip(study.axes, setting, strict=True):
        for key, value in study.axes[axis][label].items():
            if overrides.setdefault(key, value) != value:
                raise InputError(f"{where}: two axes set {key}: to {overrides[key]!r} and to {value!r}; let one do so")
    try:
        return override(config, overrides)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def override(config: Config, overrides: Overrides) -> Config:
    """The config with "section.setting" values replaced, and checked as a whole.

    As on the command line, another "model.architecture" starts from its own defaults.

    Raises:
      InputError: as `config.from_dict`.
    """
    values = config_lib.to_dict(config)
    architecture = overrides.get("model.architecture", config.model.architecture)
    if architecture != config.model.architecture:
        values["model"] = {"architecture": architecture}
    for name, value in overrides.items():
        *sections, key = name.split(".")
        place = values
        for i, section in enumerate(sections):
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise InputError(f"config.{name}: no such setting; config.{'.'.join(sections[: i + 1])} has none below")
        place[key] = value
    return config_lib.from_dict(values)


def cell_folds(study: Study, config: Config) -> Sequence[int | None]:
    """The folds that a setting is run on: the study's, or all; (None,) for a split without folds.

    Raises:
      InputError: the study names folds that the split does not have.
    """
    if not folds.has_folds(config.split) and study.folds is None:
        return (None,)
    return folds.check_folds(config.split, study.folds)
