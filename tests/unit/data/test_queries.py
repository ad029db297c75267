"""Queries get the model's special tokens and lose their tail when they are too long."""

from __future__ import annotations

import numpy as np
import pytest

from gazetteer.data.queries import QueryTokenizer
from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer


@pytest.mark.parametrize("make", [reader_tokenizer, retriever_tokenizer])
@pytest.mark.parametrize("max_tokens", [2, 3, 5, 64])
def test_queries_are_what_the_tokenizer_gives_alone(make, max_tokens: int) -> None:
    queries = ["who is the king of norway", "paris", "", "3.5% (of it)"]
    encoded = QueryTokenizer(make(), max_tokens=max_tokens).encode(queries)
    expected = [make()(q, truncation=True, max_length=max_tokens)["input_ids"] for q in queries]
    assert [ids.tolist() for ids in encoded] == expected
    assert all(ids.dtype == np.int32 and len(ids) <= max_tokens for ids in encoded)


def test_special_tokens_survive_truncation() -> None:
    (ids,) = QueryTokenizer(retriever_tokenizer(), max_tokens=4).encode(["who is the king"])
    assert ids[0] == 2
    assert ids[-1] == 3


def test_no_queries_are_no_ids() -> None:
    assert QueryTokenizer(reader_tokenizer(), max_tokens=4).encode([]) == []
