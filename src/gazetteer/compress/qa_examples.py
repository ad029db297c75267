"""Questions with their passages, out of SQuAD, Natural Questions, TriviaQA, HotpotQA and the like.

Rows come as the hub's `datasets` gives them, as the published files have them, or in a plain form:

    {"question": "..", "answers": ["..", ..], "contexts": ["..", {"title": "..", "text": ".."}]}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gazetteer.compress.records import document_text, titled
from gazetteer.data.jsonl import BadLineError
from gazetteer.ir.fields import Object, as_object, list_of, mismatch, optional_text, text_of
from gazetteer.metrics.answers import normalize_answer

MAX_WORDS = 512
"""Of a passage out of a whole page."""
MAX_PASSAGES = 3
"""Of a question of TriviaQA."""
HOTPOT_PASSAGES = 5


@dataclass(frozen=True, slots=True)
class Example:
    """A question with passages and gold answers.

    Attributes:
        query: the question.
        documents: its passages.
        answers: gold, the first one to be learned.
        sources: what no other part may share: titles of articles, texts, the question itself.
    """

    query: str
    documents: tuple[str, ...]
    answers: tuple[str, ...]
    sources: frozenset[str]


Row = Callable[[Object], Iterator[Example]]
"""From a row to its examples: usually one, none where there is no answer."""


def squad(row: Object) -> Iterator[Example]:
    """The context, of a row or of an article of the published file."""
    if "paragraphs" not in row:
        answers = as_object(row.get("answers") or {}, "answers").get("text") or []
        yield from _made(
            text_of(row, "question"), [text_of(row, "context")], answers, [_title(row, "title")]
        )
        return
    for paragraph in list_of(row, "paragraphs"):
        context = text_of(as_object(paragraph, "paragraphs"), "context")
        for each in list_of(paragraph, "qas"):
            asked = as_object(each, "qas")
            if not asked.get("is_impossible"):
                found = [as_object(a, "answers").get("text") for a in asked.get("answers") or []]
                sources = [_title(row, "title")]
                yield from _made(text_of(asked, "question"), [context], found, sources)


def natural_questions(row: Object) -> Iterator[Example]:
    """512 words of the page, with the short answer in them; rows without one are left out."""
    document = as_object(row.get("document"), "document")
    tokens = as_object(document.get("tokens"), "tokens")
    annotations = as_object(row.get("annotations"), "annotations")
    spans = [span for each in list_of(annotations, "short_answers") for span in _spans(each)]
    if not spans:
        return
    words, is_html = list_of(tokens, "token"), list_of(tokens, "is_html")
    first = spans[0][0]
    before = [word for word, html in zip(words[:first], is_html, strict=False) if not html]
    every = [word for word, html in zip(words, is_html, strict=True) if not html]
    start = 0 if len(before) + 32 <= MAX_WORDS else len(before) - MAX_WORDS // 2
    answers = [text for _, text in spans]
    passage = " ".join(every[start : start + MAX_WORDS])
    question = text_of(as_object(row.get("question"), "question"), "text")
    yield from _made(question, [passage], answers, [_title(document, "title")])


def _spans(found: Any) -> list[tuple[int, str]]:  # noqa: ANN401 - being checked
    spans = as_object(found, "short_answers")
    return list(zip(spans.get("start_token") or [], spans.get("text") or [], strict=False))


def trivia_qa(row: Object) -> Iterator[Example]:
    """The first three results of the search, else of Wikipedia, cut to where an answer stands."""
    answer = as_object(row.get("answer"), "answer")
    answers = [answer.get("value"), *(answer.get("aliases") or [])]
    for name, field in (("search_results", "search_context"), ("entity_pages", "wiki_context")):
        found = as_object(row.get(name) or {}, name)
        texts = found.get(field) or []
        titles = found.get("title") or [""] * len(texts)
        pairs = [pair for pair in zip(titles, texts, strict=True) if pair[1]][:MAX_PASSAGES]
        if pairs:
            passages = [window(text, answers) for _, text in pairs]
            sources = [f"title {normalize_answer(title)}" for title, _ in pairs if title]
            yield from _made(text_of(row, "question"), passages, answers, sources)
            return


def hotpot_qa(row: Object) -> Iterator[Example]:
    """Five of the ten paragraphs as "title: text", those with the supporting facts among them."""
    context, facts = row.get("context"), row.get("supporting_facts")
    if isinstance(context, dict):
        paragraphs = list(
            zip(context.get("title") or [], context.get("sentences") or [], strict=True)
        )
    else:
        paragraphs = [(each[0], each[1]) for each in list_of(row, "context")]
    if isinstance(facts, dict):
        gold = set(facts.get("title") or [])
    else:
        gold = {each[0] for each in facts or []}
    places = [place for place, (title, _) in enumerate(paragraphs) if title in gold]
    others = [place for place in range(len(paragraphs)) if place not in places]
    kept = sorted([*places, *others[: max(0, HOTPOT_PASSAGES - len(places))]])
    documents = [
        titled(paragraphs[place][0], " ".join("".join(paragraphs[place][1]).split()))
        for place in kept
    ]
    sources = [f"title {normalize_answer(paragraphs[place][0])}" for place in kept]
    yield from _made(text_of(row, "question"), documents, [row.get("answer")], sources)


def plain(row: Object) -> Iterator[Example]:
    """Question, answers and one or several passages, under the usual names."""
    names = ("contexts", "documents", "passages", "ctxs")
    name = next((name for name in names if row.get(name) is not None), None)
    found = [text_of(row, "context")] if name is None else list_of(row, name)
    answers = row.get("answers") if row.get("answers") is not None else row.get("answer")
    if isinstance(answers, dict):
        answers = answers.get("text") or [answers.get("value"), *(answers.get("aliases") or [])]
    answers = answers if isinstance(answers, list) else [answers]
    titles = [each.get("title") for each in found if isinstance(each, dict)]
    sources = [_title(row, "title")]
    sources += [f"title {normalize_answer(title)}" for title in titles if isinstance(title, str)]
    query = optional_text(row, "question") or text_of(row, "query")
    yield from _made(query, [document_text(each) for each in found], answers, sources)


ROWS: dict[str, Row] = {
    "squad": squad,
    "natural_questions": natural_questions,
    "trivia_qa": trivia_qa,
    "hotpot_qa": hotpot_qa,
}
_ITS_OWN = {
    "squad": lambda row: "paragraphs" in row or isinstance(row.get("answers"), dict),
    "natural_questions": lambda row: isinstance(row.get("document"), dict),
    "trivia_qa": lambda row: "search_results" in row or "entity_pages" in row,
    "hotpot_qa": lambda row: "supporting_facts" in row,
}


def examples_of(row: Object, dataset: str) -> list[Example]:
    """The examples in a row, in the form of its set or in the plain one.

    Raises:
        BadLineError: naming the field, what was found and what was expected.
    """
    make = ROWS[dataset] if _ITS_OWN[dataset](row) else plain
    try:
        return list(make(row))
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, BadLineError):
            raise
        raise BadLineError(f"not a row of {dataset}: {' '.join(str(error).split())}") from None


def _title(row: Object, name: str) -> str:
    title = optional_text(row, name)
    return f"title {normalize_answer(title)}" if title else ""


def _made(
    query: str, documents: Sequence[str], answers: Sequence[Any], sources: Sequence[str]
) -> Iterator[Example]:
    if not all(isinstance(each, str) for each in answers):
        wrong = next((each for each in answers if not isinstance(each, str)), None)
        raise mismatch("answers", wrong, "strings")
    known = tuple(dict.fromkeys(each.strip() for each in answers if each.strip()))
    texts = tuple(each for each in documents if each.strip())
    if known and texts and query.strip():
        of_texts = [f"text {normalize_answer(each)}" for each in texts]
        of_texts.append(f"question {normalize_answer(query)}")
        # Whitespace as it comes does not matter, and must not break the lines of a log.
        yield Example(
            " ".join(query.split()), texts, known, frozenset(filter(None, (*sources, *of_texts)))
        )


def window(text: str, answers: Sequence[Any]) -> str:
    """At most `MAX_WORDS` words of a text, around the first place where an answer stands."""
    words = text.split()
    if len(words) <= MAX_WORDS:
        return " ".join(words)
    whole = " ".join(words).lower()
    known = [" ".join(each.lower().split()) for each in answers if isinstance(each, str) and each]
    found = [re.search(rf"(?<!\w){re.escape(each)}(?!\w)", whole) for each in known]
    at = min((len(whole[: match.start()].split()) for match in found if match), default=0)
    start = 0 if at + 32 <= MAX_WORDS else at - MAX_WORDS // 2
    return " ".join(words[start : start + MAX_WORDS])
