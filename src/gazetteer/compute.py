"""Arithmetic and randomness of the process: matrix precision, seeds, random states as tensors."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

LARGEST_RELATIVE_ERROR = 2e-6
"""Of a float32 product of this size in true float32 arithmetic; bfloat16 would be 1,000 x worse."""


def use_fast_float32_matmul() -> str:
    """Choose the fastest matrix product that really computes in float32 on this CPU.

    "medium" lets torch use another library, up to twice as fast on some CPUs; on others it would
    compute in bfloat16, so it is measured first. GPUs are left alone.

    Returns:
        The precision in force: "medium" or "highest".
    """
    if torch.cuda.is_available():
        return torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = (torch.nn.functional.linear(left, right.T).double() - exact).norm() / exact.norm()
    if error > LARGEST_RELATIVE_ERROR:
        torch.set_float32_matmul_precision("highest")
    return torch.get_float32_matmul_precision()


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Tensor]:
    """Every random state of this process as tensors, never a pickle."""
    version, words, gauss = random.getstate()
    assert version == 3
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)[:5]  # type: ignore[misc]
    assert name == "MT19937"
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Take over what `random_state` returned, bit for bit."""
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = state["numpy_rest"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
