"""A teacher answers questions from passages; the student is to give the same answers.

items = [{"query": "..", "documents": [{"title": "..", "text": ".."}, ..]}, ..]
training_data = generate_teacher_answers(items)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazetteer.compress.model_names import model_identity
from gazetteer.compress.reranker import Item, texts_of_items
from gazetteer.compress.retrieval import device_of
from gazetteer.compress.teacher_cache import TeacherCache, answer_key
from gazetteer.compress.teacher_models import (
    FLAG,
    Answer,
    TeacherSettings,
    load_answerer,
    load_tokenizer,
    prompt_limit,
    require_possible,
)
from gazetteer.compress.teacher_prompts import INSTRUCTION, PromptMaker
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

DEFAULT_TEACHER = "mistralai/Mistral-7B-Instruct-v0.2"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a teacher said.

    Attributes:
        answer: its text.
        documents: the passages it saw, to the letter.
        key: of the answer in the cache.
    """

    answer: str
    documents: tuple[str, ...]
    key: str


class Teacher:
    """Answers questions, and remembers what it has answered.

    The model itself is loaded when the first question comes that was never answered.

    Args:
        settings: which model, and how it answers.
        cache: of answers; None remembers nothing.

    Raises:
        CheckpointError: nothing usable under the model's name.
        OptionError: a prompt does not fit into the model.
    """

    def __init__(self, settings: TeacherSettings, cache: TeacherCache | None = None) -> None:
        require_possible(settings)
        self._settings = settings
        self._cache = cache
        self._tokenizer = load_tokenizer(settings.name)
        self._prompts = PromptMaker(self._tokenizer, max_tokens=prompt_limit(settings))
        self._answer: Answer | None = None
        self.identity = model_identity(settings.name, FLAG)
        self.decoding = {
            "kind": "greedy",
            "max_new_tokens": settings.max_new_tokens,
            "backend": settings.backend,
            "bits": 8 if settings.is_8bit else 16 if settings.device.type == "cuda" else 32,
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """Who answers, and how."""
        about = json.dumps([INSTRUCTION, self._prompts.max_tokens])
        return {
            "model": self._settings.name,
            "identity": self.identity,
            "prompt": hashlib.sha256(about.encode()).hexdigest()[:16],
            "decoding": self.decoding,
        }

    def teach(
        self, queries: Sequence[str], documents: Sequence[Sequence[str]]
    ) -> list[Lesson | None]:
        """Answer some questions, as one batch.

        Args:
            queries: texts.
            documents: the passages of each, best first.

        Returns:
            For each question a lesson; None where not even a part of one passage fits beside it.
        """
        prompts = [
            self._prompts.fit(query, some) for query, some in zip(queries, documents, strict=True)
        ]
        asked = {
            answer_key(self.identity, each.text, self.decoding): each
            for each in prompts
            if each is not None
        }
        answers = self._cache.find(list(asked)) if self._cache is not None else {}
        missing = [key for key in asked if key not in answers]
        if missing:
            # All of the batch, not what is missing: who shares a batch may change the last bits.
            fresh = self._answers([each.ids for each in asked.values()])
            answers = dict(zip(asked, fresh, strict=True)) | answers
            if self._cache is not None:
                self._cache.keep(answers)
        lessons: list[Lesson | None] = []
        for prompt in prompts:
            if prompt is None:
                lessons.append(None)
                continue
            key = answer_key(self.identity, prompt.text, self.decoding)
            lessons.append(Lesson(answers[key], prompt.documents, key))
        return lessons

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        if self._answer is None:
            self._answer = load_answerer(self._settings, self._tokenizer)
        return self._answer(prompts)


def generate_teacher_answers(
    items: Sequence[Item],
    model_name: str = DEFAULT_TEACHER,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 128,
    load_in_8bit: bool = False,
    device: str | None = None,
    cache: Path | None = None,
    show_progress: bool = True,
) -> list[dict[str, Any]]:
    """Give each item an `answer`; its `documents` become exactly the texts the teacher saw.

    Args:
        items: objects with `query` and `documents`: texts, or objects with `title` and `text`.
            Other fields stay; `reranking_scores` and `document_ids` follow the documents.
        model_name: hub name, folder, or GGUF file of a teacher.
        batch_size: questions answered together.
        max_new_tokens: of an answer.
        load_in_8bit: save memory, on a GPU.
        device: where it runs; None = a GPU where there is one.
        cache: file for answers that need not be given twice; None for none.
        show_progress: draw a bar.

    Returns:
        The items, but those whose question leaves no room for passages.

    Raises:
        DataError: an item lacks something; its number is said.
        CheckpointError, OptionError: the teacher cannot be loaded.
    """
    queries, documents = texts_of_items(items)
    settings = TeacherSettings(
        name=model_name,
        is_8bit=load_in_8bit,
        max_new_tokens=max_new_tokens,
        device=device_of(device),
    )
    teacher = Teacher(settings, None if cache is None else TeacherCache(cache))
    taught = []
    with progress(len(items), "answering", "query", enabled=show_progress) as bar:
        for first in range(0, len(items), batch_size):
            part = slice(first, first + batch_size)
            lessons = teacher.teach(queries[part], documents[part])
            for item, lesson in zip(items[part], lessons, strict=True):
                if lesson is None:
                    logger.warning("left out, its question fills the prompt: %.80s", item["query"])
                    continue
                taught.append(_with_lesson(item, lesson))
            bar.update(len(lessons))
    return taught


def _with_lesson(item: Item, lesson: Lesson) -> dict[str, Any]:
    count = len(lesson.documents)
    aligned = {
        name: item[name][:count]
        for name in ("reranking_scores", "document_ids")
        if item.get(name) is not None
    }
    return {**item, **aligned, "documents": list(lesson.documents), "answer": lesson.answer}
