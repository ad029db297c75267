"""build_index and retrieve, in OpenMatch's spelling, on a made-up collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gazetteer.dense import build_index, retrieve
from gazetteer.index import read_manifest
from gazetteer.records import Ranks
from gazetteer.retriever.encoder import TextEncoder
from gazetteer.retriever.sentence_files import describe_for_sentence_transformers
from tests.support.ranks import run_on_ranks
from tests.support.tiny_collections import Collection, make_collection
from tests.support.tiny_models import (
    retriever_tokenizer,
    save_tiny_reader,
    save_tiny_retriever,
    tiny_bert,
)

TITLED = "Title: <title> Text: <text>"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A collection, and a model beside it."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_retriever(folder / "model")
    return make_collection(folder)


def embedding(world: Collection, out: Path, **flags: object) -> list[str]:
    return words_of(
        {
            "output_dir": out,
            "model_name_or_path": world.folder / "model",
            "per_device_eval_batch_size": 16,
            "corpus_path": world.corpus,
            "doc_template": TITLED,
            "doc_column_names": "id,title,text",
            "q_max_len": 32,
            "p_max_len": 20,
            "fp16": True,
            "dataloader_num_workers": 1,
            "data_cache_dir": world.folder / "cache",
        }
        | flags
    )


def searching(world: Collection, out: Path, run: Path, **flags: object) -> list[str]:
    return words_of(
        {
            "output_dir": out,
            "model_name_or_path": world.folder / "model",
            "per_device_eval_batch_size": 5,
            "query_path": world.queries,
            "query_template": "<text>",
            "query_column_names": "id,text",
            "q_max_len": 8,
            "fp16": True,
            "trec_save_path": run,
            "dataloader_num_workers": 1,
            "data_cache_dir": world.folder / "cache",
        }
        | flags
    )


def words_of(flags: dict[str, object]) -> list[str]:
    words = ["--no_progress"]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def rows_of(run: Path) -> list[tuple[str, str, int, float]]:
    rows = (line.split(" ") for line in run.read_text().splitlines())
    return [(q, d, int(rank), float(score)) for q, _, d, rank, score, _ in rows]


def by_hand(texts: list[str], limit: int) -> torch.Tensor:
    """Embeddings by transformers alone: means of the tokens' states."""
    model, tokenizer = tiny_bert(), retriever_tokenizer()
    ids = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    with torch.no_grad():
        return torch.cat([model(torch.tensor([one])).last_hidden_state.mean(1) for one in ids])


def expected(world: Collection, depth: int) -> list[tuple[str, str, int, float]]:
    corpus = [line.split("\t") for line in world.corpus.read_text().splitlines()]
    queries = [line.split("\t") for line in world.queries.read_text().splitlines()]
    passages = by_hand([f"Title: {title} Text: {text}" for _, title, text in corpus], 20)
    scores = by_hand([text for _, text in queries], 8) @ passages.T
    rows = []
    for (query_id, _), line in zip(queries, scores.tolist(), strict=True):
        best = sorted(zip(line, (row[0] for row in corpus), strict=True), reverse=True)[:depth]
        rows += [(query_id, one, rank, score) for rank, (score, one) in enumerate(best, 1)]
    return rows


def test_a_run_is_what_transformers_alone_gives(
    world: Collection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, run = tmp_path / "index", tmp_path / "new" / "folder" / "train.trec"
    assert build_index.main(embedding(world, out, pooling="mean")) == 0
    assert retrieve.main(searching(world, out, run, retrieve_depth=7)) == 0
    found, wanted = rows_of(run), expected(world, 7)
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in wanted], abs=1e-4)
    assert run.read_text().startswith("7 Q0 ")
    assert read_manifest(out).identity.encoder.template == "Title: {title} Text: {text}"
    assert not (out / "unfinished").exists()
    # The same again is left alone; another model's is refused, and replaced.
    before = (out / "manifest.json").stat().st_mtime_ns
    assert build_index.main(embedding(world, out, pooling="mean")) == 0
    assert (out / "manifest.json").stat().st_mtime_ns == before
    save_tiny_retriever(tmp_path / "other", seed=1)
    other = {"model_name_or_path": tmp_path / "other"}
    assert retrieve.main(searching(world, out, run, **other)) == 2
    assert build_index.main(embedding(world, out, **other)) == 0
    assert retrieve.main(searching(world, out, run, **other)) == 0
    assert len(rows_of(run)) == 12 * 40


def test_options_of_a_search(world: Collection, tmp_path: Path) -> None:
    out = tmp_path / "index"
    objects = [dict(zip(("text_id", "title", "text"), line.split("\t"), strict=True)) for line in
               world.corpus.read_text().splitlines()]  # fmt: skip
    corpus, queries = tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in objects))
    queries.write_text(json.dumps(objects[3]) + "\n" + json.dumps(objects[5]) + "\n")
    plain = {"corpus_path": corpus, "doc_column_names": None, "normalize": True}
    assert build_index.main(embedding(world, out, **plain)) == 0

    def found(**flags: object) -> list[tuple[str, str, int, float]]:
        given = {"query_path": queries, "query_column_names": None, "retrieve_depth": 100}
        assert retrieve.main(searching(world, out, tmp_path / "run", **(given | flags))) == 0
        return rows_of(tmp_path / "run")

    assert read_manifest(out).identity.encoder.pooling == "cls"
    assert len(found()) == 80
    alike = found(encode_query_as_passage=True, retrieve_depth=39, use_split_search=True)
    ids = [one["text_id"] for one in objects]
    assert len(alike) == 78
    first = {query: document for query, document, rank, _ in alike if rank == 1}
    assert first == {ids[3]: ids[3], ids[5]: ids[5]}
    others = found(encode_query_as_passage=True, retrieve_depth=39, remove_identical=True)
    assert len(others) == 78
    assert all(query != document for query, document, *_ in others)
    assert [row[1] for row in others[:38]] == [row[1] for row in alike[1:39]]


def _both(ranks: Ranks, commands: list[tuple[str, list[str]]]) -> None:
    modules: dict[str, tuple[Callable, Callable]] = {
        "build_index": (build_index.build_parser, build_index.build_index),
        "retrieve": (retrieve.build_parser, retrieve.retrieve),
    }
    for name, words in commands:
        parser, job = modules[name]
        job(parser().parse_args(words), ranks)


def test_two_workers_write_the_same_run(world: Collection, tmp_path: Path) -> None:
    runs = [tmp_path / f"{workers}.trec" for workers in (1, 2)]
    for workers, run in enumerate(runs, 1):
        out = tmp_path / f"index{workers}"
        commands = [
            ("build_index", embedding(world, out)),
            ("retrieve", searching(world, out, run, retrieve_depth=9)),
        ]
        if workers == 1:
            _both(Ranks(), commands)
        else:
            run_on_ranks(_both, workers, commands)
    assert runs[0].read_bytes() == runs[1].read_bytes()


def test_t5_by_its_first_decoder_token(world: Collection, tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "t5")
    out, model = tmp_path / "index", {"model_name_or_path": tmp_path / "t5"}
    assert build_index.main(embedding(world, out, **model)) == 0
    assert retrieve.main(searching(world, out, tmp_path / "run", **model)) == 0
    first = rows_of(tmp_path / "run")
    assert build_index.main(embedding(world, out, encoder_only=True, pooling="mean", **model)) == 0
    assert read_manifest(out).identity.encoder.pooling == "mean"
    assert retrieve.main(searching(world, out, tmp_path / "run", **model)) == 0
    assert len(first) == len(rows_of(tmp_path / "run")) == 12 * 40
    assert first != rows_of(tmp_path / "run")


def test_a_folder_of_sentence_transformers_is_used_as_it_says(
    world: Collection, tmp_path: Path
) -> None:
    folder = save_tiny_retriever(tmp_path / "model")
    tower = TextEncoder(tiny_bert(), pooling="mean", normalize=True)
    describe_for_sentence_transformers(tower, folder)
    flags = {"model_name_or_path": folder}
    assert build_index.main(embedding(world, tmp_path / "index", **flags)) == 0
    made_by = read_manifest(tmp_path / "index").identity.encoder
    assert (made_by.pooling, made_by.normalize) == ("mean", True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"corpus_path": "gone.tsv"}, "gone.tsv: No such file or directory (--corpus_path)"),
        ({"doc_column_names": None}, "needs --doc_column_names"),
        ({"doc_column_names": "a,title,text"}, "must name 'id' (--id_key_name)"),
        ({"doc_column_names": "id,title,body"}, "must name 'text', which the template has"),
        ({"p_max_len": 2}, "--p_max_len (2) must be above 2"),
        ({"model_name_or_path": "gone"}, "retriever 'gone' cannot be loaded"),
    ],
)
def test_mistakes_are_one_line(
    world: Collection,
    tmp_path: Path,
    flags: dict[str, object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert build_index.main(embedding(world, tmp_path / "out", **flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_flags_without_effect_are_told_of(
    world: Collection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = embedding(world, tmp_path / "out", corpus_path="gone.tsv", max_inmem_docs=5)
    build_index.main(words)
    said = capfd.readouterr().err
    assert "--max_inmem_docs has no effect: " in said
    assert "--dataloader_num_workers has no effect: " in said
    with pytest.raises(SystemExit):
        build_index.main([*words, "--no_such_flag"])
