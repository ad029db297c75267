"""Token ids of every passage, computed once per corpus and mapped from disk ever after.

Query and passage are tokenised apart and put together by copying ids. That this gives the very ids
of tokenising the whole text is checked on real passages when a store is opened; where it does not,
whole texts are tokenised instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from gazetteer.data.built_folders import build_folder, require_built
from gazetteer.data.passages import PassageStore
from gazetteer.data.templates import PassageTemplate
from gazetteer.errors import IndexFileError, OptionError
from gazetteer.progress import progress
from gazetteer.records import TokenIds

logger = logging.getLogger(__name__)

TOKENS_FILE = "tokens.arrow"
FORMAT_VERSION = 2
BATCH_ROWS = 16_384
PROBE_QUERIES = (
    "question: what is it? answer: <extra_id_0>",
    "who wrote the 1st book",
    "an answer, (maybe) two: 3.5%",
)
PROBED_PASSAGES = 64


class TokenStore:
    """Token ids of one text per passage, without special tokens, memory-mapped.

    Opening compares the file with its hash, a large one only if it changed since.

    Args:
        folder: written by `write_tokens`.

    Raises:
        IndexFileError: the folder holds no tokens, or damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        require_built(folder, "tokens")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(folder / TOKENS_FILE)))
        except (OSError, pa.ArrowException) as error:
            raise IndexFileError(f"{folder}: unknown tokens ({error})") from None
        columns = [reader.get_batch(i).column(0) for i in range(reader.num_record_batches)]
        # Views of the map: nothing is read before it is asked for.
        self._values = [column.values.to_numpy() for column in columns]
        self._offsets = [column.offsets.to_numpy() for column in columns]
        self._starts = np.cumsum([0] + [len(column) for column in columns])

    @property
    def count(self) -> int:
        """Passages in the store."""
        return int(self._starts[-1])

    def take(self, rows: np.ndarray | Sequence[int]) -> list[TokenIds]:
        """Token ids at these rows: views of the file, uint16 or int32."""
        wanted = np.asarray(rows, dtype=np.int64)
        parts = np.searchsorted(self._starts, wanted, side="right") - 1
        places = wanted - self._starts[parts]
        result = []
        for part, place in zip(parts.tolist(), places.tolist(), strict=True):
            offsets = self._offsets[part]
            result.append(self._values[part][offsets[place] : offsets[place + 1]])
        return result


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of everything that decides how the tokenizer cuts text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        description = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        # Padding and truncation are set by calls, and are not part of what the tokenizer is.
        settings = json.loads(backend.to_str())
        settings.pop("padding", None)
        settings.pop("truncation", None)
        description = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(description.encode()).hexdigest()


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[TokenIds]:
    """Ids of each text, without special tokens, uncut."""
    if not texts:
        return []
    # Fast tokenizers use all cores; the lists not asked for would be made by one.
    ids = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return [np.asarray(one, dtype=np.int32) for one in ids]  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a tokenizer puts around a text.

    Attributes:
        before, after: ids.
    """

    before: TokenIds
    after: TokenIds

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
        """Find out what this tokenizer puts around a text."""
        inside = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        assert isinstance(inside, list) and isinstance(whole, list)
        start = next(
            i for i in range(len(whole) - len(inside) + 1) if whole[i : i + len(inside)] == inside
        )
        before, after = whole[:start], whole[start + len(inside) :]
        return cls(np.asarray(before, dtype=np.int32), np.asarray(after, dtype=np.int32))

    @property
    def count(self) -> int:
        """Special tokens of one text."""
        return len(self.before) + len(self.after)

    def around(self, ids: TokenIds, max_tokens: int) -> TokenIds:
        """A text's ids with the special tokens; its tail is cut where they are too many."""
        return np.concatenate([self.before, ids[: max_tokens - self.count], self.after])


class PassageTokens:
    """What a model is given of the passages of a corpus: token ids, specials and truncation done.

    Args:
        corpus: the passages.
        tokenizer: the model's.
        template: how query and passage become one text.
        max_tokens: special tokens included; the tail is cut.
        cache_dir: where token ids are kept between runs.
        show_progress: draw a bar while tokenising the corpus.
        max_passage_tokens: of the passage alone; None: as many as fit.

    Raises:
        OptionError: `max_tokens` leaves no room beside the special tokens, or the passage cannot
            be told from the query.
    """

    def __init__(
        self,
        corpus: PassageStore,
        tokenizer: PreTrainedTokenizerBase,
        template: PassageTemplate,
        *,
        max_tokens: int,
        cache_dir: Path,
        show_progress: bool = False,
        max_passage_tokens: int | None = None,
    ) -> None:
        self.max_tokens = max_tokens
        self.max_passage_tokens: int | None = None
        self.template = template.format
        self.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer)
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._template = template
        self._special = SpecialTokens.of(tokenizer)
        if max_tokens <= self._special.count:
            raise OptionError(
                f"--text_maxlength ({max_tokens}) must be above {self._special.count}, "
                "the number of the model's special tokens"
            )
        self._store: TokenStore | None = None
        if template.is_separable and self._is_exact():
            self._store = self._cached(cache_dir, show_progress)
        else:
            if max_passage_tokens is not None:
                raise OptionError(
                    f"--compressor_format ({template.format}) must have its passage after {{query}}"
                    " and a space: --compression_rate says how long passages are"
                )
            logger.warning(
                "format '%s': query and passage cannot be tokenised apart; whole texts are "
                "tokenised at every step, which is slower",
                template.format,
            )
        # Only now: what is tokenised apart is compared with whole texts uncut.
        self.max_passage_tokens = max_passage_tokens

    @property
    def is_cached(self) -> bool:
        """Whether passages are tokenised once for all."""
        return self._store is not None

    def passage_inputs(self, rows: np.ndarray | Sequence[int]) -> list[TokenIds]:
        """Ids of passages alone, for a format without a query."""
        if self._store is None:
            records = self._corpus.records(rows)
            return self._whole([self._template.fill(record) for record in records])
        return [self._assemble(self._none, passage) for passage in self._store.take(rows)]

    def reader_inputs(
        self, queries: Sequence[str], rows: Sequence[np.ndarray]
    ) -> list[list[TokenIds]]:
        """Ids of each query with each of its passages.

        Args:
            queries: one text each.
            rows: global rows of the passages of each query; may differ in number.

        Returns:
            For each query, the ids of its passages in the order of `rows`, each equal to what the
            tokenizer gives for the filled template, cut at `max_tokens`.
        """
        if self._store is None:
            return [
                self._whole([self._template.fill(p, query) for p in self._corpus.records(wanted)])
                for query, wanted in zip(queries, rows, strict=True)
            ]
        heads = self._heads(queries)
        return [
            [self._assemble(head, passage) for passage in self._store.take(wanted)]
            for head, wanted in zip(heads, rows, strict=True)
        ]

    def beside_passages(self, queries: Sequence[str]) -> list[int]:
        """How many ids of each query's inputs are not the passage's: its own and special ones.

        An estimate where query and passage cannot be tokenised apart.
        """
        return [self._special.count + len(head) for head in self._heads(queries)]

    def _heads(self, queries: Sequence[str]) -> list[TokenIds]:
        """Ids of what stands up to and including each query; none in a format without one."""
        if not self._template.has_query:
            return [self._none] * len(queries)
        return tokenize(self._tokenizer, [self._template.fill_query(query) for query in queries])

    _none = np.empty(0, dtype=np.int32)

    def _assemble(self, head: TokenIds, passage: TokenIds) -> TokenIds:
        passage = passage[: self.max_passage_tokens]
        return self._special.around(np.concatenate([head, passage]), self.max_tokens)

    def _whole(self, texts: Sequence[str]) -> list[TokenIds]:
        if not texts:
            return []
        ids = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        return [np.asarray(one, dtype=np.int32) for one in ids["input_ids"]]  # type: ignore[union-attr]

    def _is_exact(self) -> bool:
        """Compare with tokenising whole texts, on passages spread over the corpus."""
        count = self._corpus.count
        rows = np.unique(np.linspace(0, max(count - 1, 0), PROBED_PASSAGES).astype(np.int64))
        records = self._corpus.records(rows[:count])
        tails = tokenize(
            self._tokenizer, [self._template.fill_passage(record) for record in records]
        )
        for query in PROBE_QUERIES if self._template.has_query else ("",):
            head = self._none
            if self._template.has_query:
                head = tokenize(self._tokenizer, [self._template.fill_query(query)])[0]
            whole = self._whole([self._template.fill(record, query) for record in records])
            apart = [self._assemble(head, tail) for tail in tails]
            if not all(np.array_equal(a, b) for a, b in zip(whole, apart, strict=True)):
                return False
        return True

    def _cached(self, cache_dir: Path, show_progress: bool) -> TokenStore:
        key = [FORMAT_VERSION, self._corpus.fingerprint, self.tokenizer_fingerprint]
        key += [self._template.after if self._template.has_query else self._template.format]
        # No passage contributes more ids than the model takes.
        key += [self.max_tokens]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        folder = cache_dir / "tokens" / name
        try:
            return TokenStore(folder)
        except IndexFileError:
            return write_tokens(self._token_batches(show_progress), folder, self._id_type())

    def _id_type(self) -> pa.DataType:
        """The smallest type that holds every id: most vocabularies fit into two bytes."""
        largest = max(self._tokenizer.get_vocab().values())
        return pa.uint16() if largest <= np.iinfo(np.uint16).max else pa.int32()

    def _token_batches(self, show_progress: bool) -> Iterator[list[TokenIds]]:
        count = self._corpus.count
        with progress(count, "tokenising", "passage", enabled=show_progress) as bar:
            for batch in self._corpus.batches(range(count), BATCH_ROWS):
                texts = [self._template.fill_passage(record) for record in batch.records()]
                yield [one[: self.max_tokens] for one in tokenize(self._tokenizer, texts)]
                bar.update(len(texts))


def write_tokens(
    batches: Iterable[Sequence[TokenIds]], folder: Path, id_type: pa.DataType
) -> TokenStore:
    """Write token ids, one list per passage; the folder appears whole or not at all.

    Args:
        batches: ids of consecutive passages.
        folder: a name of these tokens alone; where it is there already, and intact, it stays.
        id_type: uint16 or int32.
    """
    schema = pa.schema([("ids", pa.large_list(id_type))])

    def write(partial: Path) -> None:
        with (
            pa.OSFile(str(partial / TOKENS_FILE), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(_record_batch(batch, schema))

    build_folder(folder, write)
    return TokenStore(folder)


def _record_batch(ids: Sequence[TokenIds], schema: pa.Schema) -> pa.RecordBatch:
    offsets = np.cumsum([0] + [len(one) for one in ids], dtype=np.int64)
    values = pa.array(np.concatenate(ids)).cast(schema.field("ids").type.value_type)
    column = pa.LargeListArray.from_arrays(offsets, values)
    return pa.RecordBatch.from_arrays([column], schema=schema)
