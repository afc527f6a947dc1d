"""Construction of dataclasses from plain TOML or JSON values, with checks of keys and types."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from experiments.errors import UserError

T = TypeVar("T")
Name = TypeVar("Name", str, int)


def checked(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds a dataclass from plain values.

    Args:
        cls: the dataclass.
        values: the values of its fields.
        where: the key of the values in the file, for error messages.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} = {values!r} is not a table of keys and values.")
    hints = typing.get_type_hints(cls)
    if unknown := values.keys() - hints.keys():
        raise UserError(
            f"Unknown key {', '.join(sorted(unknown))} in {where}: choose from {', '.join(hints)}."
        )
    values = {key: _converted(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def _converted(value: Any, hint: Any, where: str) -> Any:
    """The value, an int converted to float for a float field."""
    if hint is Any:
        return value
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and int not in kinds and type(value) is int:
        return float(value)
    if not any(type(value) is kind for kind in kinds):
        raise UserError(f"{where} = {value!r} is not of type {getattr(hint, '__name__', hint)}.")
    return value


def check_asked(asked: Sequence[Name] | None, known: set[Name], what: str) -> None:
    """Checks names or numbers given on the command line.

    Args:
        asked: the names; None for all.
        known: the allowed names.
        what: the kind of name, for the error message: ``model``.

    Raises:
        UserError: a name is not allowed.
    """
    for name in asked or []:
        if name not in known:
            choices = ", ".join(map(str, sorted(known)))
            raise UserError(f"There is no {what} {name!r} here: choose from {choices}.")
