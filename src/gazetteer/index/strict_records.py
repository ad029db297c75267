"""Frozen dataclasses out of JSON: every field is there, and of the type that its class declares."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gazetteer.data.jsonl import describe

Record = TypeVar("Record")

_PLAIN = {str: "a string", bool: "true or false", int: "a whole number of at least 0"}


def parse_record(kind: type[Record], document: object, where: str = "") -> Record:
    """Make a dataclass of a JSON object.

    Fields may be texts, whole numbers of at least 0, truth values, literals, tuples of one type,
    dataclasses, and None where that is declared.

    Args:
        kind: the dataclass. What it raises itself, as ValueError, is passed on with the place.
        document: parsed JSON.
        where: path to it, for messages.

    Raises:
        ValueError: naming the field.
    """
    if not isinstance(document, dict):
        raise ValueError(_mismatch(where, document, "an object"))
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        place = f"{where}.{field.name}" if where else field.name
        if field.name in document:
            values[field.name] = _parse(hints[field.name], document[field.name], place)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"field '{place}' is missing")
    unknown = next((name for name in document if name not in hints), None)
    if unknown is not None:
        shown = describe(unknown).removeprefix("the string ")
        raise ValueError(f"field {shown}{f' of {where}' if where else ''} is unknown")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"field '{where}': {error}") from None


def _parse(hint: Any, found: object, where: str) -> Any:  # noqa: ANN401 - what the hint says
    if hint in _PLAIN:
        # A truth value is an int to Python.
        if type(found) is not hint or (hint is int and found < 0):  # type: ignore[operator]
            raise ValueError(_mismatch(where, found, _PLAIN[hint]))
        return found
    if get_origin(hint) is Literal:
        if found not in get_args(hint):
            raise ValueError(_mismatch(where, found, " or ".join(get_args(hint))))
        return found
    if get_origin(hint) is tuple:
        if not isinstance(found, list):
            raise ValueError(_mismatch(where, found, "a list"))
        member = get_args(hint)[0]
        return tuple(_parse(member, value, f"{where}.{n}") for n, value in enumerate(found))
    if isinstance(hint, types.UnionType):
        (other,) = (each for each in get_args(hint) if each is not types.NoneType)
        return None if found is None else _parse(other, found, where)
    return parse_record(hint, found, where)


def _mismatch(where: str, found: object, expected: str) -> str:
    prefix = f"field '{where}': " if where else ""
    return f"{prefix}found {describe(found)}, expected {expected}"
