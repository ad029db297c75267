"""`python -m gazetteer.index`: every command through `main`, on tiny indexes."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.index import (
    EncoderIdentity,
    IndexIdentity,
    ShardedIndex,
    load_rows,
    read_manifest,
    save_index,
)
from gazetteer.index.__main__ import main
from gazetteer.index.codec import CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.storage import save_rows
from gazetteer.records import Ranks
from tests.support import tiny_data

DIM, COUNT = 4, 11
ENCODER = EncoderIdentity(
    weights="weights-1",
    tokenizer="tokenizer-1",
    template="{title} {text}",
    pooling="mean",
    normalize=False,
    max_tokens=64,
)


def vectors(count: int = COUNT, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIM, generator=generator).half().float()


def save(folder: Path, passages: list[dict[str, str]], **changes: Any) -> Path:
    """An index with its passages; vectors of the seed given."""
    settings = {"encoder": ENCODER, "step": 20, "seed": 0, "files": 3} | changes
    store = write_passages(passages, folder / "passages")
    save_rows(
        vectors(len(passages), settings["seed"]).chunk(settings["files"]),
        folder,
        identity=IndexIdentity(corpus=store.fingerprint, encoder=settings["encoder"]),
        step=settings["step"],
        embedding_dim=DIM,
    )
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "saved", tiny_data.passages(COUNT))


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    folder = tmp_path / "atlas"
    folder.mkdir()
    passages = tiny_data.passages(COUNT)
    for passage in passages:
        if "section" in passage:
            passage["title"] += f": {passage['section']}"
    for number, rows in enumerate([slice(0, 6), slice(6, COUNT)]):
        torch.save(vectors().half().T[:, rows], folder / f"embeddings.{number}.pt")
        (folder / f"passages.{number}.pt").write_bytes(pickle.dumps(passages[rows]))
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def rows_of(folder: Path) -> Tensor:
    manifest = read_manifest(folder)
    return load_rows(folder, manifest, range(manifest.count))


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that failed said, which must be one line."""
    said = capsys.readouterr().err
    assert said.startswith("gazetteer.index: error: ")
    assert said.count("\n") == 1
    return said.removeprefix("gazetteer.index: error: ").rstrip()


def test_info_tells_what_the_manifest_says(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", saved) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{saved}\n")
    facts = dict(line.strip().split("  ", 1) for line in said.splitlines()[1:])
    facts = {name: value.strip() for name, value in facts.items()}
    assert (facts["rows"], facts["dim"], facts["dtype"]) == ("11", "4", "float32")
    assert facts["corpus"] == PassageStore(saved / "passages").fingerprint
    assert (facts["encoder weights"], facts["encoder max_tokens"]) == ("weights-1", "64")


def test_info_as_json_holds_every_fact(
    saved: Path, atlas: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(saved / "passages")
    assert run("info", saved, atlas, "--json") == 0
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    manifest = read_manifest(saved)
    assert ours == {
        "folder": str(saved),
        "format": "gazetteer",
        "rows": COUNT,
        "dim": DIM,
        "dtype": "float32",
        "step": 20,
        "codes": None,
        "files": 3,
        "bytes": sum((saved / file.name).stat().st_size for file in manifest.files),
        "has_passages": False,
        "corpus": manifest.identity.corpus,
        "encoder": {
            "weights": "weights-1",
            "tokenizer": "tokenizer-1",
            "template": "{title} {text}",
            "pooling": "mean",
            "normalize": False,
            "max_tokens": 64,
        },
    }
    on_disk = sum(path.stat().st_size for path in atlas.glob("embeddings.*"))
    assert theirs == {
        "folder": str(atlas),
        "format": "atlas",
        "rows": COUNT,
        "dim": DIM,
        "dtype": "float16",
        "files": 2,
        "bytes": COUNT * DIM * 2,
        "bytes_on_disk": on_disk,
        "has_passages": True,
    }


def test_no_index_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["info", tmp_path],
        ["convert", tmp_path, "--output", tmp_path / "out", "--no_progress"],
        ["merge", tmp_path, "--output", tmp_path / "out", "--no_progress"],
    ):
        assert run(*words) == 2
        assert "no saved index here (manifest.json is missing)" in failure(capsys)
    assert run("verify", tmp_path / "nowhere", "--no_progress") == 2
    assert "no saved index here" in capsys.readouterr().out


def test_a_sound_index_verifies_with_and_without_passages(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", saved, "--no_progress") == 0
    shutil.rmtree(saved / "passages")
    assert run("verify", saved, "--no_progress") == 0
    assert capsys.readouterr().out == f"{saved}: sound\n" * 2


def test_verify_draws_a_bar_that_ends_full(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", saved) == 0
    assert "verifying" in capsys.readouterr().err


def test_every_flipped_byte_of_every_file_is_named(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    assert len(files) == 3 + 1 + 3
    for path in files:
        content = path.read_bytes()
        for place in {0, 1, 8, 40, len(content) // 3, len(content) // 2, len(content) - 2}:
            for flip in (0x01, 0x10, 0x80, 0xFF):
                damaged = bytearray(content)
                damaged[place] ^= flip
                path.write_bytes(damaged)
                assert run("verify", saved, "--no_progress") == 2, (path, place, flip)
                lines = capsys.readouterr().out.splitlines()
                assert len(lines) == 1
                is_list = path == saved / "passages" / "manifest.json"
                expected = str(path.parent) if path.parent != saved else str(path)
                assert lines[0].startswith(f"{expected}: ")
                assert is_list or path.name in lines[0]
        path.write_bytes(content)
    assert run("verify", saved, "--no_progress") == 0


def test_verify_names_every_damaged_file(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (saved / file.name for file in read_manifest(saved).files)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    third.write_bytes(third.read_bytes()[:-1] + b"\0")
    (saved / "passages" / "passages.json").unlink()
    assert run("verify", saved, "--no_progress") == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        str(path) for path in (first, second, third, saved / "passages")
    ]
    assert "missing, though" in lines[0]
    assert "bytes, the manifest says" in lines[1]
    assert "SHA-256" in lines[2]
    assert "passages.json is missing" in lines[3]


def test_verify_compares_passages_with_the_index(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save(tmp_path / "other", tiny_data.passages(COUNT, seed=9))
    shutil.rmtree(saved / "passages")
    shutil.copytree(other / "passages", saved / "passages")
    assert run("verify", saved, other, "--no_progress") == 2
    lines = capsys.readouterr().out.splitlines()
    assert "other passages than were embedded" in lines[0]
    for folder in (saved, other):
        assert read_manifest(folder).identity.corpus in lines[0]
    assert lines[1:] == [f"{other}: sound"]


@pytest.mark.parametrize(("dtype", "expected"), [("keep", "float16"), ("fp32", "float32")])
def test_atlas_to_ours_and_back(
    dtype: str, expected: str, atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, back = tmp_path / "deep" / "ours", tmp_path / "back"
    words = ["--files", 4, "--dtype", dtype, "--step", 7, "--no_progress"]
    assert run("convert", atlas, "--output", ours, *words) == 0
    assert torch.equal(rows_of(ours), vectors())
    manifest = read_manifest(ours)
    assert (manifest.step, len(manifest.files)) == (7, 4)
    encoder = manifest.identity.encoder
    assert {encoder.weights, encoder.tokenizer, encoder.template, encoder.pooling} == {"unknown"}
    direct = write_passages(tiny_data.passages(COUNT), tmp_path / "direct")
    assert manifest.identity.corpus == direct.fingerprint
    assert PassageStore(ours / "passages").fingerprint == direct.fingerprint
    assert run("verify", ours, "--no_progress") == 0
    assert run("info", ours, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["dtype"] == expected

    words = ["--to", "atlas", "--files", 2, "--no_progress"]
    assert run("convert", ours, "--output", back, *words) == 0
    assert sorted(path.name for path in back.iterdir()) == [
        *(f"embeddings.{number}.pt" for number in range(2)),
        *(f"passages.{number}.pt" for number in range(2)),
    ]
    parts = [torch.load(back / f"embeddings.{n}.pt", weights_only=True) for n in range(2)]
    assert torch.equal(torch.cat(parts, dim=1).T.float(), vectors())


def test_an_encoder_named_at_the_import_is_recorded(
    atlas: Path, tmp_path: Path, retriever_folder: Path
) -> None:
    words = ["--encoder_model", retriever_folder, "--text_maxlength", 900, "--no_progress"]
    assert run("convert", atlas, "--output", tmp_path / "ours", *words) == 0
    encoder = read_manifest(tmp_path / "ours").identity.encoder
    assert (encoder.template, encoder.pooling, encoder.normalize, encoder.max_tokens) == (
        "{title} {text}", "mean", False, 512,
    )  # fmt: skip
    assert len(encoder.weights) == len(encoder.tokenizer) == 64


@pytest.mark.parametrize("files", [1, 5, 20])
def test_an_index_in_other_files_is_the_same_index(
    files: int, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert run("convert", saved, "--output", again, "--files", files, "--no_progress") == 0
    before, after = read_manifest(saved), read_manifest(again)
    assert len(after.files) == files
    assert replace(after, files=()) == replace(before, files=())
    assert torch.equal(rows_of(again), rows_of(saved))
    assert run("verify", again, "--no_progress") == 0
    shutil.rmtree(saved / "passages")
    alone = tmp_path / "alone"
    assert run("convert", saved, "--output", alone, "--dtype", "fp16", "--no_progress") == 0
    assert torch.equal(rows_of(alone), rows_of(saved))
    assert not (alone / "passages").exists()


def test_the_codes_of_a_compressed_index_are_kept_and_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    count, dim = 300, 8
    rows = torch.randn(count, dim)

    def compressor() -> Compressor:
        return Compressor(
            CodecSettings(kind="ivfpq", code_size=4, nlist=2, nprobe=2),
            count=count,
            dim=dim,
            ranks=Ranks(),
            folder=tmp_path / "vectors",
            show_progress=False,
        )

    index = ShardedIndex(count, Ranks(), rows, build_shard=compressor())
    identity = IndexIdentity(corpus="c", encoder=ENCODER)
    before, after = tmp_path / "before", tmp_path / "after"
    save_index(index, before, identity=identity, step=3, files=2, ranks=Ranks())
    assert run("convert", before, "--output", after, "--files", 5, "--no_progress") == 0
    manifest = read_manifest(after)
    assert manifest.codec == read_manifest(before).codec is not None
    assert len(manifest.files) == 5
    again = ShardedIndex(count, Ranks(), build_shard=compressor())
    again.adopt(compressor().load(after, manifest))
    assert torch.equal(again.search(rows[:9], 7).rows, index.search(rows[:9], 7).rows)
    assert run("verify", before, after, "--no_progress") == 0
    assert run("info", after) == 0
    assert "ivfpq" in capsys.readouterr().out
    for file in manifest.codec.files:
        content = (after / file.name).read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            damaged = bytearray(content)
            damaged[place] ^= 1
            (after / file.name).unlink()
            (after / file.name).write_bytes(damaged)
            assert run("verify", after, "--no_progress") == 2
            assert capsys.readouterr().out.startswith(f"{after / file.name}: SHA-256 ")
        (after / file.name).write_bytes(content)
    assert run("verify", before, after, "--no_progress") == 0


def test_what_would_have_no_effect_is_refused(
    saved: Path, atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in [
        ([atlas, "--to", "atlas"], "--to atlas: "),
        ([saved, "--to", "atlas", "--dtype", "fp32"], "--dtype fp32: Atlas's files are fp16"),
        ([saved, "--encoder_model", "x"], "--encoder_model: "),
        ([saved, "--step", 0], "--step: "),
        ([saved, "--retriever_normalize", "--text_maxlength", 9], "--retriever_normalize, --te"),
        ([atlas, "--retriever_pooling", "cls"], "--retriever_pooling: must come with --encoder_m"),
    ]:
        assert run("convert", *words, "--output", tmp_path / "out", "--no_progress") == 2
        assert failure(capsys).startswith(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title", "--retriever_format ({title) must be a format string: expected '}'"),
        ("{}", "--retriever_format ({}) must be a format string: {} is not a field's name"),
        ("{query} {text}", "--retriever_format ({query} {text}) must not use {query}"),
        ("{url}", "--retriever_format ({url}) names the field 'url', which the first passage"),
    ],
)
def test_a_format_that_cannot_have_made_an_index_is_refused(
    template: str,
    message: str,
    atlas: Path,
    retriever_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(tmp_path.iterdir())
    words = ["--encoder_model", retriever_folder, "--retriever_format", template]
    assert run("convert", atlas, *words, "--output", tmp_path / "out", "--no_progress") == 2
    assert failure(capsys).startswith(message)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_no_index(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved / "manifest.json"
    expected = f"{file}: found a file, expected the folder of an index"
    for words in (["info"], ["convert"], ["merge"]):
        more = [] if words == ["info"] else ["--output", tmp_path / "out", "--no_progress"]
        assert run(*words, file, *more) == 2
        assert failure(capsys) == expected
    assert run("verify", file, "--no_progress") == 2
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_large_number_does_not_become_infinite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = IndexIdentity(corpus="c", encoder=ENCODER)
    large = torch.tensor([[1.0], [1e6]])
    save_rows([large], tmp_path / "large", identity=identity, step=0, embedding_dim=1)
    words = ["--output", tmp_path / "out", "--dtype", "fp16", "--no_progress"]
    assert run("convert", tmp_path / "large", *words) == 2
    assert "the vector of row 1 has numbers that torch.float16" in failure(capsys)


def test_merged_indexes_are_one_in_the_order_given(tmp_path: Path) -> None:
    passages = tiny_data.passages(COUNT + 3)
    first = save(tmp_path / "a", passages[:COUNT])
    second = save(tmp_path / "b", passages[COUNT:], seed=1, step=40, files=1)
    merged = tmp_path / "merged"
    words = ["--output", merged, "--files", 2, "--no_progress"]
    assert run("merge", first, second, *words) == 0
    assert torch.equal(rows_of(merged), torch.cat([rows_of(first), rows_of(second)]))
    manifest = read_manifest(merged)
    whole = write_passages(passages, tmp_path / "whole")
    assert manifest.identity == IndexIdentity(corpus=whole.fingerprint, encoder=ENCODER)
    assert (manifest.step, len(manifest.files)) == (40, 2)
    assert run("verify", merged, "--no_progress") == 0
    turned = tmp_path / "turned"
    assert run("merge", second, first, "--output", turned, "--no_progress") == 0
    assert torch.equal(rows_of(turned), torch.cat([rows_of(second), rows_of(first)]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("weights", "weights-2"), ("template", "{text}"), ("normalize", True), ("max_tokens", 65)],
)
def test_indexes_of_different_encoders_are_not_merged(
    field: str, value: Any, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passages = [{"id": "x", "text": "t"}]
    other = save(tmp_path / "b", passages, encoder=replace(ENCODER, **{field: value}))
    assert run("merge", saved, other, "--output", tmp_path / "merged", "--no_progress") == 2
    mine = getattr(ENCODER, field)
    expected = f"made by another encoder than {saved} ({field}: {value}, the other has {mine})"
    assert failure(capsys) == f"{other}: {expected}"
    assert not (tmp_path / "merged").exists()


def test_a_passage_in_two_indexes_is_named(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    between = save(tmp_path / "b", [{"id": "", "text": "no id"}])
    last = save(tmp_path / "c", [{"id": "", "text": "none"}, {"id": "p7", "text": "t"}])
    words = ["--output", tmp_path / "merged", "--no_progress"]
    assert run("merge", saved, between, last, *words) == 2
    assert failure(capsys) == f"{last}: passage 'p7' is in {saved} too"


def break_vectors(saved: Path) -> None:
    path = saved / read_manifest(saved).files[2].name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def break_passages(saved: Path) -> None:
    path = saved / "passages" / "passages.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize("damage", [break_vectors, break_passages])
@pytest.mark.parametrize("to", ["gazetteer", "atlas", "merge"])
def test_damage_is_not_copied(
    damage: Callable[[Path], None],
    to: str,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(saved)
    before = sorted(tmp_path.iterdir())
    words = ["--output", tmp_path / "out", "--no_progress"]
    command = ["merge", saved] if to == "merge" else ["convert", saved, "--to", to]
    assert run(*command, *words) == 2
    assert "SHA-256" in failure(capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_in_the_middle_leaves_nothing(
    atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (atlas / "passages.1.pt").write_bytes(pickle.dumps([{"text": "alone"}]))
    before = sorted(tmp_path.iterdir())
    assert run("convert", atlas, "--output", tmp_path / "out", "--no_progress") == 2
    assert failure(capsys).endswith("1 passages, embeddings.1.pt has 5 embeddings")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    for command in (["convert", saved], ["convert", saved, "--to", "atlas"], ["merge", saved]):
        assert run(*command, "--output", tmp_path / "out", "--no_progress") == 2
        assert (
            failure(capsys) == f"{tmp_path}/out: is there already; name another folder (--output)"
        )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        [], ["info"], ["convert", "x"], ["merge", "x"], ["convert", "x", "--files", "0"],
        ["convert", "x", "--output", "y", "--step", "-1"],
        ["convert", "x", "--output", "y", "--step", "1e3"],
        ["convert", "x", "--output", "y", "--text_maxlength", "0"],
        ["convert", "x", "--output", "y", "--retriever_pooling", "max"],
    ],
)  # fmt: skip
def test_wrong_usage_leaves_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["", "info", "verify", "convert", "merge"])
def test_help_says_what_a_command_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"] if command else ["--help"])
    assert caught.value.code == 0
    assert "exit codes: 0 done" in capsys.readouterr().out
