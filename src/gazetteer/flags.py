"""The bridge between dataclass fields and command-line flags, both ways.

Knows no flag by name: those are in `options.py`, and what they may be in `option_rules.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache, partial
from typing import Any, NoReturn, TypeVar, cast

from gazetteer.errors import OptionError

Value = TypeVar("Value")
Composed = TypeVar("Composed")

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag, as its dataclass field declares it.

    Attributes:
        name: of the field and, behind two dashes, of the flag.
        kind: bool, int, float or str; of each element if `is_list`.
        is_list: several values after one flag.
        is_optional: the value may be None (not given).
        default: value when the flag is absent.
        choices: values allowed; None = any.
        help: one line.
        metavar: stands for the value in the help.
    """

    name: str
    kind: type
    is_list: bool
    is_optional: bool
    default: Any
    choices: tuple[str, ...] | None
    help: str
    metavar: str

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        if self.kind is bool:
            return "on" if self.default else "off"
        return "none" if self.default in (None, []) else str(self.default)


class OpenChoices(tuple[str, ...]):
    """Choices that are shown as a list, while `in` accepts whatever `accepts` says as well.

    argparse asks `value in choices` and prints the elements: the user sees the usual values, is
    refused nonsense with that list, and may still give any other value that makes sense.
    """

    _accepts: Callable[[str], bool]

    def __new__(cls, shown: Iterable[str], *, accepts: Callable[[str], bool]) -> OpenChoices:
        """Build from the values to show and the rule for all others."""
        choices = super().__new__(cls, shown)
        choices._accepts = accepts
        return choices

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or (isinstance(value, str) and self._accepts(value))


class _WideHelp(argparse.HelpFormatter):
    """One line per flag wherever it fits, and no name broken at its hyphens."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=48, width=150)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class FlagParser(argparse.ArgumentParser):
    """argparse with whole flag names only, one line per flag in --help and one line per error."""

    def __init__(self, *, prog: str, usage: str, description: str) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            allow_abbrev=False,
            formatter_class=_WideHelp,
        )

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and a single line, without the usage of a hundred flags."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def flag(
    default: Value,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
) -> Value:
    """Declare a flag: a dataclass field with a default and a line of help.

    The field's annotation says the rest: `bool` is a switch, `list[X]` takes several values,
    `Literal` lists the choices, `X | None` is an X that may be left out.

    Returns:
        A dataclass field; typed as its value, as `dataclasses.field` is.
    """
    metadata = {"help": help, "choices": choices, "metavar": metavar}
    if isinstance(default, list):
        made = dataclasses.field(default_factory=partial(list, default), metadata=metadata)
        return cast(Any, made)
    return dataclasses.field(default=default, metadata=metadata)


@cache
def flags_of(group: type) -> tuple[Flag, ...]:
    """List the flags of one option group, in order."""
    hints = typing.get_type_hints(group)
    return tuple(_flag_of(field, hints[field.name]) for field in dataclasses.fields(group))


def group_title(group: type) -> str:
    """Give the first line of a group's docstring, without the full stop."""
    return (group.__doc__ or group.__name__).strip().splitlines()[0].rstrip(".")


@cache
def groups_of(composed: type) -> dict[str, type]:
    """Map field name to group, for every field of `composed` that is itself a group of flags."""
    hints = typing.get_type_hints(composed)
    names = (field.name for field in dataclasses.fields(composed))
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name])}


@cache
def all_flags(composed: type) -> dict[str, Flag]:
    """Map name to flag over all groups of `composed`."""
    return {each.name: each for group in groups_of(composed).values() for each in flags_of(group)}


def add_flags(parser: argparse.ArgumentParser, group: type) -> None:
    """Add a group's flags to `parser`, under the group's title.

    Each switch gets its opposite, `--no-FLAG`, which the help leaves out.
    """
    section = parser.add_argument_group(group_title(group))
    for each in flags_of(group):
        if each.kind is bool:
            # Without a default of its own: that of the switch counts.
            section.add_argument(
                f"--no-{each.name}",
                action="store_false",
                dest=each.name,
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
        section.add_argument(f"--{each.name}", **_argument(each))


def flat_values(options: object) -> dict[str, Any]:
    """Map flag name to value over all groups of a composed options object."""
    groups = [getattr(options, name) for name in groups_of(type(options))]
    return {
        each.name: getattr(group, each.name) for group in groups for each in flags_of(type(group))
    }


def compose(composed: type[Composed], values: Mapping[str, Any]) -> Composed:
    """Build a composed options object; flags that `values` does not name take their defaults."""
    groups = {}
    for name, group in groups_of(composed).items():
        names = [each.name for each in flags_of(group)]
        groups[name] = group(**{name: values[name] for name in names if name in values})
    return composed(**groups)


def with_values(options: Composed, changes: Mapping[str, Any]) -> Composed:
    """Copy a composed options object with some flags changed."""
    return compose(type(options), {**flat_values(options), **changes})


def checked_values(
    flags: Mapping[str, Flag], found: Mapping[Any, Any], source: str
) -> dict[str, Any]:
    """Check values read from a file against the flags of the same names.

    Whole numbers are fine where a flag takes any number or text. Values of a flag with
    `OpenChoices` are not looked up here: what was a folder then need not be one now.

    Raises:
        OptionError: unknown keys, wrong types, values outside the choices: all of them, one line
            each, naming `source`, the key, what was found and what was expected.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in found.items():
        if key not in flags:
            problems.append(f"{source}: {key}: unknown key, expected {_nearest(key, flags)}")
            continue
        try:
            values[key] = _converted(flags[key], value)
        except (TypeError, OverflowError):
            expected = _expectation(flags[key])
            problems.append(f"{source}: {key}: found {value!r}, expected {expected}")
    if problems:
        raise OptionError("\n".join(problems))
    return values


def _flag_of(field: dataclasses.Field[Any], annotation: object) -> Flag:
    kind, is_optional = _without_none(annotation)
    is_list = typing.get_origin(kind) is list
    kind = typing.get_args(kind)[0] if is_list else kind
    choices = field.metadata["choices"]
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        kind = type(choices[0])
    if kind not in _KINDS:
        raise TypeError(f"{field.name}: flags are bool, int, float or str, not {kind}")
    is_made = field.default is dataclasses.MISSING
    metavar = "NAME" if choices else {int: "INT", float: "FLOAT"}.get(cast(type, kind), "TEXT")
    return Flag(
        name=field.name,
        kind=cast(type, kind),
        is_list=is_list,
        is_optional=is_optional,
        default=cast(Any, field.default_factory)() if is_made else field.default,
        choices=choices,
        help=field.metadata["help"],
        metavar=field.metadata["metavar"] or metavar,
    )


def _without_none(annotation: object) -> tuple[object, bool]:
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    (kind,) = (member for member in typing.get_args(annotation) if member is not type(None))
    return kind, True


def _argument(each: Flag) -> dict[str, Any]:
    shown = f" {{{', '.join(each.choices)}}}" if each.choices else ""
    text = f"{each.help}{shown} [{each.default_text}]".replace("%", "%%")
    if each.kind is bool:
        return {"action": "store_true", "help": text}
    return {
        "type": each.kind,
        "default": each.default,
        "choices": each.choices,
        "nargs": "+" if each.is_list else None,
        "metavar": each.metavar,
        "help": text,
    }


def _converted(each: Flag, value: object) -> object:
    if value is None and each.is_optional:
        return None
    if not each.is_list:
        return _converted_element(each, value)
    if not isinstance(value, list):
        raise TypeError
    return [_converted_element(each, element) for element in value]


def _converted_element(each: Flag, value: object) -> object:
    if type(value) is int and each.kind in (float, str):
        value = each.kind(value)
    is_closed = each.choices is not None and not isinstance(each.choices, OpenChoices)
    if type(value) is not each.kind or (is_closed and value not in cast(tuple, each.choices)):
        raise TypeError
    return value


def _expectation(each: Flag) -> str:
    if each.choices and not isinstance(each.choices, OpenChoices):
        expected = f"one of {', '.join(each.choices)}"
    else:
        expected = _KINDS[each.kind]
    expected = f"a list of {expected}" if each.is_list else expected
    return f"{expected}, or null" if each.is_optional else expected


def _nearest(key: object, flags: Mapping[str, Flag]) -> str:
    close = get_close_matches(str(key), flags, n=1)
    return f"'{close[0]}'?" if close else "the name of a flag (see --help)"
