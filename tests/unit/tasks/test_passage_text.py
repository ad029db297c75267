"""Tasks made of passages: prompts, cuts and holes, and what is compared with what."""

from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gazetteer.errors import OptionError
from gazetteer.tasks import TASKS, lm, mlm, section
from gazetteer.tasks.mlm import cut_out, noise_spans
from tests.support.tiny_models import reader_tokenizer

TEXT = "The river of Vienna, born 1804, was west of Oslo and has {two} small islands in the sea."
LINE = {"id": 7, "title": "Vienna", "section": "Rivers", "text": TEXT, "more": [1]}
TOKENIZER = reader_tokenizer()


def masked(text: str, generator: random.Random, **settings_of_task: float) -> tuple[str, str]:
    task = mlm.Task(**settings_of_task)  # type: ignore[arg-type]
    task.use_tokenizer(TOKENIZER)
    return task.parts({"text": text}, generator)


def put_together(query: str, target: str) -> str:
    """Each sentinel of the query replaced by what follows it in the target."""
    parts = re.split(r"(<extra_id_\d+>)", target)[1:]
    spans = {name: span.strip() for name, span in zip(parts[::2], parts[1::2], strict=True)}
    return re.sub(r"<extra_id_\d+>", lambda found: spans[found[0]], query)


def test_the_titles_ask_for_the_section() -> None:
    example = section.Task().example(LINE, 3, random.Random(0))
    assert (example.query, example.target) == ("Vienna, Rivers", TEXT)
    assert example.answers == (TEXT,)
    assert (example.example_id, example.line_id, example.metadata) == (3, 7, LINE)


@pytest.mark.parametrize("value", ["", "  ", None])
def test_without_a_section_there_is_nothing_to_write(value: str | None) -> None:
    task = section.Task()
    assert task.keeps(LINE)
    assert not task.keeps(LINE | {"section": value})
    assert not task.keeps({"title": "a", "text": "b"})


@pytest.mark.parametrize("name", ["mlm", "lm", "section"])
def test_short_texts_are_left_out(name: str) -> None:
    words = len(TEXT.split())
    assert TASKS[name](words).keeps(LINE)
    assert not TASKS[name](words + 1).keeps(LINE)
    assert not TASKS[name](None).keeps(LINE | {"text": " \n"})
    assert not TASKS[name](0).keeps(LINE | {"text": "<extra_id_0> <extra_id_1>"})


@pytest.mark.parametrize("name", ["mlm", "lm", "section"])
def test_the_passage_itself_is_forbidden_and_the_line_is_the_metadata(name: str) -> None:
    task = TASKS[name]()
    task.use_tokenizer(TOKENIZER)
    example = task.example(LINE | {"passages": [{"text": "x"}]}, 0, random.Random(0))
    assert task.filters
    assert task.forbidden_passage_id(example) == "7"
    assert example.metadata == LINE
    nameless = task.example({k: LINE[k] for k in ("title", "section", "text")}, 0, random.Random(0))
    assert task.forbidden_passage_id(nameless) is None


# ---- lm


def test_a_text_is_cut_in_its_middle_by_default() -> None:
    text = "one two  three\nfour five six"
    assert lm.Task().parts({"text": text}, random.Random(0)) == ("one two  three", "four five six")


def test_cuts_stay_inside_the_bounds_and_reach_all_of_them() -> None:
    text = " ".join(map(str, range(20)))
    drawn = {
        len(lm.Task(None, 0.25, 0.75).parts({"text": text}, random.Random(n))[0].split())
        for n in range(300)
    }
    assert drawn == set(range(5, 16))


@given(
    st.lists(st.text(string.ascii_letters + "é水.", min_size=1, max_size=4), min_size=2),
    st.sampled_from([(0.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (0.3, 0.6)]),
    st.integers(0, 99),
)
def test_both_sides_of_a_cut_have_words_and_make_the_text(
    words: list[str], shares: tuple[float, float], seed: int
) -> None:
    text = " ".join(words)
    left, right = lm.Task(None, *shares).parts({"text": text}, random.Random(seed))
    assert left and right
    assert f"{left} {right}" == text


def test_a_single_word_cannot_be_cut() -> None:
    assert not lm.Task().keeps({"text": " word "})
    assert lm.Task().keeps({"text": "two words"})


# ---- mlm


def test_holes_of_a_fixed_generator() -> None:
    text = "paris is the capital of france and rome is the capital of italy"
    assert masked(text, random.Random(0), density=0.3, mean_length=2.0) == (
        "paris is the capital of france and <extra_id_0> the capital <extra_id_1>",
        "<extra_id_0> rome is <extra_id_1> of italy",
    )


@settings(max_examples=60)
@given(
    st.text("abc é水😀\n\t{}▁\u200bthe river", max_size=60),
    st.floats(0.01, 0.99),
    st.floats(1, 5),
    st.integers(0, 99),
)
def test_query_and_target_make_the_text(
    text: str, density: float, mean_length: float, seed: int
) -> None:
    query, target = masked(
        text, random.Random(seed), density=density, mean_length=mean_length, max_tokens=1000
    )
    # What comes after the last token of the text, if anything, is a character without a token.
    whole = put_together(query, target)
    assert text.strip().startswith(whole)
    assert not TOKENIZER.tokenize(text.strip()[len(whole) :])


def test_a_text_is_cut_to_its_tokens_before_it_is_masked() -> None:
    query, target = masked("king queen war year " * 50, random.Random(1), max_tokens=10)
    assert put_together(query, target) == " ".join(["king queen war year"] * 3)[:50]


def test_masks_depend_on_the_generator_alone() -> None:
    assert masked(TEXT, random.Random("0 1 2")) == masked(TEXT, random.Random("0 1 2"))
    assert len({masked(TEXT, random.Random(n)) for n in range(20)}) > 5


@given(
    st.integers(1, 600), st.floats(0.001, 0.999), st.floats(1, 20), st.integers(1, 100),
    st.integers(0, 99),
)  # fmt: skip
def test_spans_are_apart_in_order_and_of_the_wanted_size(
    tokens: int, density: float, mean_length: float, most: int, seed: int
) -> None:
    spans = noise_spans(tokens, density, mean_length, most, random.Random(seed))
    ends = [end for span in spans for end in span]
    assert ends == sorted(set(ends))
    assert ends[-1] == tokens
    assert ends[0] >= 1 or tokens == 1
    assert 1 <= len(spans) <= most
    noise = sum(stop - start for start, stop in spans)
    assert noise == max(min(max(round(tokens * density), 1), tokens - 1), 1)


def test_numbers_of_spans_follow_the_flags() -> None:
    spans = noise_spans(200, 0.15, 3.0, 100, random.Random(0))
    assert (len(spans), sum(stop - start for start, stop in spans)) == (10, 30)


def test_there_are_never_more_spans_than_sentinels() -> None:
    assert len(noise_spans(1000, 0.5, 1.0, 100, random.Random(0))) == 100
    query, target = masked("red " * 500, random.Random(0), density=0.5, mean_length=1.0,
                           max_tokens=1000)  # fmt: skip
    assert target.count("<extra_id_") == 100
    assert "<extra_id_99>" in query and "<extra_id_100>" not in query
    assert put_together(query, target) == ("red " * 500).strip()


def test_spans_inside_words_stay_there() -> None:
    assert cut_out("a bcd  e f", [(2, 4), (5, 8)]) == (
        "a <extra_id_0>d  <extra_id_1> f",
        "<extra_id_0> bc <extra_id_1> e",
    )


def test_sentinels_of_the_text_itself_are_taken_out() -> None:
    query, target = masked("red <extra_id_7> blue green old new", random.Random(0))
    assert put_together(query, target) == "red blue green old new"
    assert "<extra_id_7>" not in query + target


def test_a_text_without_a_token_is_neither_learnt_nor_scored() -> None:
    tokenizer = Tokenizer(models.BPE({"<extra_id_0>": 0, "a": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    task = mlm.Task()
    task.use_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    example = task.example({"text": "unknown"}, 0, random.Random(0))
    assert (example.query, example.target, example.answers) == ("unknown", "", ())


def test_a_tokenizer_without_sentinels_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    with pytest.raises(OptionError, match="has no <extra_id_0> \\(--reader_model_type\\)"):
        mlm.Task().use_tokenizer(tokenizer)


# ---- scores


@pytest.mark.parametrize("name", ["mlm", "lm", "section"])
def test_a_perfect_prediction_is_perfect(name: str) -> None:
    task = TASKS[name]()
    task.use_tokenizer(TOKENIZER)
    # Two words side by side in a hole, and an odd space: what decoding leaves of the target.
    line = LINE | {"text": TEXT.replace(" of ", "  of\n")}
    example = task.example(line, 0, random.Random(0))
    prediction = " ".join(re.sub(r"<extra_id_\d+>", " ", example.target).split())
    scores = task.score(prediction, example.answers)
    assert scores == dict.fromkeys(("accuracy", "f1", "rouge_1", "rouge_2", "rouge_L"), 1.0)
    assert tuple(scores) == task.metrics[1:]


def test_case_and_punctuation_count_but_for_rouge() -> None:
    scores = section.Task().score("the River", ["The river."])
    assert scores == {
        "accuracy": 0.0, "f1": 0.0, "rouge_1": 1.0, "rouge_2": 1.0, "rouge_L": 1.0,
    }  # fmt: skip


def test_an_empty_prediction_scores_nothing() -> None:
    assert set(mlm.Task().score("", ["<extra_id_0> a"]).values()) == {0.0}
