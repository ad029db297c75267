from __future__ import annotations

import pytest
import torch

from gazetteer.compress.devices import alone


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_command_of_one_process_computes_on_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert alone().device == torch.device(device) and alone().world_size == 1
