"""Result records: Atlas's fields, one JSON object per line, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from gazetteer.distributed.collectives import gather_bytes
from gazetteer.records import Example, PassageRecord, Ranks


def result_record(
    example: Example,
    passages: Sequence[PassageRecord] | None,
    generation: str | None,
) -> dict[str, Any]:
    """One line of a results file.

    Args:
        example: what was asked.
        passages: what was found; None with `--dont_write_passages`.
        generation: the reader's answer; None with `--retrieve_only`.
    """
    record: dict[str, Any] = {"query": example.query, "answers": list(example.answers)}
    if generation is not None:
        record["generation"] = generation
    if passages is not None:
        record["passages"] = list(passages)
    if example.metadata is not None:
        record["metadata"] = example.metadata
    if example.line_id is not None:
        record["id"] = example.line_id
    return record


class ResultsFile:
    """Gathers each batch's records on rank 0 and writes them in input order.

    Written under another name and renamed at the end, so that a results file is always complete.

    Args:
        path: final name; its folder is created.
        ranks: this process among its peers.
    """

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._is_main = ranks.is_main
        self._file: TextIO | None = None

    def __enter__(self) -> ResultsFile:
        if self._is_main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            if error is None:
                self._partial.replace(self.path)

    def write(self, examples: Sequence[Example], records: Sequence[dict[str, Any]]) -> None:
        """Add one batch.

        Collective: every rank must call this, also without examples.
        """
        numbered = [
            [e.example_id, json.dumps(record, ensure_ascii=False)]
            for e, record in zip(examples, records, strict=True)
        ]
        gathered = gather_bytes(json.dumps(numbered).encode())
        if gathered is not None:
            assert self._file is not None
            lines = sorted(line for part in gathered for line in json.loads(part))
            self._file.write("".join(f"{text}\n" for _, text in lines))
