"""Whole runs over a compressed index."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from gazetteer.errors import OptionError
from gazetteer.index import compressor, faiss_codec, read_manifest
from gazetteer.index.mapped import mapped_matrix
from gazetteer.training import loop
from tests.support.runs import logged, make_world, results, run_evaluate, run_train

pytest.importorskip("faiss")

COMPRESSED = {"index_mode": "faiss", "faiss_index_type": "ivfpq", "faiss_code_size": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), corpus=300)


def passages_of(world: Path, name: str) -> list[list[str]]:
    records = results(world, name, "dev-step-0.jsonl")
    return [[passage["id"] for passage in record["passages"]] for record in records]


def test_flat_codes_and_rescored_ones_retrieve_what_the_exact_index_does(world: Path) -> None:
    run_evaluate(world, name="exact", write_results=True)
    for kind in ("flat", "sq", "pq", "pqfs", "ivfpq"):
        flags = {"index_mode": "faiss", "faiss_index_type": kind, "rescore": 300}
        run_evaluate(world, name=kind, write_results=True, **flags)
        assert passages_of(world, kind) == passages_of(world, "exact")


def test_vectors_are_kept_in_the_cache_and_go_with_the_run(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def noted(folder: Path, rows: int, dim: int) -> Tensor:
        folders.append(folder)
        return mapped_matrix(folder, rows, dim)

    monkeypatch.setattr(compressor, "mapped_matrix", noted)
    run_evaluate(world, name="mapped", **COMPRESSED)
    assert folders == [world / "cache" / "vectors"]
    assert list(folders[0].iterdir()) == []


def test_a_saved_index_is_loaded_without_training_its_quantiser(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_evaluate(world, name="saved", write_results=True, save_index_path=world / "i", **COMPRESSED)
    manifest = read_manifest(world / "i")
    assert str(manifest.codec and manifest.codec.codec) == "ivfpq, 8 bytes, 17 lists"
    with monkeypatch.context() as patch:
        patch.setattr(faiss_codec, "train_codec", None)
        run_evaluate(
            world, name="loaded", write_results=True, load_index_path=world / "i", **COMPRESSED
        )
    assert passages_of(world, "loaded") == passages_of(world, "saved")
    # Searched exactly, or with another code, the same vectors serve.
    run_evaluate(world, name="decoded", write_results=True, load_index_path=world / "i")
    run_evaluate(world, name="exact-again", write_results=True)
    assert passages_of(world, "decoded") == passages_of(world, "exact-again")
    other = COMPRESSED | {"faiss_index_type": "pqfs"}
    run_evaluate(world, name="recoded", load_index_path=world / "i", **other)
    log = (world / "experiments" / "recoded" / "run.log").read_text()
    assert "holds ivfpq, 8 bytes, 17 lists; making pqfs, 8 bytes from its vectors" in log


@pytest.mark.parametrize("mode", ["blocking", "interleaved"])
def test_killed_and_resumed_over_a_compressed_index_equals_uninterrupted(
    world: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = COMPRESSED | {
        "train_retriever": True,
        "total_steps": 6,
        "refresh_index": "2",
        "refresh_mode": mode,
        "refresh_steps": 2,
        "save_freq": 3,
        "lr_retriever": 1e-2,
    }
    run_train(world, name=f"{mode}-whole", **flags)
    original = loop._micro_batch

    def dies(run, *args, **kwargs) -> None:
        if run.state.position.micro_batches == 4:
            raise RuntimeError("killed")
        original(run, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_micro_batch", dies)
        with pytest.raises(RuntimeError, match="killed"):
            run_train(world, name=f"{mode}-resumed", **flags)
    run_train(world, name=f"{mode}-resumed", **flags)
    whole, resumed = (logged(world, f"{mode}-{end}") for end in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() == set(range(1, 7))
    losses = [name for name in whole[6] if "loss" in name]
    assert losses
    for step in whole:
        assert [whole[step][n] for n in losses] == [resumed[step][n] for n in losses]


def test_a_code_size_that_does_not_suit_the_retriever_is_an_error_before_anything_is_embedded(
    world: Path,
) -> None:
    with pytest.raises(OptionError, match=r"^--faiss_code_size \(7\) must suit .* of dimension"):
        run_evaluate(world, name="unsuited", **(COMPRESSED | {"faiss_code_size": 7}))
