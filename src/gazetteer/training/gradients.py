"""What happens to gradients between backward and update: clip, skip, scale.

Nothing here talks to other ranks by itself. After gradients are averaged over ranks their norm is
the same everywhere, and so is every decision taken from it.
"""

# torch documents its foreach functions but does not export them.
# pyright: reportPrivateImportUsage=false

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.errors import TrainingDivergedError, require_positive


@torch.no_grad()
def clip_gradients(
    parameters: Sequence[nn.Parameter],
    max_norm: float,
    *,
    gradient_scale: float = 1.0,
    add_up: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Shrink the gradients in place so that their joint norm is at most `max_norm`.

    All parameters given count as one vector; to clip two models apart, call twice. The host does
    not wait for the device. Gradients whose norm is not finite are left useless: skip the update.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: > 0; `inf` only measures. Set by `--clip`.
        gradient_scale: the gradients are this many times too large (loss scaling) and stay so;
            norm and clipping are those of the true gradients.
        add_up: sums a tensor over the ranks, where each of them holds parts of the gradients, and
            no two the same; the parameters are in the same order everywhere. None: all are here.

    Returns:
        The norm before clipping, float32 (float64 if a gradient is), on the parameters' device;
        0 without any gradient.

    Raises:
        ValueError: `max_norm` is not positive.
    """
    require_positive("max_norm", max_norm)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if add_up is None and not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    groups = _by_device_and_dtype(gradients)
    if add_up is None:
        norm = _norm_of(_norms(groups, gradients[0].device)) / gradient_scale
    else:
        norm = _spread_norm(parameters, add_up) / gradient_scale
    # The small constant is torch.nn.utils.clip_grad_norm_'s, which Atlas called.
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for group in groups:
        torch._foreach_mul_(group, factor.to(group[0].device))
    return norm


def all_finite(*values: Tensor) -> bool:
    """Say whether every scalar is finite, waiting for the device once however many there are.

    Args:
        values: scalars on one device, such as the loss and the gradient norms.
    """
    return bool(torch.stack([value.detach().float() for value in values]).isfinite().all().item())


def _by_device_and_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.device, tensor.dtype].append(tensor)
    return list(groups.values())


def _norms(groups: list[list[Tensor]], device: torch.device) -> list[Tensor]:
    """Norm of each tensor, group by group, float32 or wider."""
    return [
        norm.to(device)
        for group in groups
        for norm in torch._foreach_norm(
            group, 2, dtype=torch.promote_types(group[0].dtype, torch.float32)
        )
    ]


def _norm_of(norms: Sequence[Tensor]) -> Tensor:
    dtype = torch.float64 if any(n.dtype == torch.float64 for n in norms) else torch.float32
    return torch.linalg.vector_norm(torch.stack([norm.to(dtype) for norm in norms]))


def _spread_norm(
    parameters: Sequence[nn.Parameter], add_up: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    """Norm of gradients of which this rank holds some; to the last bit what one rank would find.

    Squares of float32 norms are exact in float64: of a whole gradient, the root is its norm again.
    """
    device = parameters[0].device
    table = torch.zeros(2, len(parameters), dtype=torch.float64, device=device)
    held = _in_groups({n: p.grad for n, p in enumerate(parameters) if p.grad is not None})
    if held:
        norms = _norms(_by_device_and_dtype(list(held.values())), device)
        table[0, list(held)] = torch.stack([norm.double() for norm in norms]).square()
        table[1, list(held)] = 1
    squares, holders = add_up(table)
    has_gradient = (holders > 0).tolist()
    known = {n: p for n, p in enumerate(parameters) if has_gradient[n]}
    if not known:
        return torch.zeros((), device=device)
    # In the order in which they are taken where nothing is spread.
    return _norm_of(list(squares[list(_in_groups(known))].sqrt().float()))


def _in_groups(tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Numbered tensors in the order of `_by_device_and_dtype`."""
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = defaultdict(dict)
    for number, tensor in tensors.items():
        groups[tensor.device, tensor.dtype][number] = tensor
    return {number: tensor for group in groups.values() for number, tensor in group.items()}


@dataclass(slots=True)
class NonFiniteGuard:
    """Counts updates skipped because a loss or gradient was not finite, and gives up in time.

    Attributes:
        max_in_a_row: skipped steps in a row at which to give up, >= 1.
        in_a_row: skipped steps since the last good one.
        skipped: skipped steps in the whole run.
    """

    max_in_a_row: int
    in_a_row: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        if self.max_in_a_row < 1:
            raise ValueError(f"max_in_a_row must be at least 1, got {self.max_in_a_row}")

    def allows_update(self, is_finite: bool, step: int, *, is_expected: bool = False) -> bool:
        """Record one step and say whether its update may be applied.

        Args:
            is_finite: the same on all ranks: derived from averaged gradients, or all-reduced.
            step: number to name in the error.
            is_expected: a non-finite value here is the search for a loss scale, and is skipped
                without counting towards giving up.

        Returns:
            `is_finite`.

        Raises:
            TrainingDivergedError: this was the last straw; on all ranks alike.
        """
        if is_finite:
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 0 if is_expected else 1
        if self.in_a_row >= self.max_in_a_row:
            raise TrainingDivergedError(
                f"step {step}: loss or gradient not finite for {self.in_a_row} steps in a row, "
                f"the limit set by --max_nonfinite_steps ({self.max_in_a_row}); "
                "try a lower --lr, or --precision bf16 or fp32"
            )
        return False

    def state_numbers(self) -> dict[str, int]:
        """What a resumed run needs."""
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_numbers(self, numbers: Mapping[str, int | float]) -> None:
        """Take over the counts of an earlier run; the limit stays this one's."""
        self.in_a_row = int(numbers["in_a_row"])
        self.skipped = int(numbers["skipped"])


@dataclass(slots=True)
class LossScale:
    """What the loss is multiplied by so that float16 gradients do not vanish.

    Halves on an overflow, doubles after `growth_interval_steps` good updates. It changes between
    updates only, so all micro-batches of one update share it.

    Attributes:
        scale: the multiplier now; a power of two.
        is_dynamic: False for float32 and bfloat16, where it stays as it is.
        growth_interval_steps: good updates in a row before doubling.
        good_steps: good updates since the last change.
    """

    scale: float = 1.0
    is_dynamic: bool = False
    growth_interval_steps: int = 2000
    good_steps: int = 0

    @classmethod
    def for_dtype(cls, dtype: torch.dtype) -> "LossScale":
        """Dynamic from 2**16 for float16; a constant 1 for anything wider in range."""
        is_float16 = dtype == torch.float16
        return cls(scale=2.0**16 if is_float16 else 1.0, is_dynamic=is_float16)

    @property
    def can_shrink(self) -> bool:
        """True if a smaller scale may cure an overflow: pass it on as the guard's `is_expected`."""
        return self.is_dynamic and self.scale > 1.0

    def update(self, is_finite: bool) -> None:
        """Learn from one step whether the scale was too high; call after it, applied or skipped."""
        if not self.is_dynamic:
            return
        if not is_finite:
            self.scale, self.good_steps = max(1.0, self.scale / 2), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval_steps:
            self.scale, self.good_steps = min(2.0**24, self.scale * 2), 0

    def state_numbers(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"scale": self.scale, "good_steps": float(self.good_steps)}

    def load_state_numbers(self, numbers: Mapping[str, int | float]) -> None:
        """Take over an earlier run's scale, if this precision has a dynamic one."""
        if self.is_dynamic:
            self.scale = float(numbers["scale"])
            self.good_steps = int(numbers["good_steps"])
