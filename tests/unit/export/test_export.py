"""Folders for other tools: the same vectors, and a card that says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from gazetteer.adapters import LoraSettings, add_adapters
from gazetteer.errors import CheckpointError
from gazetteer.export import folders
from gazetteer.export.__main__ import main
from gazetteer.export.folders import export_sentence_transformers
from gazetteer.export.model_card import base_licence
from gazetteer.export.trained import open_trained
from gazetteer.files import write_manifest
from gazetteer.options import options_from_dict, save_options
from gazetteer.retriever import DualEncoder, save_retriever
from gazetteer.retriever.head import NewHead
from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer
from tests.unit.retriever.test_adapters import move_adapters
from tests.unit.retriever.test_towers import TEXTS, load, move, token_lists

SHAPES = [
    ("bert", {"pooling": "mean"}),
    ("bert", {"pooling": "cls", "new_head": NewHead(output_dim=8)}),
    ("bert", {"pooling": "sqrt", "normalize": True, "new_head": NewHead(output_dim=8)}),
    ("t5", {"encoder_only": True, "normalize": True}),
    ("t5", {"encoder_only": True, "pooling": "first", "new_head": NewHead(output_dim=8)}),
]


def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    return retriever_tokenizer() if kind == "bert" else reader_tokenizer()


def checkpoint(folder: Path, model: DualEncoder, kind: str = "bert", **flags: Any) -> Path:
    """A checkpoint of an experiment with one evaluation."""
    saved = folder / "my-run" / "checkpoint" / "step-40"
    save_retriever(model, tokenizer_of(kind), saved / "retriever")
    values = {"task": "qa", "train_data": ["/home/someone/nq/train.jsonl"], "text_maxlength": 100}
    values |= {"retriever_model_path": "facebook/contriever", "gold_score_mode": "emdr"}
    save_options(options_from_dict(values | flags), saved / "options.json")
    write_manifest(saved)
    lines = [(20, 0.25), (40, 0.5), (60, 0.75)]
    text = "".join(f'{{"kind": "eval", "step": {n}, "dev/ndcg@10": {v}}}\n' for n, v in lines)
    (folder / "my-run" / "metrics.jsonl").write_text(text)
    return saved


@pytest.mark.parametrize(("kind", "how"), SHAPES)
def test_vectors_are_those_of_sentence_transformers(
    tmp_path: Path, retriever_folder: Path, reader_folder: Path, kind: str, how: dict
) -> None:
    model = load(retriever_folder if kind == "bert" else reader_folder, **how)
    save_retriever(model, tokenizer_of(kind), tmp_path / "model")
    export_sentence_transformers(str(tmp_path / "model"), tmp_path / "out")
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(list(TEXTS))
    expected = model.embed_for_index(token_lists(kind))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    # What was exported is a retriever here as well.
    again = load(tmp_path / "out").embed_for_index(token_lists(kind))
    assert torch.equal(again, expected)


def test_untied_towers_with_adapters_are_a_folder_each(
    tmp_path: Path, retriever_folder: Path
) -> None:
    model = load(retriever_folder, new_head=NewHead(output_dim=8))
    model.untie()
    move(model.query_tower)
    add_adapters(model.query_tower.model, LoraSettings(rank=2, alpha=4.0))
    move_adapters(model.query_tower)
    saved = checkpoint(tmp_path, model)
    assert main([str(saved), "--output", str(tmp_path / "out")]) == 0
    for role, expected in (
        ("query", model.embed_for_search(token_lists("bert"))),
        ("passage", model.embed_for_index(token_lists("bert"))),
    ):
        folder = tmp_path / "out" / role
        assert not (folder / "adapter").exists()
        theirs = SentenceTransformer(str(folder), device="cpu")
        assert theirs.max_seq_length == 100
        found = torch.from_numpy(theirs.encode(list(TEXTS)))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert f"out: {role} tower" in (folder / "README.md").read_text()
    again = load(tmp_path / "out")
    expected = model.embed_for_search(token_lists("bert"))
    torch.testing.assert_close(again.embed_for_search(token_lists("bert")), expected)


def test_the_card_says_what_it_is_and_tells_no_folders(
    tmp_path: Path, retriever_folder: Path
) -> None:
    saved = checkpoint(tmp_path, load(retriever_folder, normalize=True))
    # As a checkpoint, as `latest`, and as the retriever inside of it.
    (saved.parent / "latest").symlink_to(saved.name)
    for number, source in enumerate((saved, saved.parent / "latest", saved / "retriever")):
        target = tmp_path / f"out{number}"
        export_sentence_transformers(str(source), target)
        card = (target / "README.md").read_text()
        _, front, text = card.split("---\n", 2)
        fields = yaml.safe_load(front)
        assert fields["base_model"] == "facebook/contriever"
        assert (fields["library_name"], "license" in fields) == ("sentence-transformers", False)
        for line in (
            "| training data | train.jsonl |",
            "| loss | emdr |",
            "| steps | 40 |",
            "| dev/ndcg@10 | 0.5 |",
            "| `--text_maxlength` | 100 |",
            "In training a passage was written as `{title} {text}`.",
        ):
            assert line in text
        assert "someone" not in card and str(tmp_path) not in card


def test_code_of_the_card_runs(tmp_path: Path, retriever_folder: Path, monkeypatch) -> None:
    export_sentence_transformers(
        str(checkpoint(tmp_path, load(retriever_folder))), tmp_path / "FOLDER"
    )
    card = (tmp_path / "FOLDER" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert np.asarray(names["scores"]).shape == (1, 1)


def test_the_licence_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert base_licence(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert base_licence(str(tmp_path)) is None
    assert base_licence("nobody/nothing") is None


def test_a_decoders_token_is_refused_in_one_line(
    tmp_path: Path, reader_folder: Path, capsys
) -> None:
    words = [str(reader_folder), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"gazetteer.export: error: {reader_folder}: its vectors are states of")
    assert error.endswith("export --to openmatch") and not (tmp_path / "out").exists()
    assert main([*words, "--to", "openmatch"]) == 0
    assert load(tmp_path / "out").query_tower.pooling == "first_decoder_token"
    assert main([*words, "--to", "openmatch"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_folder_of_sentence_transformers_stays_what_it_is(
    tmp_path: Path, retriever_folder: Path
) -> None:
    model = load(retriever_folder, pooling="cls", normalize=True)
    save_retriever(model, retriever_tokenizer(), tmp_path / "model")
    (tmp_path / "model" / "embedding.json").unlink()
    export_sentence_transformers(str(tmp_path / "model"), tmp_path / "out")
    found = load(tmp_path / "out").query_tower
    assert (found.pooling, found.normalize) == ("cls", True)
    headed = load(retriever_folder, new_head=NewHead(output_dim=8))
    save_retriever(headed, retriever_tokenizer(), tmp_path / "headed")
    (tmp_path / "headed" / "embedding.json").unlink()
    with pytest.raises(CheckpointError, match=r"has a module that is not known here \(Dense\)"):
        open_trained(str(tmp_path / "headed"))


def test_other_vectors_are_not_written(
    tmp_path: Path, retriever_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        folders, "_cut_as_in_training", lambda _, __, folder: (folder / "modules.json").unlink()
    )
    save_retriever(load(retriever_folder, pooling="cls"), retriever_tokenizer(), tmp_path / "model")
    with pytest.raises(CheckpointError, match="sentence-transformers makes other vectors of it"):
        export_sentence_transformers(str(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_retriever_is_named(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    write_manifest(tmp_path / "step-1")
    with pytest.raises(CheckpointError, match="no retriever in this checkpoint"):
        open_trained(str(tmp_path / "step-1"))
