"""Training lines stored as token ids: from every kind of line, checked, and built once."""

import pytest

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import tokenize
from gazetteer.dense import line_files
from gazetteer.dense.line_files import LineTexts, cached_lines
from gazetteer.errors import DataError
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import retriever_tokenizer

TOKENIZER = retriever_tokenizer()
CORPUS = [
    {"id": "a", "title": "river", "text": "a long river in egypt"},
    {"id": "b", "title": "", "text": "rome is a city"},
]
LINE = {
    "query_id": "1",
    "query": "what is rome",
    "positives": [{"id": "b"}],
    "negatives": [{"id": "a", "score": 2.5}, {"id": "x", "title": "lima", "text": "lima is old"}],
}


def texts_of(**changes):
    settings = {
        "tokenizer": TOKENIZER,
        "query_template": MarkedTemplate.parse_marked("<text>"),
        "passage_template": PassageTemplate.parse("{title} {text}"),
        "query_tokens": 8,
        "passage_tokens": 6,
    }
    return LineTexts(**(settings | changes))


def store_of(folder, *lines, corpus=True, **changes):
    path = write_jsonl(folder / "lines.jsonl", lines)
    passages = None
    if corpus:
        source = write_jsonl(folder / "corpus.jsonl", CORPUS)
        passages = cached_passage_store([source], folder / "cache")
    return cached_lines(
        [path], texts_of(**changes), passages, folder / "cache", flag="--train_data"
    )


def ids(text):
    return tokenize(TOKENIZER, [text])[0].tolist()


def words(store, numbers):
    return [store.text(int(n) - store.corpus_count).tolist() for n in numbers]


def test_passages_come_from_the_line_or_by_id_from_the_corpus(tmp_path):
    store = store_of(tmp_path, LINE)
    line = store.line(0)
    assert store.count == 1
    assert store.text(line.query).tolist() == ids("what is rome")
    assert line.positives.numbers.tolist() == line.positives.rows.tolist() == [1]
    assert line.negatives.rows.tolist() == [0, -1]
    assert line.negatives.numbers[0] == 0
    assert words(store, line.negatives.numbers[1:]) == [ids("lima lima is old")]
    assert line.negatives.scores[0] == 2.5
    assert store.first_line_without_scores() == 0


def test_a_passage_with_text_and_a_known_id_keeps_its_text_and_has_a_row(tmp_path):
    line = {**LINE, "positives": [{"id": "a", "title": "", "text": "other words"}]}
    found = store_of(tmp_path, line).line(0).positives
    assert found.rows.tolist() == [0]
    assert found.numbers[0] >= 2


def test_token_ids_are_taken_as_they_are(tmp_path):
    line = {"query": [5, 6], "positives": [[7]], "negatives": [[8, 9, 10, 11, 12, 13, 14], []]}
    store = store_of(tmp_path, line, corpus=False)
    found = store.line(0)
    assert store.text(found.query).tolist() == [5, 6]
    assert words(store, found.positives.numbers) == [[7]]
    assert words(store, found.negatives.numbers) == [[8, 9, 10, 11, 12, 13], []]


def test_templates_are_filled(tmp_path):
    templates = {
        "query_template": MarkedTemplate.parse_marked("question <text>"),
        "passage_template": MarkedTemplate.parse_marked("<title> context <text>"),
    }
    line = {**LINE, "positives": [{"title": "rome", "text": "old city"}]}
    store = store_of(tmp_path, line, **templates)
    assert store.text(store.line(0).query).tolist() == ids("question what is rome")
    assert words(store, store.line(0).positives.numbers) == [ids("rome context old city")]


def test_many_lines_keep_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(line_files, "BATCH_LINES", 3)
    lines = [
        {"query": [n], "positives": [[n, n]], "negatives": [[n, k] for k in range(n % 4)]}
        for n in range(5, 15)
    ]
    store = store_of(tmp_path, *lines, corpus=False)
    for number, line in enumerate(lines):
        found = store.line(number)
        assert store.text(found.query).tolist() == line["query"]
        assert words(store, found.positives.numbers) == line["positives"]
        assert words(store, found.negatives.numbers) == line["negatives"]
    assert store.first_line_with_fewer(1) == 3
    assert store.first_line_with_fewer(0) is None


def test_lines_are_read_once_until_something_changes(tmp_path, monkeypatch):
    read = []
    original = line_files.read_training_lines

    def reading(path, **settings):
        read.append(path)
        return original(path, **settings)

    monkeypatch.setattr(line_files, "read_training_lines", reading)
    path = write_jsonl(tmp_path / "lines.jsonl", [{"query": [5], "positives": [[6]]}])
    for limit in (8, 8, 4, 4):
        texts = texts_of(query_tokens=limit)
        cached_lines([path], texts, None, tmp_path / "cache", flag="--train_data")
    assert len(read) == 2
    write_jsonl(path, [{"query": [5], "positives": [[6, 7]]}])
    cached_lines([path], texts_of(), None, tmp_path / "cache", flag="--train_data")
    assert len(read) == 3


@pytest.mark.parametrize(
    ("line", "corpus", "problem"),
    [
        (LINE, False, "passage 'b' has no text: give --passages"),
        ({**LINE, "negatives": [{"id": "zz"}]}, True, "passage 'zz' is none of --passages"),
        ({"query": [5], "positives": [[10**6]]}, False, "found token id 1000000, the tokenizer"),
        ({"query_id": "7", "positives": [[5]]}, False, "query '7' has no text"),
    ],
)
def test_unusable_lines_are_named(tmp_path, line, corpus, problem):
    good = {"query": [5], "positives": [[5]], "negatives": []}
    with pytest.raises(DataError, match=f"lines.jsonl: example 2: {problem}"):
        store_of(tmp_path, good, line, corpus=corpus)
    assert not list((tmp_path / "cache" / "lines").glob("*"))


@pytest.mark.parametrize("form", ["jsonl", "json list"])
def test_bad_lines_are_left_out_and_counted_where_asked(tmp_path, caplog, form):
    fields = ["[5], [[6]]", "[7], []", "[7], [[1000000]]", "[8], [[9]]"]
    pairs = (each.split(", ", 1) for each in fields)
    lines = ["{}", *(f'{{"query": {q}, "positives": {found}}}' for q, found in pairs)]
    content = f"[{','.join(lines)}]" if form == "json list" else "\n".join(["{", *lines])
    path = tmp_path / "lines.jsonl"
    path.write_text(content, encoding="utf-8")
    where = [path], texts_of(), None, tmp_path / "cache"
    store = cached_lines(*where, flag="--train_data", on_bad_line="skip")
    assert [store.text(store.line(n).query).tolist() for n in range(store.count)] == [[5], [8]]
    count = 3 if form == "json list" else 4
    assert f"bad lines skipped: {count}, the first: {path}:1: " in caplog.text
    with pytest.raises(DataError, match=r"lines.jsonl:1: "):
        cached_lines(*where, flag="--train_data")


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no lines to train on"):
        store_of(tmp_path, corpus=False)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        cached_lines([tmp_path / "none"], texts_of(), None, tmp_path, flag="--train_data")


def test_text_beyond_ascii_survives(tmp_path):
    line = {**LINE, "query": "wo ist zürich \u2028 \U0001f600"}
    store = store_of(tmp_path, line)
    assert store.text(store.line(0).query).tolist() == ids(line["query"])[:8]
