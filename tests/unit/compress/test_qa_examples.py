"""Rows of the four sets and of plain files: the passages that hold the answer, and every answer."""

from __future__ import annotations

from typing import Any

import pytest

from gazetteer.compress.qa_examples import MAX_WORDS, examples_of, window
from gazetteer.data.jsonl import BadLineError

PARAGRAPH = {
    "context": "Paris is in France.",
    "qas": [
        {"question": "Where is\nParis?", "answers": [{"text": "France"}, {"text": "in France"}]},
        {"question": "Why?", "answers": [], "is_impossible": True},
    ],
}


def nq_row(answer_at: int, length: int = 2000) -> dict[str, Any]:
    """A page of which every tenth token is markup."""
    tokens = [f"w{n}" for n in range(length)]
    start, end, text = [answer_at], [answer_at + 1], [f"w{answer_at}"]
    return {
        "question": {"text": "who"},
        "document": {
            "title": "T",
            "tokens": {"token": tokens, "is_html": [n % 10 == 0 for n in range(length)]},
        },
        "annotations": {
            "short_answers": [
                {"start_token": [], "end_token": [], "text": []},
                {"start_token": start, "end_token": end, "text": text},
            ]
        },
    }  # fmt: skip


def test_squad_as_published_and_as_the_hub_has_it() -> None:
    (published,) = examples_of({"title": "Paris", "paragraphs": [PARAGRAPH]}, "squad")
    (row,) = examples_of(
        {
            "title": "Paris",
            "context": "Paris is in France.",
            "question": "Where is\nParis?",
            "answers": {"text": ["France", "in France", "France"], "answer_start": [1, 2, 1]},
        },
        "squad",
    )
    assert published == row
    assert row.query == "Where is Paris?"
    assert row.documents == ("Paris is in France.",)
    assert row.answers == ("France", "in France")


@pytest.mark.parametrize("place", [3, 471, 1999])
def test_natural_questions_keep_the_answer_wherever_it_stands(place: int) -> None:
    (example,) = examples_of(nq_row(place), "natural_questions")
    words = example.documents[0].split()
    assert f"w{place}" in words and len(words) <= MAX_WORDS
    assert "w20" not in words
    unanswered = nq_row(3)
    unanswered["annotations"]["short_answers"] = [{"start_token": [], "text": []}]
    assert examples_of(unanswered, "natural_questions") == []


def test_trivia_reads_search_results_first_and_cuts_them_to_the_answer() -> None:
    long = " ".join(["word"] * 900 + ["Cairo"] + ["word"] * 300)
    row = {
        "question": "Capital?",
        "answer": {"value": "Cairo", "aliases": ["Al Qahira", ""]},
        "search_results": {"title": list("abcd"), "search_context": [long, "", "x", "y"]},
        "entity_pages": {"title": ["Egypt"], "wiki_context": ["Cairo it is"]},
    }
    (example,) = examples_of(row, "trivia_qa")
    assert len(example.documents) == 3
    assert "Cairo" in example.documents[0].split()
    assert len(example.documents[0].split()) == MAX_WORDS
    assert example.answers == ("Cairo", "Al Qahira")
    row["search_results"] = {"title": [], "search_context": []}
    assert examples_of(row, "trivia_qa")[0].documents == ("Cairo it is",)


def test_hotpot_keeps_its_gold_paragraphs_among_five() -> None:
    titles = [f"t{n}" for n in range(10)]
    sentences = [[f"First of {t}.", " Second."] for t in titles]
    row = {
        "question": "Which?",
        "answer": "yes",
        "context": {"title": titles, "sentences": sentences},
        "supporting_facts": {"title": ["t9", "t2", "t9"], "sent_id": [0, 1, 1]},
    }
    (example,) = examples_of(row, "hotpot_qa")
    assert [d.partition(":")[0] for d in example.documents] == ["t0", "t1", "t2", "t3", "t9"]
    assert example.documents[4] == "t9: First of t9. Second."
    published = row | {
        "context": [list(pair) for pair in zip(titles, sentences, strict=True)],
        "supporting_facts": [["t9", 0], ["t2", 1]],
    }
    assert examples_of(published, "hotpot_qa") == [example]


@pytest.mark.parametrize("dataset", ["squad", "natural_questions", "trivia_qa", "hotpot_qa"])
def test_plain_rows_fit_every_set(dataset: str) -> None:
    plain = {"question": "q?", "answers": ["a"], "contexts": ["one", {"title": "T", "text": "two"}]}
    (example,) = examples_of(plain, dataset)
    assert example.documents == ("one", "T: two") and example.answers == ("a",)
    (short,) = examples_of({"query": "q?", "answer": "a", "context": "one"}, dataset)
    assert short.documents == ("one",)


@pytest.mark.parametrize(
    ("row", "dataset", "message"),
    [
        ({"question": "q", "answers": ["a"]}, "squad", "field 'context': found nothing"),
        ({"question": 3, "answer": "a", "context": "c"}, "squad", "field 'question': found the n"),
        ({"question": "q", "answers": [3], "context": "c"}, "squad", "field 'answers': found the "),
        ({"document": {}, "question": {}}, "natural_questions", "field 'tokens': found nothing"),
        ({"supporting_facts": 3, "context": []}, "hotpot_qa", "not a row of hotpot_qa"),
        ({"search_results": [], "answer": "x"}, "trivia_qa", "field 'answer': found the string"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(row: dict[str, Any], dataset: str, message: str) -> None:
    with pytest.raises(BadLineError, match=message):
        examples_of(row, dataset)


def test_a_window_is_around_whole_words() -> None:
    words = ["Parisian"] * 700 + ["Paris"] + ["x"] * 700
    assert "Paris" in window(" ".join(words), ["Paris"]).split()
    assert window("a b", ["c"]) == "a b"
