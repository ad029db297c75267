"""The table of retriever losses: names, needs, and one way to call them all."""

import inspect

import pytest
import torch

from gazetteer.losses import (
    RETRIEVER_LOSSES,
    perplexity_distillation_loss,
    sequence_marginal_loss,
    token_marginal_loss,
)

MASK = torch.tensor([[True, True, False], [True, True, True]])


def random_signal(kind: str) -> torch.Tensor:
    shape = (2, 4, 3) if kind == "token_log_probs" else (2, 4)
    return -torch.rand(shape, generator=torch.Generator().manual_seed(3))


def test_names_are_those_of_atlas_and_of_the_paper():
    assert set(RETRIEVER_LOSSES) == {
        *("ppmean", "evalnormsum", "loop", "emdr", "emdr2"),
        *("pdist", "adist"),
    }


@pytest.mark.parametrize(("paper", "atlas"), [("pdist", "ppmean"), ("adist", "evalnormsum")])
def test_paper_name_and_atlas_name_are_the_same_loss(paper, atlas):
    assert RETRIEVER_LOSSES[paper] is RETRIEVER_LOSSES[atlas]


@pytest.mark.parametrize("name", RETRIEVER_LOSSES)
def test_needs_are_the_keyword_arguments_of_the_function(name):
    loss = RETRIEVER_LOSSES[name]
    parameters = list(inspect.signature(loss.function).parameters)[2:]
    assert set(parameters) == {"retriever_temperature", *loss.needs}


@pytest.mark.parametrize("name", RETRIEVER_LOSSES)
def test_every_loss_is_called_alike(name):
    loss = RETRIEVER_LOSSES[name]
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(4)).requires_grad_()
    value = loss(
        scores,
        random_signal(loss.signal),
        retriever_temperature=0.5,
        reader_temperature=0.2,
        target_mask=MASK,
        token_count=torch.tensor(5.0),
    )
    value.backward()
    assert value.shape == ()
    assert scores.grad.abs().sum() > 0


def test_call_hands_each_loss_its_own_settings():
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(5))
    settings = {"retriever_temperature": 0.5, "reader_temperature": 0.2}
    tokens = random_signal("token_log_probs")

    value = RETRIEVER_LOSSES["pdist"](scores, tokens[..., 0], **settings)
    assert value == perplexity_distillation_loss(scores, tokens[..., 0], **settings)

    value = RETRIEVER_LOSSES["emdr"](scores, tokens, **settings, target_mask=MASK, token_count=2.0)
    assert value == token_marginal_loss(
        scores, tokens, MASK, retriever_temperature=0.5, token_count=2.0
    )

    value = RETRIEVER_LOSSES["emdr2"](scores, tokens, **settings, target_mask=MASK)
    assert value == sequence_marginal_loss(scores, tokens, MASK, retriever_temperature=0.5)


def test_only_atlas_emdr_tempers_the_vocabulary():
    tempered = [name for name, loss in RETRIEVER_LOSSES.items() if loss.has_vocabulary_temperature]
    assert tempered == ["emdr"]
