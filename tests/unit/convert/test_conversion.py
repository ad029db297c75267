"""Atlas's checkpoints to folders of transformers and sentence-transformers, and back."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration

from gazetteer.convert.__main__ import main
from gazetteer.files import write_manifest
from gazetteer.reader import load_reader
from gazetteer.retriever import EmbeddingBatch, load_retriever
from gazetteer.retriever.loading import save_retriever
from tests.support.atlas_checkpoints import atlas_model, save_atlas, untied_t5
from tests.support.tiny_models import (
    reader_tokenizer,
    save_tiny_reader,
    save_tiny_retriever,
    tiny_bert,
    tiny_t5,
)

TEXTS = ["what is the capital of france", "paris", "a river in the old city of vienna and lima"]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with configs and tokenizers; their weights are others than the checkpoints'."""
    folder = tmp_path_factory.mktemp("names")
    untied_t5(0).save_pretrained(folder / "untied")
    reader_tokenizer().save_pretrained(folder / "untied")
    return {
        "tied": save_tiny_reader(folder / "tied"),
        "untied": folder / "untied",
        "retriever": save_tiny_retriever(folder / "retriever"),
    }


def convert(source: Path, output: Path, names: dict[str, Path], reader: str = "tied") -> Path:
    arguments = ["--reader_model_type", str(names[reader])]
    arguments += ["--retriever_model_path", str(names["retriever"])]
    assert main([str(source), "--output", str(output), *arguments]) == 0
    return output


def logits(model: T5ForConditionalGeneration) -> torch.Tensor:
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        return model.eval()(input_ids=ids, decoder_input_ids=ids[:, :3]).logits


def plain(model: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("module.", ""): tensor for name, tensor in model.items()}


@pytest.mark.parametrize("module", ["", "module."])
@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_there_and_back_is_bit_equal(
    tmp_path: Path, names: dict[str, Path], kind: str, module: str, buffers: bool
) -> None:
    reader = tiny_t5(7) if kind == "tied" else untied_t5(7)
    passage = tiny_bert(6) if kind == "untied" else None
    model = atlas_model(reader, tiny_bert(5), passage, module=module, buffers=buffers)
    source = save_atlas(tmp_path / "atlas", model)
    ours = convert(source, tmp_path / "ours", names, kind)
    assert main([str(ours), "--to", "atlas", "--output", str(tmp_path / "back")]) == 0
    back = torch.load(tmp_path / "back/model.pth.tar", weights_only=False)
    assert back["model"].keys() == plain(model).keys()
    for name, tensor in plain(model).items():
        assert back["model"][name].dtype == tensor.dtype
        assert torch.equal(back["model"][name], tensor), name
    assert back["step"] == 70
    assert back["opt"].n_context == 40
    assert back["opt"].query_side_retriever_training is (kind == "untied")
    again = convert(tmp_path / "back", tmp_path / "again", names, kind)
    for path in ours.rglob("*.safetensors"):
        assert path.read_bytes() == (again / path.relative_to(ours)).read_bytes()


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_reader_in_transformers_has_equal_logits(
    tmp_path: Path, names: dict[str, Path], kind: str
) -> None:
    reader = tiny_t5(7) if kind == "tied" else untied_t5(7)
    ours = convert(save_atlas(tmp_path, atlas_model(reader)), tmp_path / "ours", names, kind)
    loaded = T5ForConditionalGeneration.from_pretrained(ours / "reader")
    assert torch.equal(logits(loaded), logits(reader))
    assert loaded.config.scale_decoder_outputs is (kind == "tied")
    is_tied = loaded.lm_head.weight.data_ptr() == loaded.shared.weight.data_ptr()
    assert is_tied is (kind == "tied")
    assert torch.equal(loaded.shared.weight, reader.shared.weight)
    assert ("lm_head.weight" in load_file(ours / "reader/model.safetensors")) is (kind == "untied")
    through_ours, _ = load_reader(
        str(ours / "reader"), dropout=0.0, precision="fp32", max_padded_tokens=64
    )
    assert torch.equal(logits(through_ours.model), logits(reader))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_kept(tmp_path: Path, names: dict[str, Path], dtype: torch.dtype) -> None:
    source = save_atlas(tmp_path, atlas_model(dtype=dtype))
    ours = convert(source, tmp_path / "ours", names)
    assert {t.dtype for t in load_file(ours / "reader/model.safetensors").values()} == {dtype}
    found = {t.dtype for t in load_file(ours / "retriever/model.safetensors").values()}
    assert found == {torch.float32}
    assert main([str(ours), "--to", "atlas", "--output", str(tmp_path / "back")]) == 0
    back = torch.load(tmp_path / "back/model.pth.tar", weights_only=False)["model"]
    expected = atlas_model(dtype=dtype)
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("is_untied", [False, True])
def test_towers_embed_as_before(tmp_path: Path, names: dict[str, Path], is_untied: bool) -> None:
    query, passage = tiny_bert(5), tiny_bert(6) if is_untied else None
    source = save_atlas(tmp_path, atlas_model(query=query, passage=passage))
    ours = convert(source, tmp_path / "ours", names)
    retriever, tokenizer = load_retriever(
        str(ours / "retriever"),
        pooling="mean",
        normalize=False,
        dropout=0.0,
        dtype=torch.float32,
        batch=EmbeddingBatch(),
    )
    assert retriever.is_tied is not is_untied
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    for found, model in (
        (retriever.embed_for_search(ids), query),
        (retriever.embed_for_index(ids), passage or query),
    ):
        for row, tokens in zip(found, ids, strict=True):
            with torch.no_grad():
                states = model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
            torch.testing.assert_close(row, states.mean(dim=0))


SENTENCES = """
import sys, json, warnings
warnings.simplefilter("ignore")
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
print(json.dumps([model.encode(json.loads(sys.argv[2])).tolist(), model.similarity_fn_name]))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="gazetteer[dense]"
)
@pytest.mark.parametrize(
    ("pooling", "normalize"), [("mean", False), ("cls", False), ("sqrt", True)]
)
def test_sentence_transformers_gives_the_same_vectors(
    tmp_path: Path, names: dict[str, Path], pooling: Any, normalize: bool
) -> None:
    retriever, tokenizer = load_retriever(
        str(names["retriever"]),
        pooling=pooling,
        normalize=normalize,
        dropout=0.0,
        dtype=torch.float32,
        batch=EmbeddingBatch(),
    )
    save_retriever(retriever.eval(), tokenizer, tmp_path / "saved")
    command = [sys.executable, "-c", SENTENCES, str(tmp_path / "saved"), json.dumps(TEXTS)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    vectors, similarity = json.loads(run.stdout.splitlines()[-1])
    assert similarity == "dot"
    expected = retriever.embed_for_search([tokenizer(text)["input_ids"] for text in TEXTS])
    torch.testing.assert_close(torch.tensor(vectors), expected)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def without(model: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in model.items() if name not in names}


def misfits() -> list[tuple[Any, str]]:
    model = atlas_model()
    norm = "encoder.final_layer_norm.weight"
    layer = "retriever.contriever.encoder.layer.0.output.dense.weight"
    return [
        (
            without(model, f"reader.{norm}"),
            f"lacks reader.{norm}: is it another model? (--reader_model_type)",
        ),
        (without(model, layer), f"lacks {layer}: is it another model? (--retriever_model_path)"),
        (
            model | {f"reader.{norm}": torch.ones(7)},
            f"reader.{norm} has shape [7], expected [32] (--reader_model_type)",
        ),
        (
            model | {layer: torch.ones(2, 2)},
            f"{layer} has shape [2, 2], expected [32, 64] (--retriever_model_path)",
        ),
        (model | {"reader.extra": torch.ones(1)}, "has reader.extra, which the model has not"),
        (
            model | {"reader.encoder.embed_tokens.weight": model["reader.shared.weight"] + 1},
            "reader.encoder.embed_tokens.weight differs from reader.shared.weight",
        ),
        (atlas_model(untied_t5()), "which the model has not: is it another model?"),
    ]


@pytest.mark.parametrize("number", range(len(misfits())))
def test_what_does_not_fit_is_named(
    tmp_path: Path, names: dict[str, Path], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    model, message = misfits()[number]
    source = save_atlas(tmp_path, model)
    text = refused(
        capsys,
        *(source, "--output", tmp_path / "ours", "--reader_model_type", names["tied"]),
        *("--retriever_model_path", names["retriever"]),
    )
    assert message in text
    assert str(source) in text
    assert not (tmp_path / "ours").exists()


def test_keys_that_no_model_reads(tmp_path: Path, names: dict[str, Path]) -> None:
    old = {
        "reader.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": 1,
        "retriever.contriever.pooler.dense.weight": 1,
        "retriever.contriever.pooler.dense.bias": 1,
    }
    model = atlas_model() | {name: torch.ones(3) for name in old}
    ours = convert(save_atlas(tmp_path, model), tmp_path / "ours", names)
    assert "pooler.dense.weight" not in load_file(ours / "retriever/model.safetensors")


def test_the_command_line_is_checked(
    tmp_path: Path, names: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", tmp_path / "out")
    assert "is not there" in refused(capsys, tmp_path / "nothing", *output)
    assert "no model.pth.tar" in refused(capsys, tmp_path, *output)
    assert "no checkpoint of ours" in refused(capsys, tmp_path, *output, "--to", "atlas")
    reader_alone = {"reader.a": torch.ones(1)}
    unsaid = save_atlas(tmp_path / "a", reader_alone, options={"reader_model_type": None})
    assert "--reader_model_type is needed" in refused(capsys, unsaid, *output)
    assert "no T5 name" in refused(capsys, unsaid, *output, "--reader_model_type", "bert")
    (tmp_path / "out").mkdir()
    model = save_atlas(tmp_path / "b", atlas_model())
    text = refused(capsys, model, *output, "--reader_model_type", names["tied"])
    assert "is there already" in text


def test_atlas_knows_one_way_to_embed(
    tmp_path: Path, names: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    retriever, tokenizer = load_retriever(
        str(names["retriever"]),
        pooling="cls",
        normalize=False,
        dropout=0.0,
        dtype=torch.float32,
        batch=EmbeddingBatch(),
    )
    save_retriever(retriever, tokenizer, tmp_path / "ours/retriever")
    write_manifest(tmp_path / "ours")
    capsys.readouterr()
    text = refused(capsys, tmp_path / "ours", "--to", "atlas", "--output", tmp_path / "atlas")
    assert "Atlas takes the mean" in text


def test_a_reader_alone(tmp_path: Path, names: dict[str, Path]) -> None:
    model = {n: t for n, t in atlas_model().items() if n.startswith("reader.")}
    ours = convert(save_atlas(tmp_path, model), tmp_path / "ours", names)
    assert not (ours / "retriever").exists()
    assert json.loads((ours / "atlas.json").read_text())["step"] == 70
