"""Processes that share the work of parsing a corpus.

Each is a Python of its own that runs this file and is asked over its standard input: it starts in a
fraction of a second, since it imports neither torch nor the program that started it, and it leaves
when its input ends, whatever became of that program. Nothing is pickled: a message is a line of
JSON, then bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from gazetteer.data.jsonl import OnBadLine
from gazetteer.data.passage_rows import Block, Chunk, parse_block
from gazetteer.errors import GazetteerError

if TYPE_CHECKING:
    from gazetteer.data.passage_files import SourceBlock

MAX_PROCESSES = 16
"""More would wait for the one that hashes and writes."""
BLOCKS_PER_PROCESS = 2
"""One in work and one waiting: memory does not grow with the corpus."""
SOURCES = Path(__file__).resolve().parents[2]


def usable_processes() -> int:
    """One for each core that this process may use."""
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)))


def parse_here(
    blocks: Iterable[SourceBlock], on_bad_line: OnBadLine
) -> Iterator[tuple[SourceBlock, Chunk]]:
    """Parse block after block in this process."""
    for source in blocks:
        yield source, parse_block(source.block, on_bad_line)


@contextmanager
def parse_in_processes(
    blocks: Iterable[SourceBlock], on_bad_line: OnBadLine, count: int
) -> Iterator[Iterator[tuple[SourceBlock, Chunk]]]:
    """Parse blocks side by side; what becomes of them comes in their order.

    However the context is left, by an error or by Ctrl-C, the processes have ended.

    Args:
        blocks: read in this process, and only as fast as they are parsed.
        on_bad_line: as for `parse_block`.
        count: processes.

    Raises:
        GazetteerError: a process ended in the middle, as for lack of memory.
    """
    processes = [_start() for _ in range(count)]
    threads = ThreadPoolExecutor(count)
    try:
        yield _in_order(blocks, on_bad_line, processes, threads)
    finally:
        for process in processes:
            process.kill()
        threads.shutdown(cancel_futures=True)
        for process in processes:
            _close(process)


def _start() -> subprocess.Popen[bytes]:
    paths = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: the working directory is no place to import from.
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        # Ctrl-C is for the program, which then ends these.
        process_group=0,
    )


def _close(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        # What was left to write has no reader any more.
        with suppress(BrokenPipeError):
            pipe.close()


def _in_order(
    blocks: Iterable[SourceBlock],
    on_bad_line: OnBadLine,
    processes: list[subprocess.Popen[bytes]],
    threads: ThreadPoolExecutor,
) -> Iterator[tuple[SourceBlock, Chunk]]:
    free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for process in processes:
        free.put(process)

    def parse(block: Block) -> Chunk:
        process = free.get()
        try:
            return _ask(process, block, on_bad_line)
        finally:
            free.put(process)

    waiting: deque[tuple[SourceBlock, Future[Chunk]]] = deque()
    for source in blocks:
        waiting.append((source, threads.submit(parse, source.block)))
        if len(waiting) == BLOCKS_PER_PROCESS * len(processes):
            oldest, parsed = waiting.popleft()
            yield oldest, parsed.result()
    while waiting:
        oldest, parsed = waiting.popleft()
        yield oldest, parsed.result()


def _ask(process: subprocess.Popen[bytes], block: Block, on_bad_line: OnBadLine) -> Chunk:
    """One block to a process, and what became of it back. Runs in a thread."""
    assert process.stdin is not None and process.stdout is not None
    head = asdict(replace(block, content=b"")) | {
        "content": len(block.content),
        "on_bad_line": on_bad_line,
    }
    try:
        _send(process.stdin, head, block.content)
        answer = _receive(process.stdout)
        hashed, stream = (process.stdout.read(answer[key]) for key in ("hashed", "batch"))
        batch = pa.ipc.open_stream(stream).read_next_batch()
    except (OSError, EOFError, pa.ArrowException):
        raise GazetteerError(
            f"a process that reads passages ended with exit code {process.wait()} (--passages)"
        ) from None
    return Chunk(batch, hashed, answer["lines"], tuple((n, text) for n, text in answer["bad"]))


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Parse blocks until there are no more, or nobody listens."""
    # Either end may close without a word: the program was killed.
    with suppress(EOFError, BrokenPipeError):
        while True:
            head = _receive(requests)
            on_bad_line, size = head.pop("on_bad_line"), head.pop("content")
            head |= {name: tuple(head[name]) for name in ("columns", "id_names")}
            chunk = parse_block(Block(**head, content=requests.read(size)), on_bad_line)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, chunk.batch.schema) as writer:
                writer.write_batch(chunk.batch)
            stream = sink.getvalue()
            facts = {"lines": chunk.lines, "bad": chunk.bad}
            facts |= {"hashed": len(chunk.hashed), "batch": stream.size}
            _send(answers, facts, chunk.hashed, stream)


def _send(stream: IO[bytes], head: dict[str, Any], *contents: Any) -> None:  # noqa: ANN401
    stream.write(json.dumps(head).encode() + b"\n")
    for content in contents:
        stream.write(content)
    stream.flush()


def _receive(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise EOFError
    return json.loads(line)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
