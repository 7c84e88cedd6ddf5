"""Frozen dataclasses from nested mappings and back: unknown keys, wrong types and wrong choices are named."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from jaxdefect.types import InputError


def difference(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "config") -> list[str]:
    """Lines like "config.optimizer.learning_rate: 0.1 -> 0.2" for every value in which two nested dicts differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b, name = old.get(key), new.get(key), f"{prefix}.{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, prefix=name)
        elif a != b:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines


def plain(value: Any) -> Any:
    """Nested dicts and tuples as dicts and lists, ready for JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def build(cls: type, values: Mapping[str, Any], where: str, *, of: str = "") -> Any:
    """A `cls` filled from `values`, each converted to its field's type; `where` names it in errors, `of` its kind.

    Raises:
      InputError: an unknown key (with the nearest name), or a value of another type.
    """
    types_of = typing.get_type_hints(cls)
    hints = {field.name: types_of[field.name] for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise InputError(f"{where}.{key}: no such setting{of}; the nearest is {where}.{near[0]}")
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    return cls(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` asks for; an int serves for a float, a list for a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _choose(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} = {value!r}: a section with settings of its own is wanted here")
        return build(typing.cast(type, hint), value, where)
    if origin is Literal:
        if any(value == argument and type(value) is type(argument) for argument in arguments):
            return value
        near = difflib.get_close_matches(str(value), map(str, arguments), n=1)
        hint_text = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{where} = {value!r}: must be one of {', '.join(map(repr, arguments))}{hint_text}")
    if origin is tuple and arguments[-1] is Ellipsis:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} = {value!r}: must be a tuple, e.g. ('scratch', 'dent')")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise InputError(f"{where} = {value!r}: must be {len(arguments)} values, e.g. (256, 1600)")
        return tuple(_convert(a, v, where) for a, v in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where} = {value!r}: must be of type {hint.__name__}, not {type(value).__name__}")
    return value


def _choose(classes: tuple[type, ...], value: Any, where: str) -> Any:
    """One of several dataclasses, by its field "architecture"; the first if the field is not given."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where} = {value!r}: a section with settings of its own is wanted here")
    by_name = {typing.get_args(typing.get_type_hints(cls)["architecture"])[0]: cls for cls in classes}
    name = value.get("architecture", next(iter(by_name)))
    if name not in by_name:
        near = difflib.get_close_matches(str(name), by_name, n=1)
        hint_text = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{where}.architecture = {name!r}: must be one of {', '.join(map(repr, by_name))}{hint_text}")
    return build(by_name[name], value, where, of=f" of the architecture {name!r}")
