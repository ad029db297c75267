"""A good line of jsonl, spoilt in every way that a file was ever found to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DEEPER_THAN_PYTHON = 100_000


def malformed(good: Mapping[str, Any], field: str) -> dict[str, tuple[bytes, str]]:
    """Each kind of bad line: its bytes, and what an error has to say of it.

    Args:
        good: a line that a reader takes.
        field: one of its fields, of text, that the reader cannot do without.
    """
    line = json.dumps(good).encode()
    rest = line[1:-1]
    text = f"'{field}': found"

    def value(written: bytes) -> bytes:
        return b'{%s, "%s": %s}' % (json.dumps(without).encode()[1:-1], field.encode(), written)

    def more(written: bytes) -> bytes:
        return b'{%s, "extra": %s}' % (rest, written)

    without = {name: each for name, each in good.items() if name != field} or {"other": 1}
    return {
        "cut short": (line[:-4], "not valid JSON"),
        "trailing comma": (b"{%s,}" % rest, "not valid JSON"),
        "single quotes": (line.replace(b'"', b"'"), "not valid JSON"),
        "unquoted key": (line.replace(b'"%s"' % field.encode(), field.encode()), "not valid JSON"),
        "two objects": (line + b" " + line, "not valid JSON: Extra data"),
        "text after the object": (line + b" and so on", "not valid JSON: Extra data"),
        "control character": (value(b'"a\x01b"'), "not valid JSON"),
        "a list": (b'["q"]', "found a list, expected a JSON object"),
        "a string": (b'"q"', 'found the string "q", expected a JSON object'),
        "a number": (b"17", "found the number 17, expected a JSON object"),
        "null": (b"null", "found null, expected a JSON object"),
        "a boolean": (b"true", "found the boolean true, expected a JSON object"),
        "key twice": (b'{%s, "%s": "x"}' % (rest, field.encode()), f"{text} it twice"),
        "key twice inside": (more(b'[{"k": 1, "k": 2}]'), "'k': found it twice"),
        "NaN": (more(b"NaN"), "found NaN, expected only finite numbers"),
        "Infinity": (more(b"Infinity"), "found Infinity, expected only finite"),
        "-Infinity": (more(b"[-Infinity]"), "found -Infinity, expected only finite"),
        "too large a number": (more(b"1e999"), "found 1e999, expected only finite"),
        "5,000 digits": (more(b"7" * 5000), "found an integer of thousands of digits"),
        "nested too deeply": (more(b"[" * DEEPER_THAN_PYTHON), "nested too deeply"),
        "half a surrogate pair": (value(rb'"\ud800"'), f"{text} half a surrogate pair"),
        "escaped NUL": (value(rb'"a\u0000b"'), f"{text} a NUL character"),
        "NUL byte": (value(b'"a\0b"'), "found a NUL byte"),
        "Latin-1": (value(b'"caf\xe9"'), "found byte 0xe9"),
        "half a character": (value(b'"\xe2\x82"'), "found byte 0xe2"),
        "surrogate in UTF-8": (value(b'"\xed\xa0\x80"'), "found byte 0xed"),
        "field missing": (json.dumps(without).encode(), f"{text} nothing, expected a string"),
        "null as text": (value(b"null"), f"{text} null, expected a string"),
        "number as text": (value(b"12"), f"{text} the number 12, expected a string"),
        "boolean as text": (value(b"true"), f"{text} the boolean true, expected a string"),
        "list as text": (value(b'["q"]'), f"{text} a list, expected a string"),
        "object as text": (value(b'{"a": "q"}'), f"{text} an object, expected a string"),
    }


KINDS = tuple(malformed({"text": "q"}, "text"))
"""What the kinds are called; two of them are bad for any field that is no text."""

TASK_LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("query", {"query": "q", "target": "t"}),
    "mlm": ("text", {"text": "the city of oslo", "id": "p1"}),
    "lm": ("text", {"text": "the city of oslo", "id": "p1"}),
    "section": ("text", {"text": "a city", "id": "p1", "title": "oslo", "section": "north"}),
    "qa": ("question", {"question": "who", "answers": ["x"]}),
    "fever": ("claim", {"claim": "oslo is old", "label": "REFUTES", "id": 7}),
    "kilt": ("input", {"input": "who", "output": [{"answer": "x"}], "id": "k1"}),
    "multiple_choice": (
        "question",
        {"question": "who", "options": dict.fromkeys("ABCD", "x"), "answer": "B"},
    ),
}
"""A line of each task, and the field that `malformed` may spoil in it."""
