"""Scores of closed answers: where they are read, how orders are averaged, what is likeliest."""

import math

import pytest
import torch

from gazetteer.data.targets import TargetTokenizer
from gazetteer.errors import OptionError
from gazetteer.evaluation.closed_answers import (
    ChoiceTally,
    ClosedAnswers,
    LetterPlace,
    likeliest,
    merger,
    option_probabilities,
)
from gazetteer.evaluation.totals import Totals
from gazetteer.reader import FusionReader
from gazetteer.records import Batch, Example, Ranks
from gazetteer.tasks.multiple_choice import orders
from tests.support.tiny_models import reader_tokenizer, tiny_t5

LETTERS = ("A", "B", "C", "D")


def tokenizer(**settings) -> TargetTokenizer:
    return TargetTokenizer(reader_tokenizer(), decoder_start_id=0, **settings)


def test_letters_are_read_where_their_targets_part() -> None:
    ids = reader_tokenizer()
    place = LetterPlace.find(tokenizer(), LETTERS)
    pieces = ids("<extra_id_0> A", add_special_tokens=False)["input_ids"]
    assert pieces[place.position] == place.ids[0]
    assert list(place.ids) == [ids.convert_tokens_to_ids(letter) for letter in LETTERS]
    words = LetterPlace.find(tokenizer(), ("one", "two"))
    assert words.position == 1


def test_a_format_before_the_letter_moves_the_place() -> None:
    plain = LetterPlace.find(tokenizer(), LETTERS)
    wrapped = LetterPlace.find(tokenizer(decoder_format="the answer is {target}"), LETTERS)
    prompted = LetterPlace.find(tokenizer(decoder_prompt_format="the {query} is"), LETTERS)
    assert wrapped.ids == plain.ids == prompted.ids
    before = reader_tokenizer()("the answer is <extra_id_0> A", add_special_tokens=False)
    assert before["input_ids"][wrapped.position] == plain.ids[0]
    assert prompted.position == plain.position


@pytest.mark.parametrize(
    ("settings", "candidates"), [({"max_length": 1}, LETTERS), ({}, ("one", "one two", "two"))]
)
def test_candidates_that_no_single_token_tells_apart_are_refused(settings, candidates) -> None:
    with pytest.raises(OptionError, match="does not tell the answers"):
        LetterPlace.find(tokenizer(**settings), candidates)


@pytest.mark.parametrize("prompt", [None, "the {query}"])
def test_letters_score_as_in_a_model_that_is_asked_step_by_step(prompt: str | None) -> None:
    """By hand: encoder and decoder called once for each query, without any of our code."""
    model, texts = tiny_t5(), reader_tokenizer()
    targets = tokenizer(decoder_prompt_format=prompt)
    closed = ClosedAnswers(LETTERS, targets, debiases=True, compares=True)
    reader = FusionReader(model, max_padded_tokens=64)
    queries = ["what is the river", "who", "which of the two is in the north of oslo"]
    answers = ["B", "D", "A"]
    inputs = [[torch.tensor(texts(query)["input_ids"]).int().numpy()] for query in queries]
    batch = Batch(
        examples=tuple(Example(example_id=i, query=q) for i, q in enumerate(queries)),
        query_tokens=(),
        targets=targets.encode(queries, [f"<extra_id_0> {a}" for a in answers]),
    )
    assert batch.targets is not None
    with torch.no_grad():
        context = reader.encode(inputs).fused()
        logits = reader.decode(context, batch.targets.decoder_input_ids)
        fields = closed.ask(reader, context, logits, batch)
        for query, found in zip(queries, fields, strict=True):
            encoded = texts(query, return_tensors="pt")
            forced = texts(prompt.format(query=query), add_special_tokens=False)["input_ids"] \
                if prompt else []  # fmt: skip
            begun = texts("<extra_id_0> A", add_special_tokens=False)["input_ids"][:-1]
            decoder = torch.tensor([[0, *forced, *begun]])
            expected = model(**encoded, decoder_input_ids=decoder).logits[0, -1]
            for letter in LETTERS:
                number = texts.convert_tokens_to_ids(letter)
                assert found["choice_logits"][letter] == pytest.approx(
                    float(expected[number]), abs=1e-5
                )
                whole = texts(f"<extra_id_0> {letter} </s>", add_special_tokens=False)["input_ids"]
                fed = torch.tensor([[0, *forced, *whole[:-1]]])
                scores = model(**encoded, decoder_input_ids=fed).logits[0, len(forced) :]
                total = sum(float(s.log_softmax(0)[i]) for s, i in zip(scores, whole, strict=True))
                assert found["candidate_log_likelihoods"][letter] == pytest.approx(total, abs=1e-4)


def test_the_likeliest_candidate_is_judged() -> None:
    fields = {"candidate_log_likelihoods": {"true": -2.0, "false": -1.5, "maybe": -1.5}}
    assert ClosedAnswers.score(fields, ["false"]) == {"ranking_accuracy": 1.0}
    assert ClosedAnswers.score(fields, ["maybe"]) == {"ranking_accuracy": 0.0}
    assert ClosedAnswers.score({}, ["maybe"]) == {}


@pytest.mark.parametrize("kind", ["single", "cyclic", "all"])
def test_a_reader_that_looks_only_at_the_letter_finds_all_options_equal(kind) -> None:
    each = orders(3, kind)
    logits = torch.tensor([[3.0, 1.0, -2.0]]).repeat(len(each), 1)[None]
    average = option_probabilities(logits, each).mean(dim=1)[0]
    if kind == "single":
        assert average.argmax() == 0 and average[0] > 0.8
    else:
        assert average.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("kind", ["cyclic", "all"])
def test_a_reader_that_looks_only_at_the_option_is_left_as_it_is(kind) -> None:
    each, worth = orders(4, kind), [1.0, 3.0, 0.5, -1.0]
    logits = torch.tensor([[[worth[option] for option in order] for order in each]])
    expected = torch.tensor(worth).softmax(0)
    found = option_probabilities(logits, each)[0]
    assert found.tolist() == [pytest.approx(expected.tolist())] * len(each)


def test_equal_options_go_to_the_first() -> None:
    assert likeliest(torch.tensor([0.2, 0.4, 0.4 + 1e-9])) == 1
    assert likeliest(torch.tensor([[0.2, 0.4, 0.41], [0.5, 0.5, 0.0]])).tolist() == [2, 0]


def test_a_tally_needs_no_particular_sequence_of_examples() -> None:
    each = orders(2, "cyclic")
    worth = {0: [2.0, 1.0], 1: [0.0, 1.0], 2: [1.0, 0.0]}
    right = {0: "A", 1: "A", 2: None}
    tally = ChoiceTally(("A", "B"), each)
    for number in (5, 0, 3, 1, 4, 2):
        line, order = number // 2, each[number % 2]
        shown = right[line] and "AB"[order.index("AB".index(right[line]))]
        example = Example(example_id=number, query="", answers=(shown,) if shown else ())
        logits = {"AB"[i]: worth[line][option] for i, option in enumerate(order)}
        tally.add(example, {"choice_logits": logits})
    scores = list(tally.scores(Ranks()))
    assert scores == [(0, {"debiased_accuracy": 1.0}), (1, {"debiased_accuracy": 0.0})]
    shares = [list(tally.scores(Ranks(rank=rank, world_size=2))) for rank in (0, 1)]
    assert [len(share) for share in shares] == [1, 1]
    totals = Totals()
    for line, score in scores:
        totals.add_unit(score, line)
    assert totals.measured(("debiased_accuracy",)).averages == {"debiased_accuracy": 50.0}


def test_one_record_is_made_of_those_of_all_orders() -> None:
    each = orders(2, "cyclic")
    parts = [
        {"query": "q", "generation": "x", "choice_logits": {"A": 0.0, "B": math.log(3)}},
        {"query": "r", "generation": "y", "choice_logits": {"A": math.log(4), "B": 0.0}},
    ]
    merged = merger(("A", "B"), each)(parts)
    assert merged["all_probs"] == {"A": pytest.approx([0.25, 0.2]), "B": pytest.approx([0.75, 0.8])}
    assert merged["choice_probs"] == pytest.approx({"A": 0.225, "B": 0.775})
    assert (merged["query"], merged["generation"]) == ("q", "B")
    assert merged["permutations"] == parts
    assert "choice_logits" not in merged
