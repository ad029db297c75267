"""Accuracy of retrieval for open questions: is an answer in one of the first k passages?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gazetteer.data.jsonl import describe
from gazetteer.errors import DataError
from gazetteer.ir.records import Document, Run
from gazetteer.ir.runs import ranked
from gazetteer.metrics.ranking import has_answer

CUTOFFS = (1, 5, 20, 100)


def answer_positions(
    run: Run,
    answers: Mapping[str, Sequence[str]],
    documents: Iterable[Document],
    *,
    depth: int = CUTOFFS[-1],
    collection: Path,
    flag: str,
) -> dict[str, int | None]:
    """Where the first passage with an answer is, 1 being the best, for every question.

    The collection is read once; of its texts only those are kept that the run names.

    Args:
        run: what was found; a question that it lacks has no passage with an answer.
        answers: of each question.
        documents: of the collection; their texts are searched, not their titles.
        depth: passages looked at.
        collection: named in errors.
        flag: likewise.

    Raises:
        DataError: the run names a document that the collection does not have.
    """
    wanted: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for query_id in answers:
        hits = ranked(run.get(query_id, {}))[:depth]
        for position, (document_id, _) in enumerate(hits, 1):
            wanted[document_id].append((query_id, position))
    best: dict[str, int | None] = dict.fromkeys(answers)
    for document in documents:
        for query_id, position in wanted.pop(document.id, ()):
            before = best[query_id]
            is_better = before is None or position < before
            if is_better and has_answer(document.text, answers[query_id]):
                best[query_id] = position
    if wanted:
        missing = next(iter(wanted))
        raise DataError(
            f"{collection}: found no document {describe(missing)}, which the run names for query "
            f"{describe(wanted[missing][0][0])} ({flag})"
        )
    return best


def accuracies(positions: Mapping[str, int | None]) -> dict[str, float]:
    """Share of the questions, 0..1, with an answer among the first k passages, by "accuracy@k"."""
    found = list(positions.values())
    return {
        f"accuracy@{k}": sum(each is not None and each <= k for each in found) / len(found)
        for k in CUTOFFS
    }
