import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, DistilBertConfig, DistilBertModel, GPT2Config

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.retriever import (
    DualEncoder,
    EmbeddingBatch,
    TextEncoder,
    load_retriever,
    save_retriever,
    weights_fingerprint,
)
from gazetteer.retriever.encoder import Pooling, pool
from gazetteer.retriever.packed_weights import WORTH_TOKENS
from gazetteer.retriever.ways import PoolingName
from tests.support.tiny_models import retriever_tokenizer, tiny_bert

TEXTS = ("the capital of peru", "lima", "what is the river in egypt and the lake of austria", "x")


def retriever(dropout: float = 0.0, **limits: int) -> DualEncoder:
    tower = TextEncoder(tiny_bert(dropout=dropout), pooling="mean", normalize=False)
    return DualEncoder(tower, tower, EmbeddingBatch(**limits))


def token_lists() -> list[np.ndarray]:
    return [
        np.array(ids, dtype=np.int32) for ids in retriever_tokenizer()(list(TEXTS))["input_ids"]
    ]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [2.0, 3.0]), ("sqrt", [2.0 * 2**0.5, 3.0 * 2**0.5]), ("cls", [1.0, 2.0])],
)
def test_pooling_ignores_padding(pooling, expected) -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(pool(states, mask, pooling), torch.tensor([expected]))


@pytest.mark.parametrize("limits", [{}, {"max_texts": 1}, {"max_padded_tokens": 14}])
def test_embeddings_do_not_depend_on_how_texts_are_batched(limits) -> None:
    found = retriever(**limits).embed_for_index(token_lists())
    alone = [retriever().embed_for_index([ids])[0] for ids in token_lists()]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-5, atol=1e-6)


def test_normalised_embeddings_have_length_one() -> None:
    tower = TextEncoder(tiny_bert(), pooling="mean", normalize=True)
    model = DualEncoder(tower, tower, EmbeddingBatch())
    norms = model.embed_for_search(token_lists()).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(len(TEXTS)))


def test_no_text_gives_no_embedding() -> None:
    assert retriever().embed_for_search([]).shape == (0, 32)


def test_search_embeds_without_dropout_or_gradient_and_training_with_both() -> None:
    model = retriever(dropout=0.5).train()
    first, second = (model.embed_for_search(token_lists()) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.query_tower.training
    trained = model.embed_queries(token_lists())
    assert trained.requires_grad
    assert not torch.equal(trained, model.embed_queries(token_lists()))


def test_untied_towers_begin_equal_and_are_apart() -> None:
    model = retriever()
    model.untie()
    assert not model.is_tied
    assert weights_fingerprint(model.query_tower) == weights_fingerprint(model.passage_tower)
    with torch.no_grad():
        next(model.query_tower.parameters()).add_(1)
    assert weights_fingerprint(model.query_tower) != weights_fingerprint(model.passage_tower)


def test_query_side_training_moves_the_query_tower_and_no_passage_weight() -> None:
    model = retriever(dropout=0.5)
    model.freeze_passage_tower()
    before = copy.deepcopy(model.passage_tower.state_dict())
    fingerprint = weights_fingerprint(model.query_tower)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model.train()
    assert model.query_tower.training
    assert not model.passage_tower.training
    for _ in range(3):
        scores = model.embed_queries(token_lists()) @ model.embed_passages(token_lists()).T
        scores.sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    after = model.passage_tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert weights_fingerprint(model.query_tower) != fingerprint


def load(
    folder: Path, pooling: PoolingName = "mean", normalize: bool = False, dropout: float = 0.0
) -> DualEncoder:
    return load_retriever(
        str(folder),
        pooling=pooling,
        normalize=normalize,
        dropout=dropout,
        dtype=torch.float32,
        batch=EmbeddingBatch(),
    )[0]


@pytest.mark.parametrize("is_tied", [True, False])
def test_saved_towers_come_back_as_they_were(tmp_path: Path, is_tied: bool) -> None:
    model = retriever()
    if not is_tied:
        model.untie()
        with torch.no_grad():
            next(model.query_tower.parameters()).add_(1)
    save_retriever(model, retriever_tokenizer(), tmp_path)
    loaded = load(tmp_path)
    assert loaded.is_tied == is_tied
    for name in ("embed_for_search", "embed_for_index"):
        expected, found = (getattr(m, name)(token_lists()) for m in (model, loaded))
        assert torch.equal(expected, found)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_saved_retriever_knows_how_it_embeds(tmp_path: Path, is_tied: bool) -> None:
    tower = TextEncoder(tiny_bert(), pooling="cls", normalize=True)
    model = DualEncoder(tower, tower, EmbeddingBatch())
    if not is_tied:
        model.untie()
    save_retriever(model, retriever_tokenizer(), tmp_path)
    for loaded in (load(tmp_path), load(tmp_path, "cls", True)):
        for tower in (loaded.query_tower, loaded.passage_tower):
            assert (tower.pooling, tower.normalize) == ("cls", True)
    with pytest.raises(OptionError, match=r"--retriever_pooling is sqrt, but .* with cls"):
        load(tmp_path, "sqrt")
    stock = AutoModel.from_pretrained(tmp_path if is_tied else tmp_path / "query")
    expected = model.query_tower.model.state_dict()
    assert all(torch.equal(stock.state_dict()[name], expected[name]) for name in expected)


def test_normalising_what_was_trained_without_is_refused(tmp_path: Path) -> None:
    save_retriever(retriever(), retriever_tokenizer(), tmp_path)
    with pytest.raises(OptionError, match=r"--retriever_normalize is given, but .* without"):
        load(tmp_path, normalize=True)


def test_flags_say_how_a_folder_of_others_embeds(retriever_folder: Path) -> None:
    tower = load(retriever_folder, "sqrt", True).query_tower
    assert (tower.pooling, tower.normalize) == ("sqrt", True)


def test_a_folder_of_sentence_transformers_says_how_it_embeds(tmp_path: Path, caplog) -> None:
    tower = TextEncoder(tiny_bert(), pooling="cls", normalize=True)
    save_retriever(DualEncoder(tower, tower, EmbeddingBatch()), retriever_tokenizer(), tmp_path)
    (tmp_path / "embedding.json").unlink()
    found = load(tmp_path).query_tower
    assert (found.pooling, found.normalize) == ("cls", True)
    other = load(tmp_path, "sqrt").query_tower
    assert (other.pooling, other.normalize) == ("sqrt", True)
    (warning,) = [each for each in caplog.messages if "flags" in each]
    assert "pooling sqrt, normalised, as flags say; its modules.json says: pooling cls" in warning


def test_dropout_is_that_of_a_model_built_with_it(retriever_folder: Path) -> None:
    found = load(retriever_folder, dropout=0.3).train()
    expected = retriever(dropout=0.3).train()
    expected.load_state_dict(found.state_dict())
    embeddings = []
    for model in (found, expected):
        torch.manual_seed(5)
        embeddings.append(model.embed_passages(token_lists()))
    assert torch.equal(*embeddings)
    assert not torch.equal(embeddings[0], found.embed_passages(token_lists()))


def test_an_encoder_with_other_names_for_its_settings(tmp_path: Path) -> None:
    config = DistilBertConfig(
        vocab_size=len(retriever_tokenizer()), dim=32, n_layers=1, n_heads=2, hidden_dim=64
    )
    DistilBertModel(config).save_pretrained(tmp_path)
    retriever_tokenizer().save_pretrained(tmp_path)
    tower = load(tmp_path, dropout=0.3).query_tower
    dropouts = [module.p for module in tower.modules() if isinstance(module, nn.Dropout)]
    assert dropouts and set(dropouts) == {0.3}
    plain = load(tmp_path).train()
    assert torch.equal(*(plain.embed_passages(token_lists()) for _ in range(2)))


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"retriever '{tmp_path}' cannot be loaded: it is a gpt2, expected an encoder such as BERT, "
        "or a T5 (--retriever_model_path)"
    )


def test_a_missing_retriever_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_fingerprint_sees_a_single_bit() -> None:
    model = tiny_bert()
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(tiny_bert())
    with torch.no_grad():
        weight = next(model.parameters()).view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert weights_fingerprint(model) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_texts_are_embedded_as_few_are(dtype: torch.dtype) -> None:
    model = retriever(max_padded_tokens=64)
    model.to(dtype)
    few = model.embed_for_index(token_lists())
    repeats = WORTH_TOKENS // sum(map(len, token_lists())) + 1
    many = model.embed_for_index(token_lists() * repeats)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(many, few.repeat(repeats, 1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pooling", ["mean", "sqrt", "cls"])
def test_pooling_without_a_mask_is_pooling_of_real_tokens_only(pooling: Pooling) -> None:
    states = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(pool(states, None, pooling), pool(states, everything, pooling))


def test_lengths_are_not_rounded_to_bfloat16() -> None:
    tower = TextEncoder(tiny_bert().to(torch.bfloat16), pooling="mean", normalize=True)
    model = DualEncoder(tower, tower, EmbeddingBatch())
    norms = model.embed_for_search(token_lists()).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(len(TEXTS)), rtol=0, atol=1e-6)
    assert model.embed_queries(token_lists()).dtype == torch.bfloat16
