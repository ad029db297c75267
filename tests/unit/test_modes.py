from __future__ import annotations

import pytest
import torch
from torch import nn

from gazetteer.modes import evaluation_mode


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)))


@pytest.mark.parametrize("training", [True, False])
def test_there_is_no_dropout_inside_and_the_mode_comes_back(training: bool) -> None:
    module = network().train(training)
    inputs = torch.randn(4, 8)
    with evaluation_mode(module):
        assert torch.equal(module(inputs), module(inputs))
        assert not any(part.training for part in module.modules())
    assert all(part.training == training for part in module.modules())


def test_parts_in_another_mode_than_the_whole_stay_in_it() -> None:
    module = network().train()
    module[0].eval()
    whole_only = network().eval()
    whole_only[1][0].train()
    for mixed in (module, whole_only):
        before = [part.training for part in mixed.modules()]
        with evaluation_mode(mixed):
            assert not any(part.training for part in mixed.modules())
        assert [part.training for part in mixed.modules()] == before


def test_the_mode_comes_back_after_an_error() -> None:
    module = network()
    with pytest.raises(ValueError), evaluation_mode(module):
        raise ValueError
    assert all(part.training for part in module.modules())


def test_contexts_may_be_nested() -> None:
    module = network()
    with evaluation_mode(module):
        with evaluation_mode(module[1]):
            pass
        assert not any(part.training for part in module.modules())
    assert all(part.training for part in module.modules())
