"""The data pipeline of the compressor, whole: the seed's commands, kills, shards, refusals."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gazetteer.compress import queries
from gazetteer.compress.prepare_dataset import main
from gazetteer.compress.records import read_records
from tests.support.compress_models import (
    save_tiny_cross_encoder,
    save_tiny_splade,
    save_tiny_teacher,
)
from tests.support.file_server import running
from tests.support.tiny_data import passages, questions, write_jsonl


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "--retriever_model": str(save_tiny_splade(folder / "splade")),
        "--reranker_model": str(save_tiny_cross_encoder(folder / "reranker")),
        "--teacher_model": str(save_tiny_teacher(folder / "teacher")),
    }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """KILT's pages, queries, and the folder where commands are typed."""
    monkeypatch.chdir(tmp_path)
    pages = [
        {
            "wikipedia_id": page["id"],
            "wikipedia_title": page["title"],
            "text": [page["title"], f"{page['text']}\n", "BULLET::::- red river"],
        }
        for page in passages(40)
    ]
    write_jsonl(tmp_path / "kilt_knowledgesource.json", pages)
    asked = [each["question"] for each in questions(11)]
    (tmp_path / "queries.txt").write_text("\n\n".join(asked) + "\n")
    return tmp_path


def run(models: dict[str, str], words: str, **changes: str) -> int:
    """A command as typed, with tiny models."""
    given = shlex.split(words)
    tiny = {"--cache_dir": "cache", "--teacher_max_new_tokens": "5"} | models | changes
    more = [part for name, value in tiny.items() if name not in given for part in (name, value)]
    return main([*given, *more, "--device", "cpu", "--no_progress"])


def written(path: str) -> list[dict[str, Any]]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


BASIC = (
    "--queries_file queries.txt --corpus_path kilt_knowledgesource.json "
    "--output_file train_data.json "
)


def test_made_queries_need_no_corpus(world: Path, models: dict[str, str]) -> None:
    assert run(models, "--num_synthetic_queries 5 --output_file test_data.json") == 0
    records = written("test_data.json")
    assert [each["query"] for each in records] == [f"What is example topic {n}?" for n in range(5)]
    assert all(1 <= len(each["documents"]) <= 20 and each["answer"] for each in records)
    assert not list(world.glob("*.work"))


def test_the_basic_pipeline(world: Path, models: dict[str, str]) -> None:
    assert run(models, BASIC + "--top_k_retrieval 5") == 0
    records = read_records(Path("train_data.json"), flag="--train_data")
    assert [each.query for each in records] == [q["question"] for q in questions(11)]
    for each in records:
        assert len(each.documents) <= 5 and each.reranking_scores is None
        # The title in front, not twice; no mark of KILT's.
        assert all("red river" in text and "BULLET" not in text for text in each.documents)
        title = each.documents[0].partition(":")[0]
        assert each.documents[0].count(f"{title}: {title} ") <= 1
        assert each.provenance["retriever"]["kind"] == "splade"
        assert each.provenance["teacher"]["decoding"]["kind"] == "greedy"
    assert len({each.answer for each in records}) > 1


def test_reranking_filters_scores_or_both(world: Path, models: dict[str, str]) -> None:
    assert run(models, BASIC + "--top_k_retrieval 6") == 0
    plain = written("train_data.json")
    assert run(models, BASIC + "--top_k_retrieval 6 --enable_reranking") == 0
    scored = written("train_data.json")
    assert [each["documents"] for each in scored] == [each["documents"] for each in plain]
    full = BASIC + "--top_k_retrieval 6 --top_k_reranking 2"
    assert run(models, full + " --enable_reranking") == 0
    both = written("train_data.json")
    assert run(models, full) == 0
    kept = written("train_data.json")
    assert [each["documents"] for each in both] == [each["documents"] for each in kept]
    for every, best, without in zip(scored, both, kept, strict=True):
        ranked = sorted(every["reranking_scores"], reverse=True)
        assert best["reranking_scores"] == pytest.approx(ranked[:2], rel=1e-4)
        assert "reranking_scores" not in without
        assert best["provenance"]["reranker"]["scores"] == "logits"


def test_ms_marco_is_fetched_and_warned_of(
    world: Path,
    models: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    words = (
        "--download_ms_marco --corpus_path kilt_knowledgesource.json --output_file train_data.json "
        "--top_k_retrieval 20 --top_k_reranking 5 --enable_reranking"
    )
    with running() as server:
        server.files["/q.tsv"] = b"300674\twhat is paris\n125705\twhere is oslo\n"
        monkeypatch.setattr(queries, "MS_MARCO", server.url("/q.tsv"))
        assert run(models, words) == 0
    assert "a number measured on MS MARCO dev says nothing" in capsys.readouterr().err
    assert Path("ms_marco_queries.txt").read_text() == "what is paris\nwhere is oslo\n"
    assert [each["query"] for each in written("train_data.json")] == [
        "what is paris", "where is oslo",
    ]  # fmt: skip
    assert all(len(each["documents"]) <= 5 for each in written("train_data.json"))


def test_without_a_connection_the_download_is_one_line(
    world: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", queries.Patience(tries=1))
    monkeypatch.setattr(queries, "MS_MARCO", "http://127.0.0.1:9/q.tsv")
    words = "--download_ms_marco --corpus_path kilt_knowledgesource.json"
    assert run(models, words) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "http://127.0.0.1:9/q.tsv" in message and "--queries_file" in message


def test_shards_of_the_seed_make_the_same_data(world: Path, models: dict[str, str]) -> None:
    words = BASIC + "--top_k_retrieval 4 --top_k_reranking 3 --enable_reranking --batch_size 2"
    assert run(models, words, **{"--cache_dir": "other"}) == 0
    whole = Path("train_data.json").read_bytes()
    for part in (1, 2, 0):
        assert run(models, f"{words} --shard {part}/3") == 0
    shards = sorted(map(str, world.glob("train_data.shard-*-of-3.json")))
    assert len(shards) == 3
    assert main(["--merge", *shards[1:], "--output_file", "merged.json"]) == 2
    assert main(["--merge", *reversed(shards), "--output_file", "merged.json"]) == 0
    assert Path("merged.json").read_bytes() == whole


def killed_at(work: Callable[[], int], file: str, count: int) -> None:
    """Do some work in another process, that is killed when it finishes its `count`th such file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        left = [count]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.rename" and file in str(arguments[1]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_what_was_killed_goes_on_and_ends_the_same(
    world: Path, models: dict[str, str], capsys: Any
) -> None:
    words = BASIC + "--top_k_retrieval 4 --enable_reranking --batch_size 2"
    assert run(models, words, **{"--cache_dir": "other"}) == 0
    whole = Path("train_data.json").read_bytes()
    Path("train_data.json").unlink()
    for file, count in (("rows.", 1), ("hits-", 1), ("records-", 1), ("records-", 3)):
        killed_at(lambda: run(models, words), file, count)
        assert not Path("train_data.json").exists()
    # Killed as it put the third of these in place: the first and second are not made again.
    assert len(list(world.glob("train_data.work/records-*.json"))) == 2
    assert run(models, words.replace("--top_k_retrieval 4", "--top_k_retrieval 3")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "--top_k_retrieval is now 3, but train_data.work was begun with 4" in message
    assert run(models, words.replace("kilt", "./kilt")) == 0
    assert Path("train_data.json").read_bytes() == whole


@pytest.mark.parametrize("retriever", ["dense", "bm25"])
def test_other_retrievers_and_gold_answers(
    world: Path, models: dict[str, str], retriever_folder: Path, retriever: str
) -> None:
    write_jsonl(world / "asked.jsonl", questions(5))
    words = "--queries_file asked.jsonl --corpus_path kilt_knowledgesource.json --retriever "
    words += f"{retriever} --teacher_model none --max_corpus_size 30 --top_k_retrieval 3 "
    tiny = dict(models)
    del tiny["--retriever_model"]
    if retriever == "dense":
        tiny["--retriever_model"] = str(retriever_folder)
    assert run(tiny, words) == 0
    records = written("train_data.json")
    assert [each["answers"] for each in records] == [q["answers"] for q in questions(5)]
    assert all(each["answer"] == each["answers"][0] for each in records)
    assert {i for each in records for i in each["document_ids"]} <= {f"p{n}-0" for n in range(30)}


def test_queries_that_find_nothing_are_left_out_and_counted(
    world: Path, models: dict[str, str], capsys: Any
) -> None:
    words = "--corpus_path kilt_knowledgesource.json --retriever bm25 --teacher_model none "
    tiny = {"--cache_dir": "cache"}
    (world / "odd.txt").write_text("zzzz\nriver \u00fc\n")
    assert run(tiny, f"{words} --queries_file odd.txt") == 0
    assert [each["query"] for each in written("train_data.json")] == ["river \u00fc"]
    message = capsys.readouterr().err
    assert "1 of 2 queries are left out" in message
    assert "2 queries have no gold answer, and no teacher answers" in message
    (world / "odd.txt").write_text("zzzz\n")
    Path("train_data.json").unlink()
    assert run(tiny, f"{words} --queries_file odd.txt") == 2
    assert "nothing is written" in capsys.readouterr().err
    assert not list(world.glob("train_data*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output_file a.json", "expected one of --queries_file, --num_synthetic_queries, --down"),
        ("--queries_file queries.txt", "--corpus_path is needed"),
        ("--queries_file no.txt --corpus_path kilt_knowledgesource.json", "no.txt: No such file"),
        ("--queries_file queries.txt --corpus_path no.json", "no.json: No such file"),
        (BASIC + "--top_k_reranking 30", "--top_k_reranking (30) must be <= --top_k_retrieval"),
        (BASIC + "--reranker_model no/such --enable_reranking", "model 'no/such' cannot be loaded"),
        (BASIC + "--teacher_8bit", "--teacher_8bit needs a GPU"),
        (BASIC + "--shard 3/3", "expected i/n with i from 0 to n - 1, got '3/3'"),
        (BASIC + "--shard 0/9 --batch_size 8", "--shard 0/9: nothing is left to do"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    world: Path, models: dict[str, str], capsys: Any, words: str, message: str
) -> None:
    try:
        assert run(models, words) == 2
    except SystemExit as left:
        assert left.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not Path("train_data.json").exists()
