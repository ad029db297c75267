"""Passages are stored once, in order, and read by row; the store is rebuilt when it must be."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gazetteer.data import corpus as corpus_module
from gazetteer.data import passage_files
from gazetteer.data import passages as passages_module
from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passages import (
    ABOUT_FILE,
    ARROW_FILE,
    PassageStore,
    copy_passages,
    write_passages,
)
from gazetteer.errors import DataError, IndexFileError
from gazetteer.files import MANIFEST, write_manifest
from tests.support.tiny_data import passages, write_jsonl


@pytest.fixture(params=[4, 16_384], ids=["several record batches", "one record batch"])
def _batch_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages_module, "BATCH_ROWS", request.param)
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", 100 * request.param)


def _expected(row: dict[str, str]) -> dict[str, str]:
    section = row.get("section")
    title = f"{row['title']}: {section}" if section else row["title"]
    return {**row, "title": title}


@pytest.mark.usefixtures("_batch_rows")
def test_records_and_ids_are_read_by_row_in_any_order(tmp_path: Path) -> None:
    rows = passages(10)
    store = write_passages(rows, tmp_path / "corpus")
    assert store.count == 10
    for wanted in ([0], [9, 0, 3, 4, 4, 7], list(range(10)), []):
        assert store.records(wanted) == [_expected(rows[row]) for row in wanted]
        assert store.ids(np.array(wanted, dtype=np.int64)) == [f"p{row}" for row in wanted]
    assert list(store.all_ids()) == [f"p{row}" for row in range(10)]


@pytest.mark.usefixtures("_batch_rows")
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batches_cover_a_range_of_rows_once(tmp_path: Path, size: int) -> None:
    store = write_passages(passages(11), tmp_path / "corpus")
    batches = list(store.batches(range(2, 10), size))
    assert [record for batch in batches for record in batch.records()] == store.records(
        range(2, 10)
    )
    assert max(len(batch.ids) for batch in batches) == min(size, 8)


@pytest.mark.parametrize("row", [-1, 3, 10**12])
def test_row_outside_the_corpus_is_refused(tmp_path: Path, row: int) -> None:
    store = write_passages(passages(3), tmp_path / "corpus")
    with pytest.raises(IndexError, match=f"row {row} of 3 passages"):
        store.records([row])


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"title": "Paris", "section": "History"}, "Paris: History"),
        ({"title": "Paris", "section": ""}, "Paris"),
        ({"title": "Paris", "section": None}, "Paris"),
        ({"title": "Paris"}, "Paris"),
        ({"title": "", "section": "History"}, ""),
        ({"section": "History"}, ""),
        ({}, ""),
    ],
)
def test_section_becomes_part_of_the_title(
    tmp_path: Path, given: dict[str, Any], title: str
) -> None:
    store = write_passages([{"id": "p", "text": "t", **given}], tmp_path / "corpus")
    assert store.records([0])[0]["title"] == title


def test_every_other_field_is_kept(tmp_path: Path) -> None:
    row = {
        "id": "p",
        "title": "t",
        "text": "x\u2028y \U0001f600",
        "url": "u",
        "n": [1, {"a": None}],
    }
    store = write_passages([row, {"text": "only text"}], tmp_path / "corpus")
    assert store.records([0, 1]) == [row, {"id": "", "title": "", "text": "only text"}]


def _fingerprint(rows: list[dict[str, str]], folder: Path) -> str:
    return write_passages(rows, folder).fingerprint


def test_fingerprint_covers_content_and_order_alone(tmp_path: Path) -> None:
    rows = passages(6)
    base = _fingerprint(rows, tmp_path / "a")
    assert _fingerprint(rows, tmp_path / "b") == base
    changed = [
        rows[::-1],
        rows[:5],
        [{**rows[0], "text": "other"}, *rows[1:]],
        [{**rows[0], "title": "other"}, *rows[1:]],
        [{**rows[0], "id": "other"}, *rows[1:]],
        [{**rows[0], "url": "other"}, *rows[1:]],
    ]
    others = {_fingerprint(c, tmp_path / f"c{i}") for i, c in enumerate(changed)}
    assert len(others | {base}) == len(changed) + 1


def test_fingerprint_is_independent_of_record_batches_and_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = passages(9)
    whole = cached_passage_store([write_jsonl(tmp_path / "whole.jsonl", rows)], tmp_path / "cache")
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", 200)
    parts = [write_jsonl(tmp_path / "a.jsonl", rows[:4]), write_jsonl(tmp_path / "b", rows[4:])]
    split = cached_passage_store(parts, tmp_path / "cache")
    assert split.folder != whole.folder
    assert split.fingerprint == whole.fingerprint


@pytest.mark.parametrize(("limit", "count"), [(-1, 9), (4, 4), (5, 5), (100, 9)])
def test_max_passages_takes_the_first_of_all_files(tmp_path: Path, limit: int, count: int) -> None:
    rows = passages(9)
    parts = [write_jsonl(tmp_path / "a", rows[:4]), write_jsonl(tmp_path / "b", rows[4:])]
    store = cached_passage_store(parts, tmp_path / "cache", max_passages=limit)
    assert store.ids(range(store.count)) == [f"p{row}" for row in range(count)]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders written while the test runs."""
    written: list[Path] = []
    original = corpus_module.write_chunks

    def counted(chunks: Any, folder: Path) -> PassageStore:
        written.append(folder)
        return original(chunks, folder)

    monkeypatch.setattr(corpus_module, "write_chunks", counted)
    return written


def test_cache_is_reused_while_the_source_is_unchanged(tmp_path: Path, writes: list[Path]) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(5))
    first = cached_passage_store([source], tmp_path / "cache")
    second = cached_passage_store([source], tmp_path / "cache")
    assert len(writes) == 1
    assert second.records(range(5)) == first.records(range(5))
    cached_passage_store([source], tmp_path / "cache", max_passages=2)
    assert len(writes) == 2


def _longer(path: Path) -> None:
    write_jsonl(path, passages(6))


def _same_size(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"p0", b"q0"))
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [_longer, _same_size])
def test_cache_is_rebuilt_when_the_source_changes(
    tmp_path: Path, writes: list[Path], change: Callable[[Path], None]
) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(5))
    before = cached_passage_store([source], tmp_path / "cache")
    change(source)
    after = cached_passage_store([source], tmp_path / "cache")
    assert len(writes) == 2
    assert after.fingerprint != before.fingerprint


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes] | None]] = {
    "passages truncated": (ARROW_FILE, lambda content: content[: len(content) // 2]),
    "passages cut by a byte": (ARROW_FILE, lambda content: content[:-1]),
    "passages empty": (ARROW_FILE, lambda content: b""),
    "passages of zeros": (ARROW_FILE, lambda content: bytes(len(content))),
    "passages missing": (ARROW_FILE, None),
    "description truncated": (ABOUT_FILE, lambda content: content[: len(content) // 2]),
    "description empty": (ABOUT_FILE, lambda content: b""),
    "description of something else": (ABOUT_FILE, lambda content: b"[1]"),
    "description missing": (ABOUT_FILE, None),
    "other fingerprint": (ABOUT_FILE, lambda content: content[:-8] + b"0" * 4 + content[-4:]),
    "hashes truncated": (MANIFEST, lambda content: content[: len(content) // 2]),
    "hashes missing": (MANIFEST, None),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_cache_is_noticed_and_rebuilt(tmp_path: Path, name: str) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(5))
    folder = cached_passage_store([source], tmp_path / "cache").folder
    file, damage = DAMAGES[name]
    content = (folder / file).read_bytes()
    # Replaced, not overwritten: nobody writes into a file that others may have mapped.
    (folder / file).unlink()
    if damage is not None:
        assert damage(content) != content
        (folder / file).write_bytes(damage(content))

    with pytest.raises(IndexFileError, match=str(folder)):
        PassageStore(folder)
    assert cached_passage_store([source], tmp_path / "cache").ids(range(5)) == [
        "p0", "p1", "p2", "p3", "p4",
    ]  # fmt: skip
    assert (folder / file).read_bytes() == content
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", [ARROW_FILE, ABOUT_FILE, MANIFEST])
def test_one_lost_bit_anywhere_is_noticed(tmp_path: Path, name: str) -> None:
    """What maps the file would crash on some of them, or read other text."""
    store = write_passages(passages(3), tmp_path / "corpus")
    path = store.folder / name
    content = path.read_bytes()
    for position in random.choices(range(len(content)), k=150):
        changed = bytearray(content)
        changed[position] ^= 1 << random.randrange(8)
        path.unlink()
        path.write_bytes(changed)
        with pytest.raises(IndexFileError, match=f"^{store.folder}: damaged passages .+"):
            PassageStore(store.folder)


@pytest.mark.parametrize(("key", "value"), [("version", 1), ("count", 4)])
def test_store_of_another_format_is_refused(tmp_path: Path, key: str, value: int) -> None:
    folder = write_passages(passages(3), tmp_path / "corpus").folder
    about = json.loads((folder / ABOUT_FILE).read_text())
    (folder / ABOUT_FILE).write_text(json.dumps({**about, key: value}))
    write_manifest(folder)
    with pytest.raises(IndexFileError, match=f"^{folder}: unknown passages"):
        PassageStore(folder)


def test_store_of_another_process_is_kept(tmp_path: Path) -> None:
    rows = passages(5)
    first = write_passages(rows, tmp_path / "corpus")
    inode = (first.folder / ARROW_FILE).stat().st_ino
    assert write_passages(rows, tmp_path / "corpus").records([0]) == first.records([0])
    assert (first.folder / ARROW_FILE).stat().st_ino == inode


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
def test_bad_line_leaves_nothing_behind(tmp_path: Path, position: int) -> None:
    lines = [json.dumps(row) for row in passages(3)]
    lines[position] = '{"id": "p", "title": "no text"}'
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join(lines))
    expected = rf"p\.jsonl:{position + 1}: field 'text': found nothing.*\(--passages\)$"
    with pytest.raises(DataError, match=expected):
        cached_passage_store([source], tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name != "passages"]


@pytest.mark.parametrize("passage_id", ["null", "12", "[]"])
def test_passages_need_an_id(tmp_path: Path, passage_id: str) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text(f'{{"id": {passage_id}, "text": "x"}}\n')
    with pytest.raises(DataError, match=r"p\.jsonl:1: field 'id': found .*, expected a string"):
        cached_passage_store([source], tmp_path / "cache")


def test_bad_lines_are_left_out_and_counted_when_skipping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps(row) for row in passages(4)]
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join([lines[0], "[1]", *lines[1:], "oops"]))
    store = cached_passage_store([source], tmp_path / "cache", on_bad_line="skip")
    assert store.ids(range(store.count)) == ["p0", "p1", "p2", "p3"]
    assert [r.getMessage() for r in caplog.records] == [
        f"bad lines skipped: 2, the first: {source}:2: found a list, expected a JSON object "
        "(--passages)"
    ]


@pytest.mark.parametrize("content", ["", "\n\n", "oops\n"])
def test_no_passages_at_all_is_an_error(tmp_path: Path, content: str) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text(content)
    with pytest.raises(DataError, match=r"p\.jsonl: found no passages \(--passages\)"):
        cached_passage_store([source], tmp_path / "cache", on_bad_line="skip")
    assert not list((tmp_path / "cache" / "passages").iterdir())


def test_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: No such file or directory \(--passages\)"):
        cached_passage_store([tmp_path / "gone"], tmp_path / "cache")


@pytest.mark.usefixtures("_batch_rows")
def test_repeated_ids_are_tolerated_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = passages(10)
    for row, passage_id in ((3, "p9"), (7, "p0"), (8, "p0")):
        rows[row]["id"] = passage_id
    store = cached_passage_store([write_jsonl(tmp_path / "p", rows)], tmp_path / "cache")
    assert store.count == 10
    assert [r.getMessage() for r in caplog.records] == [
        f"3 of 10 passages have the id of an earlier one, the first: 'p0' at {tmp_path}/p:8 "
        "(--passages)"
    ]


def test_ids_that_differ_raise_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached_passage_store([write_jsonl(tmp_path / "p", passages(50))], tmp_path / "cache")
    assert not caplog.records


def test_the_same_passages_are_not_copied_again(tmp_path: Path) -> None:
    store = write_passages(passages(3), tmp_path / "corpus")
    copy_passages(store, tmp_path / "copy")
    before = [
        (p.stat().st_ino, p.stat().st_ctime_ns) for p in sorted((tmp_path / "copy").iterdir())
    ]
    copy_passages(store, tmp_path / "copy")
    assert before == [
        (p.stat().st_ino, p.stat().st_ctime_ns) for p in sorted((tmp_path / "copy").iterdir())
    ]
    other = write_passages(passages(5), tmp_path / "other")
    (tmp_path / ".copy.left").mkdir()
    copy_passages(other, tmp_path / "copy")
    assert PassageStore(tmp_path / "copy").fingerprint == other.fingerprint
    assert not list(tmp_path.glob(".copy*"))


@pytest.mark.parametrize("can_link", [True, False])
def test_passages_are_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    if not can_link:
        monkeypatch.setattr(os, "link", _refuse)
    store = write_passages(passages(5), tmp_path / "corpus")
    copy_passages(store, tmp_path / "copy")
    copy_passages(store, tmp_path / "corpus")
    for folder in (tmp_path / "copy", tmp_path / "corpus"):
        copied = PassageStore(folder)
        assert copied.fingerprint == store.fingerprint
        assert copied.records(range(5)) == store.records(range(5))


def _refuse(source: Path, target: Path) -> None:
    raise OSError("no links here")
