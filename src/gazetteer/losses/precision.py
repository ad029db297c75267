"""The one dtype rule all losses share."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half-precision tensors to float32; float32 and float64 pass unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
