"""Result records: Atlas's fields, one JSON object per line, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from gazetteer.distributed.collectives import gather_bytes
from gazetteer.records import Example, PassageRecord, Ranks


@dataclass(frozen=True, slots=True)
class Answer:
    """What the reader made of an example.

    Attributes:
        text: generated.
        fields: further fields of the record.
    """

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordMerger:
    """How the records of several examples become the one of the line they were made from.

    Attributes:
        size: examples per line.
        merge: their records, in order, into one.
    """

    size: int
    merge: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


def result_record(
    example: Example,
    passages: Sequence[PassageRecord] | None,
    answer: Answer | None,
) -> dict[str, Any]:
    """One line of a results file.

    Args:
        example: what was asked.
        passages: what was found; None with `--dont_write_passages`.
        answer: the reader's; None with `--retrieve_only`.
    """
    record: dict[str, Any] = {"query": example.query, "answers": list(example.answers)}
    if answer is not None:
        record["generation"] = answer.text
    if passages is not None:
        record["passages"] = list(passages)
    if example.metadata is not None:
        record["metadata"] = example.metadata
    if example.line_id is not None:
        record["id"] = example.line_id
    return record | (dict(answer.fields) if answer is not None else {})


class ResultsFile:
    """Gathers each batch's records on rank 0 and writes them in input order.

    Written under another name and renamed at the end, so that a results file is always complete.

    Args:
        path: final name; its folder is created.
        ranks: this process among its peers.
        merger: makes one record of several; None to write each as it is.
    """

    def __init__(self, path: Path, ranks: Ranks, merger: RecordMerger | None = None) -> None:
        self.path = path
        self._merger = merger
        self._waiting: list[dict[str, Any]] = []
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
            texts = [text for _, text in lines]
            if self._merger is not None:
                texts = self._merged(self._merger, texts)
            self._file.write("".join(f"{text}\n" for text in texts))

    def _merged(self, merger: RecordMerger, texts: Sequence[str]) -> list[str]:
        """The records that are complete now; the rest waits for the next batch."""
        self._waiting += map(json.loads, texts)
        whole = len(self._waiting) // merger.size * merger.size
        groups = [self._waiting[i : i + merger.size] for i in range(0, whole, merger.size)]
        del self._waiting[:whole]
        return [json.dumps(merger.merge(group), ensure_ascii=False) for group in groups]
