"""Jobs of an array: in any order, again, killed in the middle; what comes out is one index."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gazetteer.embed_shards import Task, main
from gazetteer.errors import OptionError
from gazetteer.index import read_manifest
from gazetteer.indexing import embedding
from tests.support.runs import make_world, run_evaluate
from tests.support.saved_indexes import content
from tests.support.tiny_data import passages, write_jsonl
from tests.support.tiny_models import save_tiny_retriever

FILES, EACH = 3, 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("world"), corpus=FILES * EACH)
    rows = passages(FILES * EACH)
    for number in range(FILES):
        write_jsonl(world / f"part{number}.jsonl", rows[number * EACH : (number + 1) * EACH])
    return world


def embed(world: Path, output: Path, *words: str, retriever: Path | None = None) -> int:
    files = [str(world / f"part{number}.jsonl") for number in range(FILES)]
    return main(
        [
            *("--passages", *files, "--output", str(output), "--no_progress"),
            *("--retriever_model_path", str(retriever or world / "retriever")),
            *("--text_maxlength", "64", "--cache_dir", str(output.parent / "cache"), *words),
        ]
    )


def test_tasks_in_any_order_twice_make_the_bytes_that_one_makes(
    world: Path, tmp_path: Path
) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert embed(world, alone) == 0
    for shard in (1, 0, 1, 0):
        assert embed(world, many, "--shard", str(shard), "--n_shards", "2") == 0
    assert content(many) == content(alone)
    for output in (alone, many, many):
        assert embed(world, output, "--merge") == 0
    assert content(many) == content(alone)
    index = many / "index"
    assert read_manifest(index).count == FILES * EACH
    # As the trainer finds it: no --allow_stale_index, with the whole corpus as --passages.
    flags = {"retrieve_only": True, "load_index_path": index, "write_results": True}
    assert run_evaluate(world, name="merged", **flags) == 0
    assert run_evaluate(world, name="whole", retrieve_only=True, write_results=True) == 0
    files = (world / "experiments" / name / "dev-step-0.jsonl" for name in ("merged", "whole"))
    merged, whole = (file.read_text() for file in files)
    found = [
        [[passage["id"] for passage in json.loads(line)["passages"]] for line in text.splitlines()]
        for text in (merged, whole)
    ]
    assert found[0] == found[1]


def test_what_is_missing_or_made_from_something_else_is_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert embed(world, output, "--shard", "0", "--n_shards", "2") == 0
    assert embed(world, output, "--merge", "--shard", "0", "--n_shards", "2") == 2
    said = capsys.readouterr().err
    assert "no index yet of 1 of 3 files" in said and "run --shard 1 of --n_shards 2" in said
    other = save_tiny_retriever(tmp_path / "other", seed=5)
    before = content(output)
    assert embed(world, output, "--shard", "0", "--n_shards", "2", retriever=other) == 2
    said = capsys.readouterr().err
    made_by = read_manifest(output / "parts" / "000000").identity.encoder.weights
    assert f"encoder weights: index has {made_by}, in use is " in said
    assert content(output) == before
    damaged = next((output / "parts" / "000000").glob("embeddings.*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    assert embed(world, output, "--shard", "0", "--n_shards", "2") == 2
    assert damaged.name in capsys.readouterr().err


def _embed_and_die(world: Path, output: Path, after: int) -> None:
    """A task that is killed when it has embedded so many pieces."""
    original: Callable[..., object] = embedding.embed
    calls = 0

    def dying(*words: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*words)

    embedding.embed = dying  # type: ignore[assignment]
    embed(world, output)


def test_a_killed_task_goes_on_where_it_was(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "CHUNK_ROWS", 8)
    monkeypatch.setattr(embedding, "KEEP_SECONDS", 0.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert embed(world, whole) == 0
    # Four pieces a file: it dies in the second one.
    worker = multiprocessing.get_context("fork").Process(
        target=_embed_and_die, args=(world, killed, 6)
    )
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert [path.name for path in (killed / "parts").glob("[0-9]*")] == ["000000"]

    counted = 0
    original = embedding.embed

    def counting(*words: object) -> object:
        nonlocal counted
        counted += 1
        return original(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "embed", counting)
    assert embed(world, killed) == 0
    assert counted == 12 - 6
    assert content(killed / "parts") == content(whole / "parts")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Task(0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "9"}, Task(7, 9)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_MIN": "3",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            Task(3, 4),
        ),
    ],
)
def test_the_task_is_what_slurm_says(environment: dict[str, str], expected: Task) -> None:
    assert Task.of(None, None, environment) == expected
    assert Task.of(1, 2, environment) == Task(1, 2)
    for number, count in ((2, 2), (-1, 2), (0, 0), (1, None)):
        with pytest.raises(OptionError, match="--shard"):
            Task.of(number, count, environment)
