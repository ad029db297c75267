"""The teacher: greedy, the same alone and in a batch, and never asked half a question."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gazetteer.compress import teacher_models
from gazetteer.compress.teacher import Teacher, generate_teacher_answers
from gazetteer.compress.teacher_cache import TeacherCache
from gazetteer.compress.teacher_models import TeacherSettings
from gazetteer.compress.teacher_prompts import INSTRUCTION, PromptMaker
from gazetteer.errors import CheckpointError, DataError, OptionError
from tests.support.compress_models import save_loud_t5, save_tiny_teacher, teacher_tokenizer

QUERIES = ["what is paris", "who born in the year one two", "where"]
DOCUMENTS = [["paris: city of france", "rome"], ["lima " * 9], ["oslo: norway", "cairo", "berlin"]]


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"))


def settings(folder: Path, **changes: Any) -> TeacherSettings:
    values = {"name": str(folder), "max_new_tokens": 6, "device": torch.device("cpu")}
    return TeacherSettings(**(values | changes))


@pytest.mark.parametrize("kind", ["causal", "chat", "t5"])
def test_a_batch_gets_the_answers_that_each_gets_alone(
    kind: str, teacher_folder: Path, tmp_path: Path
) -> None:
    if kind == "t5":
        folder = save_loud_t5(tmp_path)
    else:
        is_chat = kind == "chat"
        folder = save_tiny_teacher(tmp_path, has_chat=True) if is_chat else teacher_folder
    teacher = Teacher(settings(folder))
    together = teacher.teach(QUERIES, DOCUMENTS)
    alone = [teacher.teach([q], [d])[0] for q, d in zip(QUERIES, DOCUMENTS, strict=True)]
    assert together == alone
    assert len({lesson.answer for lesson in together if lesson}) > 1
    assert Teacher(settings(folder)).teach(QUERIES, DOCUMENTS) == together


@pytest.mark.parametrize("has_chat", [False, True])
def test_a_small_window_costs_passages_never_instruction_or_question(has_chat: bool) -> None:
    tokenizer = teacher_tokenizer(has_chat=has_chat)
    wide = PromptMaker(tokenizer, max_tokens=10_000)
    whole = wide.fit("where is oslo", ["first one", "second one two", "third"])
    two = wide.fit("where is oslo", ["first one", "second one two"])
    assert whole is not None and two is not None and len(whole.documents) == 3
    cut = PromptMaker(tokenizer, max_tokens=len(whole.ids) - 1).fit(
        "where is oslo", ["first one", "second one two", "third"]
    )
    assert cut == two
    long = "one two three four five six seven eight nine ten"
    some = wide.fit("where is oslo", ["one two three"])
    assert some is not None
    narrow = PromptMaker(tokenizer, max_tokens=len(some.ids)).fit("where is oslo", [long, "x"])
    assert narrow is not None
    # One passage is left, without its tail, and what was asked stands whole.
    (kept,) = narrow.documents
    assert kept == "one two three"
    assert INSTRUCTION in narrow.text and kept in narrow.text
    assert "Question: where is oslo" in narrow.text
    assert PromptMaker(tokenizer, max_tokens=50).fit("where is oslo", ["x"]) is None


def test_students_get_the_passages_that_the_teacher_saw(teacher_folder: Path) -> None:
    words = " ".join(["paris london"] * 60)
    item = {
        "query": "what is paris",
        "documents": [{"title": "one", "text": words}] * 9,
        "reranking_scores": [float(n) for n in range(9)],
        "document_ids": [str(n) for n in range(9)],
        "more": 1,
    }
    (taught,) = generate_teacher_answers(
        [item], str(teacher_folder), max_new_tokens=4, device="cpu", show_progress=False
    )
    count = len(taught["documents"])
    assert 0 < count < 9
    assert taught["documents"] == [f"one: {words}"] * count
    assert taught["reranking_scores"] == [float(n) for n in range(count)]
    assert len(taught["document_ids"]) == count and taught["more"] == 1
    assert isinstance(taught["answer"], str) and taught["answer"]


def test_what_was_answered_is_not_asked_again(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TeacherCache(tmp_path / "new" / "answers.sqlite")
    first = Teacher(settings(teacher_folder), cache).teach(QUERIES, DOCUMENTS)
    monkeypatch.setattr(teacher_models, "_load", lambda *_: pytest.fail("loaded again"))
    assert Teacher(settings(teacher_folder), cache).teach(QUERIES, DOCUMENTS) == first
    keys = {lesson.key for lesson in first if lesson}
    assert len(keys) == 3
    # Another passage, or other decoding, is another question.
    for changed in (
        (settings(teacher_folder), [["rome"], *DOCUMENTS[1:]]),
        (settings(teacher_folder, max_new_tokens=5), DOCUMENTS),
    ):
        with pytest.raises(pytest.fail.Exception, match="loaded again"):
            Teacher(changed[0], cache).teach(QUERIES, changed[1])


def test_a_cache_that_is_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(DataError, match=r"cannot keep answers here: .* \(--cache_dir\)"):
        TeacherCache(tmp_path / "a.sqlite")


def test_what_cannot_be_done_is_said_in_one_line(
    teacher_folder: Path,
) -> None:
    with pytest.raises(OptionError, match="--teacher_8bit needs a GPU"):
        Teacher(settings(teacher_folder, is_8bit=True))
    with pytest.raises(OptionError, match=r"needs vllm: pip install vllm"):
        Teacher(settings(teacher_folder, backend="vllm"))
    with pytest.raises(OptionError, match=r"\(2000\) and .* must fit into the 1024 positions"):
        Teacher(settings(teacher_folder, max_prompt_tokens=2000))
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .*\(--teacher_model\)"):
        Teacher(settings(Path("no/such-teacher")))
    with pytest.raises(DataError, match="item 1: field 'documents': expected a list"):
        generate_teacher_answers([{"query": "q", "documents": ["d"]}, {"query": "q"}])


def test_vllm_is_asked_greedily_with_whole_prompts(
    teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Llm:
        def __init__(self, **words: Any) -> None:
            asked["made"] = words

        def generate(self, prompts: Any, sampling: Any, use_tqdm: bool) -> Any:
            asked["prompts"], asked["sampling"] = prompts, sampling
            return [SimpleNamespace(outputs=[SimpleNamespace(text=" a ")]) for _ in prompts]

    fake = SimpleNamespace(LLM=Llm, SamplingParams=lambda **words: words)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    lessons = Teacher(settings(teacher_folder, backend="vllm")).teach(QUERIES, DOCUMENTS)
    assert [lesson.answer for lesson in lessons if lesson] == ["a"] * 3
    assert asked["sampling"] == {"temperature": 0.0, "max_tokens": 6}
    assert asked["made"]["max_model_len"] == 1024
    assert [len(each["prompt_token_ids"]) > 20 for each in asked["prompts"]] == [True] * 3
