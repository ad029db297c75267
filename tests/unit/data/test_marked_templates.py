"""OpenMatch's templates: fields in angle brackets, and nothing where there is nothing."""

from __future__ import annotations

import logging

import pytest

from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.templates import PassageTemplate

PASSAGE = {"id": "1", "title": "A {b} <text>", "text": "c", "meta": {"year": 1999, "none": None}}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Title: <title> Text: <text>", "Title: A {b} <text> Text: c"),
        ("<meta.year>/<text>", "1999/c"),
        ("{<text>} a < b > c <>", "{c} a < b > c <>"),
        ("", ""),
    ],
)
def test_fields_are_filled_in_and_all_else_stays(template: str, expected: str) -> None:
    marked = MarkedTemplate.parse_marked(template)
    assert marked.fill(PASSAGE) == marked.fill_passage(PASSAGE) == expected
    # The same template in the notation of --retriever_format.
    assert PassageTemplate.parse(marked.format).fill(PASSAGE) == expected


def test_missing_fields_are_empty_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    marked = MarkedTemplate.parse_marked("<text>|<gone>|<text.a>|<meta.none>")
    with caplog.at_level(logging.WARNING):
        assert [marked.fill(PASSAGE) for _ in range(3)] == ["c|||"] * 3
    fields = ("'gone'", "'text.a'", "'meta.none'")
    assert [any(f in m for m in caplog.messages) for f in fields] == [True] * 3
    assert len(caplog.messages) == 3


def test_only_the_markers_that_are_named() -> None:
    marked = MarkedTemplate.parse_marked("<title> <text>", {"text"})
    assert marked.fill(PASSAGE) == "<title> c"
    assert (marked.names("text"), marked.names("title")) == (True, False)


def test_without_a_template_title_and_text_are_set_apart() -> None:
    assert MarkedTemplate.titled("[SEP]").fill(PASSAGE) == "A {b} <text>[SEP]c"
    assert MarkedTemplate.titled("</s>").fill(PASSAGE) == "A {b} <text></s>c"
    assert MarkedTemplate.titled(None).fill(PASSAGE) == "A {b} <text> c"
