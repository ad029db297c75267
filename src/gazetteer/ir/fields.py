"""Checked access to the fields of a JSON object: each function returns the type it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gazetteer.data.jsonl import BadLineError, describe

Object = Mapping[str, Any]


def mismatch(name: str, found: object, expected: str) -> BadLineError:
    """The error for a field that is not what it should be."""
    shown = "nothing" if found is None else describe(found)
    return BadLineError(f"field '{name}': found {shown}, expected {expected}")


def text_of(line: Object, name: str) -> str:
    """A field that holds a string."""
    value = line.get(name)
    if not isinstance(value, str):
        raise mismatch(name, value, "a string")
    return value


def optional_text(line: Object, name: str) -> str | None:
    """A field that holds a string; None where it is missing or null."""
    return None if line.get(name) is None else text_of(line, name)


def as_id(value: object, name: str) -> str:
    """An id as a string, whether it was written as one or as a whole number."""
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise mismatch(name, value, "an id: a string that is not empty, or a whole number")
    return str(value)


def id_of(line: Object, name: str) -> str:
    """A field that holds an id."""
    return as_id(line.get(name), name)


def optional_id(line: Object, *names: str) -> str:
    """The first of these fields that is there, as an id; "" where there is none."""
    for name in names:
        if line.get(name) is not None:
            return as_id(line[name], name)
    return ""


def list_of(line: Object, name: str) -> list[Any]:
    """A field that holds a list."""
    value = line.get(name)
    if not isinstance(value, list):
        raise mismatch(name, value, "a list")
    return value


def optional_list(line: Object, name: str) -> list[Any]:
    """A field that holds a list; an empty one where it is missing or null."""
    return [] if line.get(name) is None else list_of(line, name)


def as_object(value: object, name: str) -> Object:
    """A member of a list of objects."""
    if not isinstance(value, dict):
        raise mismatch(name, value, "objects")
    return value


def as_text(value: object, name: str) -> str:
    """A member of a list of strings."""
    if not isinstance(value, str):
        raise mismatch(name, value, "strings")
    return value


def texts_of(line: Object, name: str) -> list[str]:
    """A field that holds a list of strings."""
    return [as_text(member, name) for member in list_of(line, name)]


def as_tokens(value: object, name: str) -> tuple[int, ...]:
    """Token ids."""
    if not isinstance(value, list):
        raise mismatch(name, value, "a list of token ids")
    for token in value:
        if type(token) is not int or token < 0:
            raise mismatch(name, token, "token ids: whole numbers from 0")
    return tuple(value)


def as_score(value: object, name: str) -> float | None:
    """A number, or None for null."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise mismatch(name, value, "a number or null")
    return float(value)


def score_of(line: Object, name: str) -> float:
    """A field that holds a number."""
    score = as_score(line.get(name), name)
    if score is None:
        raise mismatch(name, None, "a number")
    return score


def as_rank(value: object, name: str) -> int | None:
    """A rank from 1, or None for null."""
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise mismatch(name, value, "a whole number from 1, or null")
    return value


def members(line: Object, name: str, count: int) -> list[Any]:
    """A field that says something of each of `count` passages; nulls where it is missing."""
    if line.get(name) is None:
        return [None] * count
    values = list_of(line, name)
    if len(values) != count:
        raise BadLineError(f"field '{name}': found {len(values)} members, expected {count}")
    return values
