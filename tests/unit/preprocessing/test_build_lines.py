"""build_train.py and build_hn.py as they are called, on a collection of forty documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import build_hn
import build_train
import pytest

from tests.support.tiny_collections import Collection, make_collection
from tests.support.tiny_models import retriever_tokenizer

TOKENIZER = retriever_tokenizer()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def flags_of(collection: Collection, retriever: Path, out: Path) -> list[str]:
    flags = {
        "tokenizer_name": retriever,
        "qrels": collection.qrels,
        "queries": collection.queries,
        "collection": collection.corpus,
        "save_to": out,
        "doc_template": "Title: <title> Text: <text>",
        "cache_dir": collection.folder / "cache",
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))] + [
        "--no_progress"
    ]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return make_collection(tmp_path / "marco")


def train(collection: Collection, retriever: Path, out: Path, *more: object) -> int:
    words = [*flags_of(collection, retriever, out), "--negative_file", str(collection.negatives)]
    return build_train.main([*words, *map(str, more)])


def mine(collection: Collection, retriever: Path, out: Path, *more: object) -> int:
    words = [*flags_of(collection, retriever, out), "--hn_file", str(collection.run)]
    return build_hn.main([*words, *map(str, more)])


def corpus_of(collection: Collection) -> dict[str, tuple[str, str]]:
    rows = (line.split("\t") for line in collection.corpus.read_text().splitlines())
    return {one: (title, text) for one, title, text in rows}


def test_lines_hold_the_tokens_of_what_their_ids_name(
    collection: Collection, retriever_folder: Path, tmp_path: Path
) -> None:
    assert train(collection, retriever_folder, tmp_path / "out", "--truncate", 9) == 0
    corpus = corpus_of(collection)
    queries = dict(line.split("\t") for line in collection.queries.read_text().splitlines())

    def tokens(text: str, limit: int) -> list[int]:
        return TOKENIZER.encode(text, add_special_tokens=False)[:limit]

    (shard,) = sorted((tmp_path / "out").glob("*.jsonl"))
    assert shard.name == "split00.jsonl"
    lines = lines_of(shard)
    assert [line["query_id"] for line in lines] == list(collection.positives)
    for line in lines:
        query_id = line["query_id"]
        assert line["query_text"] == queries[query_id]
        assert line["query"] == tokens(queries[query_id], 32)
        assert line["positive_ids"] == collection.positives[query_id]
        assert not set(line["positive_ids"]) & set(line["negative_ids"])
        assert len(set(line["negative_ids"])) == len(line["negative_ids"]) >= 18
        for side in ("positive", "negative"):
            for one, ids in zip(line[f"{side}_ids"], line[f"{side}s"], strict=True):
                assert ids == tokens("Title: {} Text: {}".format(*corpus[one]), 9)
        assert set(line["negative_sources"]) == {"train.negatives.tsv"}


def test_the_same_bytes_whatever_the_processes_and_parts(
    collection: Collection, retriever_folder: Path, tmp_path: Path
) -> None:
    ways = {
        "one": ("--mp_chunk_size", 500),
        "parts": ("--mp_chunk_size", 5, "--processes", 1),
        "processes": ("--mp_chunk_size", 1, "--processes", 2),
        "seed": ("--seed", 1),
    }
    found = {}
    for name, words in ways.items():
        assert train(collection, retriever_folder, tmp_path / name, "--n_sample", 4, *words) == 0
        found[name] = (tmp_path / name / "split00.jsonl").read_bytes()
    assert found["one"] == found["parts"] == found["processes"] != found["seed"]


def test_shards_merged_and_split(
    collection: Collection, retriever_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ("--shard_size", 5, "--merge", "--validation_size", 4)
    out.mkdir()
    (out / "split03.hn.jsonl").write_text("left\n")
    (out / "split03.jsonl").write_text("of the other kind\n")
    assert mine(collection, retriever_folder, out, *more) == 0
    names = ["split00", "split01", "split02", "train", "train.new", "val"]
    assert sorted(path.name for path in out.glob("*.hn.jsonl")) == [f"{n}.hn.jsonl" for n in names]
    assert (out / "split03.jsonl").exists()
    shards = [lines_of(out / f"{name}.hn.jsonl") for name in names]
    assert [len(shard) for shard in shards] == [5, 5, 2, 12, 8, 4]
    assert shards[0] + shards[1] + shards[2] == shards[3] == shards[4] + shards[5]


def test_hard_negatives_are_the_best_of_the_run(
    collection: Collection, retriever_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ("--depth", 6, "--n_sample", 4, "--form", "reference")
    assert mine(collection, retriever_folder, out, *more) == 0
    for line in lines_of(out / "split00.hn.jsonl"):
        positives = set(collection.positives[line["query_id"]])
        hits = (hit.split() for hit in collection.run.read_text().splitlines())
        best = [h[2] for h in hits if h[0] == line["query_id"] and h[2] not in positives][:6]
        assert {one["id"] for one in line["negatives"]} <= set(best)
        assert len(line["negatives"]) == 4
        for one in line["negatives"]:
            assert one["score"] == 20 - one["rank"] / 2
            assert one["source"] == "tiny"
        assert all("score" in one for one in line["positives"])
    report = json.loads((out / "report.hn.json").read_text())
    assert report["dropped"]["judged relevant"] == sum(map(len, collection.positives.values()))
    assert (report["lines written"], report["negatives written"]) == (12, 48)


def test_queries_that_cannot_be_used_are_counted(
    collection: Collection,
    retriever_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with collection.run.open("a") as run:
        run.write("unjudged Q0 d100 1 1.0 t\nunheard Q0 d100 1 1.0 t\nonly Q0 d101 1 1.0 t\n")
    with collection.qrels.open("a") as qrels:
        qrels.write("unheard\t0\td100\t1\nonly\t0\td101\t2\nunjudged\t0\td100\t0\n")
    with collection.queries.open("a") as queries:
        queries.write("only\twho\nunjudged\twho\n")
    assert mine(collection, retriever_folder, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "queries in the file of candidates: 15\n" in shown
    assert "queries without a positive in --qrels, skipped: 1\n" in shown
    assert "queries that --queries does not have, skipped: 1\n" in shown
    assert "queries without a negative left: 1\n" in shown
    assert "lines written: 12\n" in shown


def test_filters_by_flags(collection: Collection, retriever_folder: Path, tmp_path: Path) -> None:
    answers, scores = tmp_path / "answers.tsv", tmp_path / "scores"
    answers.write_text("7\twhat\t['paris', 'the']\n")
    hits = [hit.split() for hit in collection.run.read_text().splitlines()]
    scores.write_text("".join(f"{q} {d} 0.5\n" for q, _, d, rank, *_ in hits if rank == "1"))
    out = tmp_path / "out"
    more = ("--filter_duplicates", "--answers", answers, "--cross_encoder_scores", scores)
    assert mine(collection, retriever_folder, out, *more) == 0
    report = json.loads((out / "report.hn.json").read_text())
    assert report["dropped"]["holds an answer"] > 0
    assert 0 < report["dropped"]["relevant to the cross-encoder"] <= 12
    assert report["candidates examined"] == report["negatives written"] + sum(
        report["dropped"].values()
    ) - sum(map(len, collection.positives.values()))
    corpus = corpus_of(collection)
    for line in lines_of(out / "split00.hn.jsonl"):
        first = next(d for q, _, d, *_ in hits if q == line["query_id"])
        assert first not in line["negative_ids"]
        if line["query_id"] == "7":
            words = [" ".join(corpus[one]).split() for one in line["negative_ids"]]
            assert not any({"paris", "the"} & set(some) for some in words)


def test_margin_below_the_positive_of_the_run(
    collection: Collection, retriever_folder: Path, tmp_path: Path
) -> None:
    hits = [hit.split() for hit in collection.run.read_text().splitlines()]
    collection.run.write_text("".join(f"{q} Q0 {d} 1 {int(r) + 80} t\n" for q, _, d, r, *_ in hits))
    assert mine(collection, retriever_folder, tmp_path / "out", "--positive_margin") == 0
    lines = lines_of(tmp_path / "out" / "split00.hn.jsonl")
    assert len(lines) == 12
    for line in lines:
        best = max(score for score in line["positive_scores"] if score is not None)
        assert 0 < best * 0.95 - max(line["negative_scores"]) < 2


def test_without_a_template_title_and_text_are_set_apart(
    collection: Collection, reader_folder: Path, retriever_folder: Path, tmp_path: Path
) -> None:
    for name, folder, between in (("b", retriever_folder, " [SEP] "), ("t", reader_folder, " ")):
        words = flags_of(collection, folder, tmp_path / name)
        place = words.index("--doc_template")
        words[place : place + 2] = ["--negative_file", str(collection.negatives)]
        assert build_train.main(words) == 0
        line = lines_of(tmp_path / name / "split00.jsonl")[0]
        title, text = corpus_of(collection)[line["positive_ids"][0]]
        if name == "b":
            expected = TOKENIZER.encode(f"{title}{between}{text}", add_special_tokens=False)
            assert line["positives"][0] == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("negatives", "7\td999\n", "train.negatives.tsv (--negative_file): found no passage"),
        ("qrels", "7\t0\td999\t1\n", "qrels.train.tsv (--qrels): found no passage"),
        ("negatives", "99\td100\n", "found none of its 1 queries"),
        ("corpus", "d100\tt\n", "corpus.tsv:1: found 2 columns, expected 3"),
        ("corpus", "d100\tt\tx\nd100\tt\ty\n", "found it in rows 1 and 2"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    collection: Collection,
    retriever_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    expected: str,
) -> None:
    getattr(collection, name).write_text(content)
    out = tmp_path / "out"
    out.mkdir()
    (out / "split00.jsonl").write_text("earlier\n")
    assert train(collection, retriever_folder, out) == 2
    said = capsys.readouterr().err
    assert expected in said.splitlines()[-1]
    assert [path.read_text() for path in out.iterdir()] == ["earlier\n"]
