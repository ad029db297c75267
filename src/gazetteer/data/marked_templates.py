"""Templates as OpenMatch writes them, "Title: <title> Text: <text>": what is missing is empty."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gazetteer.data.templates import PassageTemplate

logger = logging.getLogger(__name__)

MARKER = re.compile(r"<([^\W\d][\w-]*(?:\.[\w-]+)*)>")
"""A field in angle brackets; `<a.b>` is field b of the object in field a."""
Piece = tuple[str, tuple[str, ...]]
"""Some text, and the path of the field that stands after it; () at the end."""


@dataclass(frozen=True, slots=True)
class MarkedTemplate(PassageTemplate):
    """A template without a query, whose missing fields are empty.

    Its `format` is the same template in the notation of `--retriever_format`, so that an index made
    with either is the same index.

    Attributes:
        pieces: the template, taken apart.
    """

    pieces: tuple[Piece, ...] = ()

    @classmethod
    def parse_marked(cls, template: str, markers: Collection[str] | None = None) -> MarkedTemplate:
        """Take a template apart.

        Args:
            template: text with fields in angle brackets.
            markers: the only names that are fields; None for all (`--all_markers`).
        """
        pieces: list[Piece] = []
        start = 0
        for match in MARKER.finditer(template):
            if markers is None or match[1] in markers:
                pieces.append((template[start : match.start()], tuple(match[1].split("."))))
                start = match.end()
        pieces.append((template[start:], ()))
        braced = "".join(_escape(text) + _braced(path) for text, path in pieces)
        return cls(braced, braced, "", False, tuple(pieces))

    @classmethod
    def titled(cls, separator: str | None) -> MarkedTemplate:
        """What OpenMatch embeds without a template: title, the tokenizer's separator, text.

        Args:
            separator: None where the tokenizer has none, as T5's; a space stands for it.
        """
        return cls.parse_marked(f"<title>{separator or ' '}<text>")

    def names(self, field: str) -> bool:
        """Whether the template names a field."""
        return any(path[:1] == (field,) for _, path in self.pieces)

    def lacking(self, passage: Mapping[str, Any]) -> list[str]:
        """Nothing: what is missing is empty."""
        return []

    def fill(self, passage: Mapping[str, Any], query: str = "") -> str:
        """The template with everything filled in; a field that is missing is told of once."""
        return "".join(text + self._value(passage, path) for text, path in self.pieces)

    def fill_passage(self, passage: Mapping[str, Any]) -> str:
        """As `fill`."""
        return self.fill(passage)

    def _value(self, passage: Mapping[str, Any], path: tuple[str, ...]) -> str:
        if not path:
            return ""
        value: Any = passage
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None:
            _tell_missing(self.format, ".".join(path))
        return "" if value is None else str(value)


@cache
def _tell_missing(template: str, name: str) -> None:
    logger.warning(
        "template '%s': field '%s' is missing in at least one text; it is left empty there",
        template,
        name,
    )


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _braced(path: tuple[str, ...]) -> str:
    return f"{{{path[0]}{''.join(f'[{name}]' for name in path[1:])}}}" if path else ""
