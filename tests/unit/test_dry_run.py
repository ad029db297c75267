import json
import re
import shutil
import socket
from pathlib import Path

import pytest
from transformers import GPT2Config

from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dry_run import plan
from gazetteer.errors import (
    CheckpointError,
    DataError,
    GazetteerError,
    IndexFileError,
    LaunchError,
    OptionError,
)
from gazetteer.records import Ranks
from tests.support.runs import make_world, options_of, run_evaluate
from tests.support.saved_indexes import save_embedded
from tests.support.tiny_data import passages, write_jsonl
from tests.support.tiny_models import save_tiny_retriever


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def lines(world: Path, program: str = "train", ranks: Ranks | None = None, **flags) -> list[str]:
    return list(plan(options_of(world, program, **flags), ranks or Ranks(), measure_training))


def test_the_plan_says_what_the_run_has_and_needs(world: Path) -> None:
    text = "\n".join(lines(world, train_retriever=True, save_index_path=world / "index"))
    assert "--train_data: 24 examples" in text
    assert "--eval_data: 7 examples" in text
    assert "passages: about 40" in text
    assert "reader: 0.0 M weights" in text or "reader: 0.1 M weights" in text
    assert "memory per worker" in text and "disk for --save_index_path" in text


def test_a_compressor_is_counted_and_its_model_looked_for(world: Path, tmp_path: Path) -> None:
    flags = {"compressor": "encoder", "compressor_model_path": world / "retriever"}
    text = "\n".join(lines(world, **flags))
    assert re.search(r"compressor: 0\.[01] M weights", text)
    assert "compressor:" not in "\n".join(lines(world))
    with pytest.raises(OptionError, match=r"--compressor_layers \(9\) must be at most 2"):
        lines(world, compressor="n_layers", compressor_layers=9)
    shutil.copytree(world / "retriever", tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"compressor '.*half' cannot be loaded: no weights"):
        lines(world, **flags | {"compressor_model_path": tmp_path / "half"})


def test_a_compressed_index_takes_memory_for_its_codes_and_disk_for_its_vectors(
    world: Path,
) -> None:
    pytest.importorskip("faiss")
    flags = {"index_mode": "faiss", "faiss_index_type": "ivfsq", "cache_dir": world / "cache"}
    text = "\n".join(lines(world, **flags))
    assert "vectors: 0.00 GiB per worker on the disk of --cache_dir" in text
    with pytest.raises(OptionError, match=r"--faiss_code_size \(7\) must suit"):
        lines(world, **flags, faiss_code_size=7)


def test_nothing_is_written(world: Path) -> None:
    before = sorted(world.rglob("*"))
    lines(world, save_index_path=world / "index", name="never")
    assert sorted(world.rglob("*")) == before


def test_a_run_without_retrieval_needs_no_retriever(world: Path) -> None:
    text = "\n".join(lines(world, "evaluate", closed_book=True, passages=None))
    assert "retriever" not in text and "passages" not in text


def test_a_long_corpus_is_estimated_from_its_first_lines(world: Path, monkeypatch) -> None:
    monkeypatch.setattr("gazetteer.dry_run.PROBED_LINES", 10)
    line = next(line for line in lines(world) if line.startswith("passages"))
    assert 30 <= int(line.removeprefix("passages: about ")) <= 50
    assert "passages: about 7" in lines(world, max_passages=7)


def test_what_would_stop_the_run_stops_the_plan(world: Path, tmp_path: Path, monkeypatch) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: field 'question'"):
        lines(world, train_data=bad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        lines(world, reader_model_type=tmp_path / "empty")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=f"--main_port \\({port}\\) is not free"):
            lines(world, main_port=port)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(GazetteerError, match="are free"):
        lines(world, save_index_path=tmp_path / "index")


def test_the_plan_says_how_much_of_the_passages_was_checked(world: Path) -> None:
    assert "--passages: first 1000 lines of each file checked" in lines(world)


@pytest.mark.parametrize(
    ("model", "files", "part"),
    [
        ("reader", "*.safetensors", "weights"),
        ("reader", "tokenizer.json", "tokenizer"),
        ("retriever", "*.safetensors", "weights"),
        ("retriever", "tokenizer.json", "tokenizer"),
    ],
)
def test_a_model_without_all_its_files_is_refused(
    world: Path, tmp_path: Path, model: str, files: str, part: str
) -> None:
    flag = {"reader": "reader_model_type", "retriever": "retriever_model_path"}[model]
    folder = tmp_path / "model"
    shutil.copytree(world / model, folder)
    assert lines(world, **{flag: folder})
    for pattern in (files, "vocab.txt", "spiece.model") if part == "tokenizer" else (files,):
        for path in folder.glob(pattern):
            path.unlink()
    with pytest.raises(CheckpointError, match=f"{model} '{folder}' cannot be loaded: no {part}"):
        lines(world, **{flag: folder})


def test_a_model_of_another_kind_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"is a bert, expected a t5 or mt5, or a decoder-only model \(--reader_model_type\)",
    ):
        lines(world, reader_model_type=world / "retriever")
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a gpt2, .* \(--retriever_model_path\)"):
        lines(world, retriever_model_path=tmp_path)


def test_a_t5_is_a_retriever_and_its_head_measures_the_embeddings(world: Path) -> None:
    flags = {"retriever_model_path": world / "reader"}
    whole, encoder = lines(world, **flags), lines(world, **flags, encoder_only=True)
    sizes = [next(x for x in found if x.startswith("retriever: ")) for found in (whole, encoder)]
    assert sizes[0] != sizes[1]
    with pytest.raises(OptionError, match=r"--projection_in_dim \(9\) must be the model's 32"):
        lines(world, **flags, add_linear_head=True, projection_in_dim=9)


def test_a_saved_index_must_fit_retriever_and_passages(world: Path, tmp_path: Path) -> None:
    index = save_embedded(tmp_path / "index", passages(40), world / "retriever")
    loaded = {"load_index_path": index, "cache_dir": tmp_path / "fresh"}
    assert "passages: about 40" in lines(world, **loaded)
    assert "passages: about 40" in lines(world, **loaded, passages=None)
    fewer = write_jsonl(tmp_path / "fewer.jsonl", passages(39))
    with pytest.raises(IndexFileError, match="holds 40 vectors, in use are 39 passages"):
        lines(world, **loaded, passages=fewer)

    other = write_jsonl(tmp_path / "other.jsonl", passages(40)[::-1])
    flags = loaded | {"passages": other}
    assert lines(world, **flags), "nothing is known of its fingerprint before it was built"
    run_evaluate(world, passages=other, cache_dir=tmp_path / "fresh", retrieve_only=True)
    with pytest.raises(IndexFileError, match="made from other passages"):
        lines(world, **flags)
    assert lines(world, **flags, allow_stale_index=True)

    shutil.rmtree(index / "passages")
    with pytest.raises(IndexFileError, match="no passages here"):
        lines(world, **loaded, passages=None)
    config = tmp_path / "wider" / "config.json"
    shutil.copytree(world / "retriever", config.parent)
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"hidden_size": 2 * values["hidden_size"]}))
    with pytest.raises(IndexFileError, match="the retriever makes"):
        lines(world, **loaded, retriever_model_path=config.parent)


def test_processes_set_aside_are_counted_and_their_disk_is_planned(world: Path) -> None:
    flags = {"train_retriever": True, "refresh_mode": "dedicated", "refresh_index": "5"}
    text = "\n".join(lines(world, ranks=Ranks(world_size=3, set_aside=2), **flags))
    assert "workers: 3 on cpu, 2 more only embed" in text
    assert re.search(r"disk for .*/refresh: 0\.00 GiB, [\d.]+ GiB are free", text)


def test_a_teacher_is_opened_and_must_have_the_layers_that_are_compared(
    world: Path, tmp_path: Path
) -> None:
    teacher = save_tiny_retriever(tmp_path / "teacher", seed=3)
    line = {"query": "who", "positives": [{"text": "a"}], "negatives": [{"text": "b"}]}
    path = write_jsonl(tmp_path / "lines.jsonl", [line])
    flags = {"task": "dense", "train_data": path, "eval_data": path}
    flags |= {"teacher": teacher, "distill_layer_num": 2}
    for kind in ("de", "cross"):
        assert any(
            each.startswith("teacher: 0.") for each in lines(world, teacher_kind=kind, **flags)
        )
    with pytest.raises(OptionError, match=r"--distill_layer_num \(9\) must be at most 2"):
        lines(world, **flags | {"distill_layer_num": 9})
    (teacher / "model.safetensors").unlink()
    for kind in ("de", "colbert"):
        with pytest.raises(CheckpointError, match=r"teacher '.*' cannot be loaded: no weights"):
            lines(world, teacher_kind=kind, **flags)
