"""Several processes build what one builds, say what one says, and are gone afterwards."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gazetteer.data import corpus as corpus_module
from gazetteer.data import passage_files, passage_workers
from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passage_files import read_blocks
from gazetteer.data.passage_workers import parse_in_processes, serve, usable_processes
from gazetteer.errors import DataError, GazetteerError
from tests.support.tiny_data import passages, write_jsonl

SOURCES = Path(passage_workers.__file__).parents[2]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(passage_files, "BLOCK_ROWS", 16)


@pytest.fixture
def no_process_left() -> Iterator[None]:
    before = _children(os.getpid())
    yield
    assert _children(os.getpid()) == before


def _children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _sources(folder: Path) -> list[Path]:
    rows = passages(300)
    write_jsonl(folder / "a.jsonl", [*rows[:100], {**rows[0], "url": "\u2028", "n": [1]}])
    lines = ["id\ttext\ttitle", *(f"{r['id']}\t{r['text']}\t{r['title']}" for r in rows[100:200])]
    (folder / "b.tsv").write_text("\n".join(lines))
    pq.write_table(pa.Table.from_pylist(rows[200:]), folder / "c.parquet")
    return [folder / name for name in ("a.jsonl", "b.tsv", "c.parquet")]


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.parametrize("limit", [-1, 0, 1, 150, 301])
def test_files_are_the_same_to_the_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    sources = _sources(tmp_path)
    built = []
    for processes in (1, 3):
        cache = tmp_path / f"cache{processes}"
        if limit == 0:
            with pytest.raises(DataError, match="found no passages"):
                cached_passage_store(sources, cache, max_passages=0, processes=processes)
            continue
        store = cached_passage_store(sources, cache, max_passages=limit, processes=processes)
        built.append(_content(store.folder))
        assert store.count == (301 if limit < 0 else limit)
    assert built[1:] == built[:-1]
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings[1::2] == warnings[::2]
    if limit < 0 or limit > 100:
        assert warnings[0].endswith(f"the first: 'p0' at {tmp_path}/a.jsonl:101 (--passages)")


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.parametrize("line", [1, 2, 57, 200])
def test_the_first_bad_line_is_told_by_its_number(tmp_path: Path, line: int) -> None:
    lines = [json.dumps(row) for row in passages(200)]
    lines[line - 1] = lines[199] = '{"id": "p"}'
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join(lines))
    messages = []
    for processes in (1, 2):
        with pytest.raises(DataError, match=rf"p\.jsonl:{line}: field 'text'") as caught:
            cached_passage_store([source], tmp_path / "cache", processes=processes)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert not list((tmp_path / "cache" / "passages").iterdir())


@pytest.mark.usefixtures("no_process_left")
def test_bad_lines_are_counted_as_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps(row) for row in passages(200)]
    lines[20:180:10] = ["", "[1]"] * 8
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join(lines))
    stores = [
        cached_passage_store(
            [source], tmp_path / f"{n}", on_bad_line="skip", max_passages=150, processes=n
        )
        for n in (1, 2)
    ]
    assert stores[0].fingerprint == stores[1].fingerprint
    first, second = (record.getMessage() for record in caplog.records)
    assert first == second
    assert first.startswith(f"bad lines skipped: 7, the first: {source}:31: found a list")


@pytest.mark.usefixtures("no_process_left")
def test_a_process_that_dies_ends_the_reading(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(2000))
    # Children of other tests, as multiprocessing's resource tracker, stay alive.
    others = _children(os.getpid())
    with (
        pytest.raises(GazetteerError, match=r"ended with exit code -9 \(--passages\)"),
        parse_in_processes(read_blocks(source), "error", 2) as parsed,
    ):
        next(parsed)
        for child in _children(os.getpid()) - others:
            os.kill(child, signal.SIGKILL)
        list(parsed)


@pytest.mark.usefixtures("no_process_left")
def test_reading_may_be_left_in_the_middle(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(2000))
    with (
        pytest.raises(KeyboardInterrupt),
        parse_in_processes(read_blocks(source), "error", 2) as parsed,
    ):
        next(parsed)
        assert len(_children(os.getpid())) >= 2
        raise KeyboardInterrupt


ENDLESS = """
import sys
from pathlib import Path
from gazetteer.data.corpus import cached_passage_store
print("started", flush=True)
cached_passage_store([Path(sys.argv[1])] * 10**4, Path(sys.argv[2]), processes=2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_program(tmp_path: Path, number: signal.Signals) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(2000))
    program = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(source), str(tmp_path / "cache")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        # Where the tests run in the background of a shell, interrupts are ignored, by heirs too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline() == "started\n"
    deadline = time.monotonic() + 60
    while not (children := _children(program.pid)) or not list(tmp_path.rglob("*.arrow")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program.send_signal(number)
    _, errors = program.communicate(timeout=60)
    assert program.returncode in (-number, 1)
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The interrupt is told by the program alone, and once.
    assert errors.count("Traceback") == (number == signal.SIGINT)
    if number == signal.SIGINT:
        assert not list(tmp_path.rglob("*.arrow"))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_start_without_torch_and_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('not this one')")
    code = "import sys, gazetteer.data.passage_workers; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)}, check=True,
    )  # fmt: skip
    assert found.stdout == "False\n"


def test_large_sources_alone_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", passages(30))
    counts: list[int] = []
    original = parse_in_processes

    def counted(blocks: object, on_bad_line: object, count: int) -> object:
        counts.append(count)
        return original(blocks, on_bad_line, count)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus_module, "parse_in_processes", counted)
    monkeypatch.setattr(corpus_module, "usable_processes", lambda: 2)
    cached_passage_store([source], tmp_path / "small")
    monkeypatch.setattr(corpus_module, "PARALLEL_BYTES", 100)
    cached_passage_store([source], tmp_path / "few", max_passages=20)
    assert counts == []
    cached_passage_store([source], tmp_path / "large")
    assert counts == [2]


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    assert usable_processes() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(500)))
    assert usable_processes() == passage_workers.MAX_PROCESSES


def test_serving_ends_with_its_input() -> None:
    answers = io.BytesIO()
    serve(io.BytesIO(b""), answers)
    assert answers.getvalue() == b""
