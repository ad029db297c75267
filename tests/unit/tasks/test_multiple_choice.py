"""Questions with options: the prompt and its cut, orders, and lines put in order."""

import math
import random
from itertools import pairwise

import pytest

from gazetteer.records import Example
from gazetteer.tasks.multiple_choice import MAX_PROMPT_TOKENS, Task, orders
from tests.support.tiny_models import reader_tokenizer

LINE = {
    "question": "Which body cavity contains the {pituitary} gland?",
    "options": {"A": "Abdominal", "B": "Cranial", "C": "Pleural", "D": "Spinal"},
    "answer": "B",
}


def made(task: Task, line: dict) -> Example:
    example = task.example(line, 0, random.Random(0))
    assert example is not None
    return example


def test_the_prompt_and_the_target() -> None:
    example = made(Task(), LINE)
    assert example.query == (
        "question: Which body cavity contains the {pituitary} gland? "
        "options: (A) Abdominal (B) Cranial (C) Pleural (D) Spinal answer: <extra_id_0>"
    )
    assert example.target == "<extra_id_0> B"
    assert example.answers == ("B",)


def test_options_are_shown_by_letter_whatever_their_order_in_the_file() -> None:
    backwards = dict(reversed(list(LINE["options"].items())))
    assert made(Task(), LINE | {"options": backwards}).query == made(Task(), LINE).query


def test_without_an_answer_nothing_is_scored() -> None:
    line = {name: value for name, value in LINE.items() if name != "answer"}
    example = made(Task(), line)
    assert example.answers == ()
    assert made(Task(), line | {"answer": None}).answers == ()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_rotations_and_all_orders(count: int) -> None:
    rotations, every = orders(count, "cyclic"), orders(count, "all")
    assert orders(count, "single") == (tuple(range(count)),)
    assert len(set(rotations)) == count and len(set(every)) == math.factorial(count)
    for found in (rotations, every):
        assert found[0] == tuple(range(count))
        assert all(sorted(order) == list(range(count)) for order in found)
        # Each option stands at each letter equally often: that is what removes the bias.
        for letter in range(count):
            at_letter = [order[letter] for order in found]
            assert all(at_letter.count(x) == len(found) / count for x in range(count))
    for order in rotations:
        assert all((after - before) % count == 1 for before, after in pairwise(order))


@pytest.mark.parametrize("kind", ["single", "cyclic", "all"])
def test_the_right_text_stays_right_in_every_order(kind: str) -> None:
    task = Task(4, "single", kind)  # type: ignore[arg-type]
    seen = set()
    for order in task.orders(is_training=False):
        line = task.reordered(LINE, order)
        assert line["options"][line["answer"]] == "Cranial"
        assert list(line["options"]) == ["A", "B", "C", "D"]
        assert sorted(line["options"].values()) == sorted(LINE["options"].values())
        assert line["is_original"] == (line["options"] == LINE["options"])
        seen.add(made(task, dict(line)).query)
    assert len(seen) == len(task.orders(is_training=False))
    assert LINE["answer"] == "B" and LINE["options"]["A"] == "Abdominal"


def test_options_of_the_same_text_keep_apart() -> None:
    line = LINE | {"options": {"A": "x", "B": "y", "C": "y", "D": "z"}, "answer": "C"}
    task = Task(4, "all")
    letters = [task.reordered(line, order)["answer"] for order in task.orders(is_training=True)]
    assert sorted(letters) == sorted("ABCD" * 6)


def test_training_and_evaluation_have_their_own_orders() -> None:
    task = Task(4, "all", "cyclic")
    assert len(task.orders(is_training=True)) == 24
    assert len(task.orders(is_training=False)) == 4


@pytest.mark.parametrize("text", ["one two three ", "ab", "läßt 漢字\u2028"])
def test_long_questions_lose_their_beginning(text: str) -> None:
    task, tokenizer = Task(), reader_tokenizer()
    task.use_tokenizer(tokenizer)
    question = text * 1000 + "the end"
    query = made(task, LINE | {"question": question}).query
    length = len(tokenizer(query)["input_ids"])
    assert MAX_PROMPT_TOKENS - 3 <= length <= MAX_PROMPT_TOKENS
    kept = query.removeprefix("question: ").split(" options: ")[0]
    assert question.endswith(kept) and len(kept) > 20
    assert query.endswith("options: (A) Abdominal (B) Cranial (C) Pleural (D) Spinal answer: "
                          "<extra_id_0>")  # fmt: skip


def test_prompts_that_fit_are_left_alone() -> None:
    task, tokenizer = Task(), reader_tokenizer()
    task.use_tokenizer(tokenizer)
    assert made(task, LINE).query == made(Task(), LINE).query
    words = ["one"] * MAX_PROMPT_TOKENS
    whole = [made(Task(), LINE | {"question": " ".join(words[start:])}).query
             for start in range(MAX_PROMPT_TOKENS)]  # fmt: skip
    fits = [len(tokenizer(query)["input_ids"]) <= MAX_PROMPT_TOKENS for query in whole]
    longest = fits.index(True)
    assert longest > 0
    for start, is_whole in ((longest, True), (longest - 1, False)):
        query = made(task, LINE | {"question": " ".join(words[start:])}).query
        assert (query == whole[start]) is is_whole


def test_options_that_fill_the_prompt_alone_leave_no_question() -> None:
    task = Task()
    task.use_tokenizer(reader_tokenizer())
    options = LINE["options"] | {"D": "one " * 400}
    query = made(task, LINE | {"options": options}).query
    assert query.startswith("question:  options: (A) Abdominal")


def test_everything_else_of_the_line_is_passed_through() -> None:
    line = LINE | {"dataset": "anatomy_test", "id": "m1", "passages": [{"text": "t"}]}
    example = made(Task(), line)
    assert example.metadata == {n: v for n, v in line.items() if n != "passages"}
    assert example.line_id == "m1"
