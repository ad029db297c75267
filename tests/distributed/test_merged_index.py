"""An index merged from parts that tasks embedded, searched by 1, 2 and 3 workers."""

from __future__ import annotations

from pathlib import Path

from gazetteer.embed_shards import main
from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, results, run_evaluate, run_train
from tests.support.tiny_data import passages, write_jsonl

SIZES = (11, 1, 28)


def search_and_train(ranks: Ranks, world: Path, flags: dict[str, object]) -> None:
    name = f"workers{ranks.world_size}"
    run_evaluate(world, ranks, name=name, retrieve_only=True, write_results=True, **flags)
    run_train(world, ranks, name=f"train{name}", total_steps=1, global_batch_size=6, **flags)


def test_any_number_of_workers_finds_the_same(tmp_path: Path) -> None:
    world, rows, files = make_world(tmp_path / "world"), passages(sum(SIZES)), []
    for number, size in enumerate(SIZES):
        start = sum(SIZES[:number])
        files.append(str(write_jsonl(world / f"part{number}.jsonl", rows[start : start + size])))
    words = ["--passages", *files, "--output", str(world / "out"), "--no_progress"]
    words += ["--retriever_model_path", str(world / "retriever"), "--text_maxlength", "64"]
    words += ["--cache_dir", str(world / "cache")]
    for shard in ("1", "0"):
        assert main([*words, "--shard", shard, "--n_shards", "2"]) == 0
    assert main([*words, "--merge"]) == 0

    flags = {"load_index_path": world / "out" / "index"}
    found, losses = [], []
    for workers in (1, 2, 3):
        run_on_ranks(search_and_train, workers, world, flags)
        name = f"workers{workers}"
        lines = results(world, name, "dev-step-0.jsonl")
        found.append([[passage["id"] for passage in line["passages"]] for line in lines])
        losses.append(logged(world, f"train{name}")[1]["loss/reader_loss"])
    assert found[0] == found[1] == found[2]
    assert max(losses) - min(losses) < 1e-5
