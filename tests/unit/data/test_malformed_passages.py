"""Every kind of malformed line of passages: one error that says where, or a line left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gazetteer.data.corpus import cached_passage_store
from gazetteer.errors import DataError
from tests.support.malformed_lines import KINDS, malformed

GOOD = {"id": "p1", "title": "oslo", "section": "north", "text": "a city"}
CASES = {kind: malformed(GOOD, "text")[kind] for kind in KINDS} | {
    f"{kind}, of {field}": malformed(GOOD, field)[kind]
    for field in ("id", "title", "section")
    for kind in ("number as text", "boolean as text", "list as text", "object as text")
}
CASES["id missing"] = malformed(GOOD, "id")["field missing"]
CASES["id is null"] = malformed(GOOD, "id")["null as text"]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["passages.jsonl", "passages.jsonl.gz"])
def test_malformed_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, processes: int
) -> None:
    """All in one test, since other processes take longer to start than a file to read."""
    path, good = tmp_path / name, json.dumps(GOOD).encode()
    kinds = list(CASES)[:: 1 if processes == 1 else 20]
    for kind in kinds:
        bad, expected = CASES[kind]
        content = b"\n".join([good, bad, good])
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        cache = tmp_path / kind
        with pytest.raises(DataError) as caught:
            cached_passage_store([path], cache, processes=processes)
        message = str(caught.value)
        assert message.startswith(f"{path}:2: ") and message.endswith(" (--passages)"), kind
        assert expected in message, kind
        assert len(message.splitlines()) == 1 and message.isprintable()
        assert not [left for left in cache.rglob("*") if left.is_file()]
        caplog.clear()
        store = cached_passage_store([path], cache, on_bad_line="skip", processes=processes)
        assert store.ids(range(store.count)) == ["p1", "p1"], kind
        assert caplog.messages[0] == f"bad lines skipped: 1, the first: {message}"


@pytest.mark.parametrize("on_bad_line", ["error", "skip"])
def test_nothing_but_bad_lines_is_an_error(tmp_path: Path, on_bad_line: str) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text('{"id": 1}\n')
    expected = "field 'id': found" if on_bad_line == "error" else "found no passages"
    with pytest.raises(DataError, match=expected):
        cached_passage_store([path], tmp_path / "cache", on_bad_line=on_bad_line)  # type: ignore[arg-type]
    assert not [left for left in (tmp_path / "cache").rglob("*") if left.is_file()]
