"""Teachers of every kind: opened, scored as their own library scores, saved and opened again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from transformers import PreTrainedTokenizerFast

from gazetteer.errors import CheckpointError
from gazetteer.lead.cross_encoder import CrossLayers, PairFormat
from gazetteer.lead.heads import pair_format
from gazetteer.lead.late_interaction import LateInteraction
from gazetteer.lead.teachers import (
    open_cross_encoder,
    open_late_interaction,
    save_layered,
)
from tests.support.lead_models import (
    lead_tokenizer,
    save_classifier,
    save_encoder,
    tiny_dual,
    token_ids,
)
from tests.support.tiny_models import save_tiny_retriever

QUERIES = ("what is paris", "capital of france and the big city in the north of europe")
PASSAGES = ("paris is a city", "london", "france", "the river in the old city")


def late_interaction(folder: Path) -> tuple[LateInteraction, PreTrainedTokenizerFast]:
    return open_late_interaction(str(folder), query_length=8, dropout=0.0, attention="eager")  # type: ignore[return-value]


def cross_encoder(folder: Path) -> tuple[CrossLayers, PreTrainedTokenizerFast]:
    return open_cross_encoder(  # type: ignore[return-value]
        str(folder), dropout=0.0, attention="eager", max_padded_tokens=20
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@torch.no_grad()
def scored(model, layers=(0, 2)):
    return model.eval()(token_ids(*QUERIES), token_ids(*PASSAGES), layers).scores()


def test_layers_of_a_dual_encoder_are_its_first_tokens_states():
    model = tiny_dual(0, layers=3)
    scores = scored(model)
    assert scores.positive.tolist() == [0, 2]
    tower = model.retriever.query_tower

    def states(text: str) -> list[torch.Tensor]:
        ids = torch.from_numpy(token_ids(text)[0])[None].long()
        return tower.model(input_ids=ids, output_hidden_states=True).hidden_states

    for row, layer in enumerate((0, 2)):
        for q, query in enumerate(QUERIES):
            for p, passage in enumerate(PASSAGES):
                pair = states(query)[layer + 1][0, 0] @ states(passage)[layer + 1][0, 0]
                assert scores.layers[row, q, p].item() == pytest.approx(pair.item(), rel=1e-4)
    # No head and not normalised: the last layer is what it ranks by.
    assert torch.allclose(scores.layers[1], scores.final)


def test_own_lists_are_the_columns_of_each_query():
    scores = scored(tiny_dual(0, layers=3))
    own = scores.own_lists(2)
    assert torch.equal(own.final[1], scores.final[1, 2:])
    assert torch.equal(own.layers[:, 0], scores.layers[:, 0, :2])
    assert own.positive.tolist() == [0, 0]


def test_late_interaction_of_lead(encoder):
    model, tokenizer = late_interaction(encoder)
    marks = tokenizer.convert_tokens_to_ids(["[unused1]", "[unused2]"])
    for side, mark in zip(("query", "document"), marks, strict=True):
        assert model.marking.mark(token_ids("paris")[0], side)[0] == mark
    states = model.eval()(token_ids(*QUERIES), token_ids(*PASSAGES), (0, 2))
    # Queries are filled up with masks, or cut with their end kept, and every token is scored.
    assert states.query_mask.shape == (2, 8)
    assert states.query_mask.all()
    assert states.passage_mask.sum(dim=1).tolist() == [len(ids) for ids in token_ids(*PASSAGES)]
    assert torch.allclose(states.queries.norm(dim=2), torch.ones(2, 8))
    assert not torch.allclose(states.query_layers[:, 1].norm(dim=2), torch.ones(2, 8))
    best = states.queries[0] @ states.passages[0, :6].T
    assert states.scores().final[0, 0].item() == pytest.approx(best.amax(1).sum().item(), rel=1e-5)


def test_late_interaction_is_saved_and_opened_again(encoder, tmp_path):
    model, tokenizer = late_interaction(encoder)
    save_layered(model, tokenizer, tmp_path)
    again, _ = late_interaction(tmp_path)
    assert torch.equal(scored(again).final, scored(model).final)


def test_late_interaction_of_the_library_scores_as_the_library(encoder, tmp_path):
    library = sentence_transformers.MultiVectorEncoder(
        str(encoder), device="cpu", prompts={"query": "what ", "document": "the "}
    )
    library[0].query_expansion = {"strategy": "fixed", "attend": True, "length": 16}
    library.save_pretrained(str(tmp_path))
    model, tokenizer = late_interaction(tmp_path)
    expected = library.similarity(
        library.encode_query(list(QUERIES)), library.encode_document(list(PASSAGES))
    )
    assert torch.allclose(scored(model).final, expected, atol=1e-4)
    save_layered(model, tokenizer, tmp_path / "again")
    assert torch.equal(scored(late_interaction(tmp_path / "again")[0]).final, scored(model).final)


def test_late_interaction_needs_marks(tmp_path):
    with pytest.raises(CheckpointError, match=r"mask token, \[unused1\]"):
        late_interaction(save_tiny_retriever(tmp_path))


def test_new_cross_encoder_has_one_linear_layer_and_is_saved(encoder, tmp_path):
    model, tokenizer = cross_encoder(encoder)
    scores = scored(model)
    assert scores.final.shape == (2, 2)
    assert torch.allclose(scores.layers[1], scores.final, atol=1e-6)
    assert not torch.allclose(scores.layers[0], scores.final, atol=1e-3)
    assert sum(p.numel() for n, p in model.named_parameters() if n.startswith("encoder.2")) == 33
    save_layered(model, tokenizer, tmp_path)
    assert torch.equal(scored(cross_encoder(tmp_path)[0]).final, scores.final)


def test_published_cross_encoder_scores_as_the_library(tmp_path):
    model, _ = cross_encoder(save_classifier(tmp_path))
    scores = scored(model)
    pairs = [(QUERIES[number // 2], passage) for number, passage in enumerate(PASSAGES)]
    expected = model.encoder.predict(pairs, activation_fn=torch.nn.Identity())
    assert scores.final.flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert torch.allclose(scores.layers[1], scores.final, atol=1e-6)


def test_cross_encoder_with_several_labels_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="gives 3 scores per pair"):
        cross_encoder(save_classifier(tmp_path, labels=3))


def test_pairs_are_joined_as_the_tokenizer_does():
    tokenizer = lead_tokenizer()
    joining = pair_format(tokenizer)
    assert joining == PairFormat((), has_types=True)
    joined = joining.join(*token_ids(QUERIES[0], PASSAGES[0]))
    assert joined.tolist() == tokenizer(QUERIES[0], PASSAGES[0]).input_ids
    assert PairFormat((9,)).join(np.array([2, 5, 3]), np.array([2, 6, 3])).tolist() == [
        2, 5, 3, 9, 6, 3
    ]  # fmt: skip


@pytest.mark.parametrize("opened", [late_interaction, cross_encoder])
def test_what_is_no_model_is_one_line(tmp_path, opened):
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path / "nothing")
    assert str(caught.value).count("\n") == 0
    assert "nothing" in str(caught.value)
