"""Formats such as "{query} title: {title} context: {text}": parsed once, filled many times."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gazetteer.errors import DataError

QUERY = "query"


@dataclass(frozen=True, slots=True)
class PassageTemplate:
    """A format over a query and the fields of a passage.

    Attributes:
        format: as given on the command line.
        before: what comes before `{query}` (all of it when there is no query).
        after: what comes after `{query}`; "" when there is none.
        has_query: the format names `{query}`.
    """

    format: str
    before: str
    after: str
    has_query: bool

    @classmethod
    def parse(cls, format_: str) -> PassageTemplate:
        """Split a format at its first `{query}`."""
        pieces = list(string.Formatter().parse(format_))
        names = [name for _, name, _, _ in pieces]
        if QUERY not in names:
            return cls(format_, format_, "", False)
        place = names.index(QUERY)
        before = _join(pieces[:place]) + _escape(pieces[place][0])
        return cls(format_, before, _join(pieces[place + 1 :]), True)

    @property
    def is_separable(self) -> bool:
        """Whether query and passage can be tokenised apart: white space stands between them.

        True for formats whose passage fields all come after one `{query}` and a space, or that
        have no query at all.
        """
        if not self.has_query:
            return True
        is_once = not _fields(self.before) and QUERY not in _fields(self.after)
        return is_once and self.after[:1].isspace()

    def lacking(self, passage: Mapping[str, Any]) -> list[str]:
        """Fields that the format names and the passage does not have."""
        return [name for name in _fields(self.format) if name != QUERY and name not in passage]

    def fill(self, passage: Mapping[str, Any], query: str = "") -> str:
        """The format with everything filled in.

        Raises:
            DataError: the format names a field that the passage does not have.
        """
        return _fill(self.format, {**passage, QUERY: query})

    def fill_query(self, query: str) -> str:
        """What stands up to and including the query; nothing, when there is none."""
        return _fill(self.before, {}) + query if self.has_query else ""

    def fill_passage(self, passage: Mapping[str, Any]) -> str:
        """What stands after the query (everything, when there is none)."""
        return _fill(self.after if self.has_query else self.format, passage)


def _fill(format_: str, fields: Mapping[str, Any]) -> str:
    try:
        return format_.format_map(fields)
    except KeyError as error:
        name = fields.get("id", "")
        raise DataError(
            f"passage '{name}' has no field {error}, which the format '{format_}' names "
            "(--encoder_format, --retriever_format)"
        ) from None


def _fields(format_: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(format_) if name]


def _escape(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")


def _join(pieces: list[tuple[str, str | None, str | None, str | None]]) -> str:
    text = ""
    for literal, name, spec, conversion in pieces:
        text += _escape(literal)
        if name is not None:
            conversion_part = f"!{conversion}" if conversion else ""
            text += f"{{{name}{conversion_part}{f':{spec}' if spec else ''}}}"
    return text
