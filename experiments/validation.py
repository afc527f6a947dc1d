"""Dataclasses from plain values, as TOML and JSON give them, with checked keys and types."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def checked(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from ``values``, whose keys and types have to fit.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} = {values!r} is not a table of keys and values.")
    hints = typing.get_type_hints(cls)
    if unknown := values.keys() - hints.keys():
        raise ValueError(
            f"Unknown key {', '.join(sorted(unknown))} in {where}: it takes {', '.join(hints)}."
        )
    values = {key: _fitting(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _fitting(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and int not in kinds and type(value) is int:
        return float(value)
    if not any(type(value) is kind for kind in kinds):
        raise ValueError(f"{where} = {value!r} is not of type {getattr(hint, '__name__', hint)}.")
    return value


def check_asked(asked: Sequence[str] | None, known: set[str], what: str) -> None:
    """Raises ValueError where something is asked for that is not in the table."""
    for name in asked or []:
        if name not in known:
            raise ValueError(f"No {what} {name!r} here: there are {', '.join(sorted(known))}.")
