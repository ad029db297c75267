"""Formats fill like Python's own, whole or in two parts."""

from __future__ import annotations

import pytest

from gazetteer.data.templates import PassageTemplate
from gazetteer.errors import DataError

PASSAGE = {"id": "p", "title": "T", "text": "a {brace} and }"}

FORMATS = [
    "{query} title: {title} context: {text}",
    "title: {title} context: {text} question: {query} end",
    "{{literal}} {query} {{title}} {text}",
    "{query}",
    "{title!r:>5} {query} {text!s:.3}",
    "{query} {title} {query}",
    "{title} {text}",
    "no fields at all",
    "",
]


@pytest.mark.parametrize("format_", FORMATS)
def test_filling_is_what_python_does(format_: str) -> None:
    expected = format_.format(query="{q}", **PASSAGE)
    assert PassageTemplate.parse(format_).fill(PASSAGE, "{q}") == expected


@pytest.mark.parametrize(
    ("format_", "is_separable"),
    [
        ("{query} title: {title} context: {text}", True),
        ("ask {query}\ttitle: {title}", True),
        ("{{q}} {query} {text}", True),
        ("{title} {text}", True),
        ("fixed", True),
        ("{query}", False),
        ("{query}: {text}", False),
        ("{query}{text}", False),
        ("{title} {query} {text}", False),
        ("{query} {text} {query}", False),
    ],
)
def test_separable_is_what_has_one_query_first_and_a_space(
    format_: str, is_separable: bool
) -> None:
    assert PassageTemplate.parse(format_).is_separable is is_separable


@pytest.mark.parametrize("format_", FORMATS)
def test_parts_of_a_separable_format_make_the_whole(format_: str) -> None:
    template = PassageTemplate.parse(format_)
    if not template.is_separable:
        return
    head = template.fill_query("{q}") if template.has_query else ""
    assert head + template.fill_passage(PASSAGE) == template.fill(PASSAGE, "{q}")


def test_unknown_field_is_an_error_naming_passage_field_and_flags() -> None:
    template = PassageTemplate.parse("{query} {titel}")
    for fill in (template.fill, template.fill_passage):
        with pytest.raises(DataError, match=r"passage 'p' has no field 'titel'.*--encoder_format"):
            fill(PASSAGE)
