"""Batches of a dense run: passages picked, special tokens put around them, negatives replaced."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.sampling import Draw, draw_step
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import PassageTokens, SpecialTokens
from gazetteer.dense.batches import DenseBatches
from gazetteer.dense.known_positives import KnownPositives, known_among
from gazetteer.dense.line_files import LineTexts, cached_lines
from gazetteer.dense.picking import Picker
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import WORDS, retriever_tokenizer

TOKENIZER = retriever_tokenizer()
CORPUS = [{"id": f"c{n}", "title": "", "text": word} for n, word in enumerate(WORDS[:9])]
LINES = [
    {
        "query": f"who {word}",
        "positives": [{"id": f"c{n}", "score": 5}],
        "negatives": [{"text": f"{word} one", "score": 1}, {"text": f"{word} two", "score": 2}],
    }
    for n, word in enumerate(WORDS[20:25])
]
# What line 0 asks: its positive by text among the negatives, and another positive.
LINES.append(
    {
        "query": LINES[0]["query"],
        "positives": [{"id": "c7", "score": 1}],
        "negatives": [{"text": WORDS[0], "score": 0}, {"text": "rome", "score": 0}],
    }
)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    path = write_jsonl(folder / "lines.jsonl", LINES)
    store = cached_passage_store([write_jsonl(folder / "corpus.jsonl", CORPUS)], folder)
    template = PassageTemplate.parse("{title} {text}")
    corpus = PassageTokens(store, TOKENIZER, template, max_tokens=12, cache_dir=folder)
    texts = LineTexts(
        tokenizer=TOKENIZER,
        query_template=MarkedTemplate.parse_marked("<text>"),
        passage_template=template,
        query_tokens=12,
        passage_tokens=12,
    )
    lines = cached_lines([path], texts, store, folder, flag="--train_data")

    def make(**changes):
        limits = {"query_tokens": 12, "passage_tokens": 12, "scored": False} | changes
        if limits.pop("keyed", False):
            limits["known"] = KnownPositives(lines)
        picker = Picker(negatives=2, seed=0, shuffles_negatives=False)
        return DenseBatches(lines, corpus, SpecialTokens.of(TOKENIZER), picker, **limits)

    return make


def whole(text):
    return TOKENIZER(text)["input_ids"]


def test_texts_get_their_special_tokens(make):
    batch = make().build([Draw(3, 0), Draw(1, 0)])
    assert batch.examples == (3, 1)
    assert [list(q) for q in batch.query_tokens] == [whole(LINES[n]["query"]) for n in (3, 1)]
    expected = [
        text for n in (3, 1) for text in (WORDS[n], *(p["text"] for p in LINES[n]["negatives"]))
    ]
    assert [list(p) for p in batch.passage_tokens] == [whole(text) for text in expected]
    assert batch.teacher_scores is None


def test_long_texts_are_cut_with_their_special_tokens(make):
    batch = make(query_tokens=3, passage_tokens=3).build([Draw(0, 0)])
    assert [len(q) for q in batch.query_tokens] == [3]
    assert batch.query_tokens[0][-1] == whole("a")[-1]
    assert len(batch.passage_tokens[1]) == 3


def test_scores_come_along_where_they_are_asked_for(make):
    scores = make(scored=True).build([Draw(0, 0), Draw(1, 0)]).teacher_scores
    assert scores.tolist() == [[5, 1, 2], [5, 1, 2]]
    assert make(scored=True).build([]).teacher_scores.shape[0] == 0


def test_negatives_can_be_replaced_by_rows_of_the_corpus(make):
    batches = make()
    mined = np.full((6, 3), -1)
    mined[2] = [7, 8, -1]
    batches.use_negatives(mined)
    first, second = batches.build([Draw(2, 0), Draw(3, 0)]).passage_tokens[1::3]
    assert list(first) == whole(WORDS[7])
    assert list(second) == whole(LINES[3]["negatives"][0]["text"])
    batches.use_negatives(None)
    assert list(batches.build([Draw(2, 0)]).passage_tokens[1]) != whole(WORDS[7])


def test_passages_are_known_by_id_and_by_text_and_by_all_lines_of_a_query(make):
    """Line 5 asks what line 0 asks, and has the positive of that among its negatives, by text."""
    draws = [Draw(number, 0) for number in (0, 5, 1)]
    keys = make(keyed=True).build(draws).keys
    same, other = [True, False, False, True, True, False], [False] * 6
    found = known_among(keys.positives, keys.passages)
    expected = [same + [False] * 3, same + [False] * 3, [*other, True, False, False]]
    assert found.tolist() == expected
    mined = np.full((6, 2), -1)
    mined[1] = [0, 8]
    batches = make(keyed=True)
    batches.use_negatives(mined)
    keys = batches.build([Draw(0, 0), Draw(1, 0)]).keys
    assert known_among(keys.positives, keys.passages)[0].tolist() == [
        True,
        *[False] * 3,
        True,
        False,
    ]


def test_no_draws_are_an_empty_batch(make):
    batch = make(keyed=True).build([])
    assert (len(batch.examples), len(batch.query_tokens), len(batch.passage_tokens)) == (0, 0, 0)
    assert (batch.keys.passages.shape, batch.keys.positives.shape) == ((0, 2), (0, 0))


@given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 7),
    world_size=st.integers(1, 4),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_each_line_is_read_once_per_epoch_by_any_number_of_workers(
    count, batch_size, world_size, epochs, shuffle
):
    limit = count * epochs
    read = [
        (draw.epoch, draw.index)
        for position in range(0, limit, batch_size * world_size)
        for rank in range(world_size)
        for each in draw_step(
            position,
            count=count,
            size=batch_size * world_size,
            rank=rank,
            world_size=world_size,
            seed=3,
            shuffle=shuffle,
            limit=limit,
        )
        for draw in each.draws
    ]
    assert Counter(read) == Counter((e, n) for e in range(epochs) for n in range(count))
