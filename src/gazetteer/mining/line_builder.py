"""From queries and where their candidates are, to lines of a training file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError, OptionError
from gazetteer.ir.passage_lookup import PassageLookup
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.training_files import own_record
from gazetteer.mining.candidate_files import FLAGS, CandidateKind, read_candidates
from gazetteer.mining.choosing import choose, listed_once, shuffled, unjudged
from gazetteer.mining.filters import Asked, Filters
from gazetteer.mining.grouped_lines import Stretch
from gazetteer.records import PassageRecord

QUERY_TOKENS = 32
"""Fixed in OpenMatch's programs of this name."""
WRITTEN, NO_NEGATIVES = "lines written", "queries without a negative left"
NEGATIVES, RANKS = "negatives written", "sum of their ranks"
POSITIVES = "positives written"
Form = Literal["openmatch", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """What every process needs to know; plain values.

    Attributes:
        corpus_folder: of a `PassageStore`.
        qrels: the file of judgements, for messages.
        candidates: the file of candidates.
        kind: of that file.
        depth: so many best candidates count; None for all.
        n_sample: negatives per line.
        seed: of the draw.
        form: "openmatch" writes token ids, "reference" ids of passages.
        tokenizer: name or folder.
        doc_template, query_template: see `MarkedTemplate`; None for those of OpenMatch.
        truncate: tokens of a document.
    """

    corpus_folder: Path
    qrels: Path
    candidates: Path
    kind: CandidateKind
    depth: int | None
    n_sample: int
    seed: int
    form: Form
    tokenizer: str
    doc_template: str | None
    query_template: str | None
    truncate: int


@dataclass(frozen=True, slots=True)
class Work:
    """One query: what is known of it, and where its candidates are."""

    asked: Asked
    stretches: tuple[Stretch, ...]


class LineBuilder:
    """Builds lines, in this process.

    Args:
        settings: the same everywhere.
        filters: beside that of judged passages.

    Raises:
        OptionError: the tokenizer cannot be loaded.
        DataError: two passages have the same id.
    """

    def __init__(self, settings: LineSettings, filters: Filters) -> None:
        self._settings = settings
        self._filters = filters
        self._corpus = PassageStore(settings.corpus_folder)
        self._lookup = PassageLookup(self._corpus, "--collection")
        self._tokenizer = load_tokenizer(settings.tokenizer)
        self._template = (
            MarkedTemplate.titled(separator_of(self._tokenizer))
            if settings.doc_template is None
            else MarkedTemplate.parse_marked(settings.doc_template)
        )
        self._query_template = MarkedTemplate.parse_marked(settings.query_template or "<text>")

    def build(self, works: Sequence[Work]) -> tuple[list[str], Counter[str]]:
        """Lines of jsonl for some queries, in order, and what there is to count.

        The same whatever queries they are together with.

        Raises:
            DataError: a bad line, or a document that is not in the collection.
        """
        records: dict[str, PassageRecord] = {}
        read, counts = self._read(works, records)
        settings = self._settings

        def with_texts(candidates: Sequence[Candidate]) -> list[Candidate]:
            where = f"{settings.candidates} ({FLAGS[settings.kind]})"
            return self._with_texts(candidates, records, where)

        chosen, dropped = choose(read, settings.n_sample, self._filters, with_texts)
        counts += dropped
        lines = []
        for (asked, _), negatives in zip(read, chosen, strict=True):
            counts[WRITTEN if negatives else NO_NEGATIVES] += 1
            if negatives:
                lines.append((asked, negatives))
                counts[POSITIVES] += len(asked.positives)
                counts[NEGATIVES] += len(negatives)
                counts[RANKS] += sum(negative.rank or 0 for negative in negatives)
        if not self._filters.reads_texts:
            with_texts([negative for _, negatives in lines for negative in negatives])
        return self._written(lines, records), counts

    def _read(
        self, works: Sequence[Work], records: dict[str, PassageRecord]
    ) -> tuple[list[tuple[Asked, list[Candidate]]], Counter[str]]:
        """Candidates of each query in the order in which they are tried; positives with texts."""
        settings, counts = self._settings, Counter[str]()
        asked_of: list[Asked] = []
        candidates_of: list[list[Candidate]] = []
        for work in works:
            found = read_candidates(settings.candidates, work.stretches, settings.kind)
            found = listed_once(found)
            asked = _with_scores(work.asked, found)
            left, dropped = unjudged(found, asked)
            counts += dropped
            asked_of.append(asked)
            order = shuffled(left[: settings.depth], asked.query_id, settings.seed)
            candidates_of.append(order)
        positives = [positive for asked in asked_of for positive in asked.positives]
        where = f"{settings.qrels} (--qrels)"
        filled = iter(self._with_texts(positives, records, where))
        asked_of = [
            replace(asked, positives=tuple(next(filled) for _ in asked.positives))
            for asked in asked_of
        ]
        return list(zip(asked_of, candidates_of, strict=True)), counts

    def _with_texts(
        self, candidates: Sequence[Candidate], records: dict[str, PassageRecord], where: str
    ) -> list[Candidate]:
        missing = sorted({c.id for c in candidates if c.id not in records})
        try:
            found = self._corpus.records(self._lookup.rows(missing))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        records.update(zip(missing, found, strict=True))
        return [
            replace(c, title=records[c.id]["title"], text=records[c.id]["text"]) for c in candidates
        ]

    def _written(
        self,
        lines: Sequence[tuple[Asked, list[Candidate]]],
        records: dict[str, PassageRecord],
    ) -> list[str]:
        is_tokens = self._settings.form == "openmatch"
        wanted = {c.id for asked, negatives in lines for c in (*asked.positives, *negatives)}
        passages = self._passage_tokens(sorted(wanted), records) if is_tokens else {}
        queries = self._query_tokens([asked for asked, _ in lines]) if is_tokens else []

        def stored(candidate: Candidate) -> Candidate:
            tokens = passages.get(candidate.id)
            return replace(candidate, title="", text=None, tokens=tokens)

        made = [
            TrainingLine(
                asked.query_id,
                asked.text,
                queries[place] if is_tokens else None,
                tuple(map(stored, asked.positives)),
                tuple(map(stored, negatives)),
            )
            for place, (asked, negatives) in enumerate(lines)
        ]
        return [json.dumps(own_record(one), ensure_ascii=False) + "\n" for one in made]

    def _passage_tokens(
        self, ids: Sequence[str], records: dict[str, PassageRecord]
    ) -> dict[str, tuple[int, ...]]:
        texts = [self._template.fill(records[one]) for one in ids]
        tokens = token_ids(self._tokenizer, texts, self._settings.truncate)
        return dict(zip(ids, tokens, strict=True))

    def _query_tokens(self, queries: Sequence[Asked]) -> list[tuple[int, ...]]:
        texts = [self._query_template.fill({"id": q.query_id, "text": q.text}) for q in queries]
        return token_ids(self._tokenizer, texts, QUERY_TOKENS)


def _with_scores(asked: Asked, candidates: Sequence[Candidate]) -> Asked:
    """The query with scores and ranks of those positives that the run found."""
    found = {candidate.id: candidate for candidate in candidates}
    return replace(
        asked,
        positives=tuple(
            replace(positive, score=found[positive.id].score, rank=found[positive.id].rank)
            if positive.id in found
            else positive
            for positive in asked.positives
        ),
    )


def separator_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What stands between two texts; None where the tokenizer has nothing for that, as T5's."""
    return None if tokenizer.sep_token is None else str(tokenizer.sep_token)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
) -> list[tuple[int, ...]]:
    """Ids of texts without special tokens; the tail of long ones is cut."""
    if not texts:
        return []
    ids = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return [tuple(one) for one in ids]  # type: ignore[union-attr]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the hub or a folder. Raises OptionError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--tokenizer_name '{name}' cannot be loaded: {reason}") from None
