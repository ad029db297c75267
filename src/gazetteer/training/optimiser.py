"""AdamW over float32 master weights, with its state as named tensors.

Clipping, skipping and loss scaling are in gradients.py, learning rates in schedule.py.
"""

# torch documents its foreach functions but does not export them.
# pyright: reportPrivateImportUsage=false

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gazetteer.errors import CheckpointError

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
MASTER = "master"


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a parameter.

    Attributes:
        start: the first of them.
        stop: after the last.
        total: of the whole parameter.
    """

    start: int
    stop: int
    total: int


class MasterWeightAdamW:
    """AdamW that never rounds its updates away.

    Parameters in float16 or bfloat16 get a float32 master copy, which is what is updated; the
    parameter is its rounding. Parameters in float32 are their own master. Weight decay is
    decoupled and acts on all parameters, biases and layer norms too, as in Atlas.

    Build it when the weights are in place: master copies are taken here.

    Args:
        named_parameters: names, which become the keys of the saved state, and parameters. Those
            that need no gradient are left out.
        learning_rate: until `set_learning_rate` says otherwise.
        beta2: decay of the squared gradient's average; the gradient's own is 0.9.
        epsilon: added to the root of the squared gradient's average.
        weight_decay: fraction of the weights removed per update, times the learning rate.

    Raises:
        ValueError: a name is used twice, or nothing is to be trained.

    Source:
        "Decoupled Weight Decay Regularization", algorithm 2, arXiv:1711.05101; master copies and
        decay of everything: Atlas (AdamWFP32Copy.py, util.py).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.1,
    ) -> None:
        self._parameters = trainable(named_parameters)
        self._masters = {name: _master_of(p) for name, p in self._parameters.items()}
        is_fused = all(m.device.type in ("cpu", "cuda") for m in self._masters.values())
        self._adamw = torch.optim.AdamW(
            list(self._masters.values()),
            lr=learning_rate,
            betas=(0.9, beta2),
            eps=epsilon,
            weight_decay=weight_decay,
            fused=is_fused or None,
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters being trained, in the order given: what to clip."""
        return list(self._parameters.values())

    @property
    def names(self) -> list[str]:
        """Of the parameters."""
        return list(self._parameters)

    @property
    def rows(self) -> Mapping[str, Rows | None]:
        """The parameters whose state is here; None stands for all their rows."""
        return dict.fromkeys(self._parameters)

    @property
    def is_spread(self) -> bool:
        """False: every rank has the whole state."""
        return False

    @property
    def learning_rate(self) -> float:
        """What the next update will use."""
        return float(self._adamw.param_groups[0]["lr"])

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set what the next update will use."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate

    @torch.no_grad()
    def step(self, *, gradient_scale: float = 1.0) -> None:
        """Apply one update from the parameters' gradients; those without one stay as they are.

        Args:
            gradient_scale: the gradients are this many times too large (loss scaling); they are
                divided by it in float32.
        """
        copied = [
            n for n, p in self._parameters.items() if self._has_copy(n) and p.grad is not None
        ]
        self._read_gradients(copied)
        gradients = [m.grad for m in self._masters.values() if m.grad is not None]
        if gradient_scale != 1.0 and gradients:
            torch._foreach_mul_(gradients, 1.0 / gradient_scale)
        self._adamw.step()
        self._write_parameters(copied)

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients: free their memory, or fill them with zeros."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        if set_to_none:
            for parameter in self._parameters.values():
                parameter.grad = None
        elif gradients:
            torch._foreach_zero_(gradients)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by parameter name.

        Returns:
            `<parameter>.step`, `.exp_avg`, `.exp_avg_sq` once it has been updated, and `.master`
            where a master copy exists. The tensors are the live ones, not copies: write them
            before the next step. The learning rate is not among them: set it from the step.
        """
        tensors: dict[str, Tensor] = {}
        for name, master in self._masters.items():
            state = self._adamw.state.get(master, {})
            tensors |= {f"{name}.{key}": state[key].detach().contiguous() for key in state}
            if self._has_copy(name):
                tensors[f"{name}.{MASTER}"] = master.detach().contiguous()
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the state another optimiser gave by `state_tensors`, bit for bit.

        Args:
            tensors: for exactly these parameters, on any device; they are copied.

        Raises:
            CheckpointError: a tensor is missing, unknown, or of another shape or dtype. Nothing
                has been changed then.
        """
        fresh = {name for name in self._masters if f"{name}.{ADAM_STATE[0]}" not in tensors}
        self._check(tensors, fresh)
        for name, master in self._masters.items():
            if self._has_copy(name):
                master.data.copy_(tensors[f"{name}.{MASTER}"])
            if name in fresh:
                self._adamw.state.pop(master, None)
            else:
                self._adamw.state[master] = self._adam_state(name, tensors)

    def _has_copy(self, name: str) -> bool:
        return self._masters[name] is not self._parameters[name]

    def _read_gradients(self, names: list[str]) -> None:
        if not names:
            return
        gradients = [torch.empty_like(self._masters[name]) for name in names]
        given = [g for name in names if (g := self._parameters[name].grad) is not None]
        torch._foreach_copy_(gradients, given)
        for name, gradient in zip(names, gradients, strict=True):
            self._masters[name].grad = gradient

    def _write_parameters(self, names: list[str]) -> None:
        if not names:
            return
        masters: list[Tensor] = [self._masters[name] for name in names]
        torch._foreach_copy_([self._parameters[name] for name in names], masters)
        for master in masters:
            master.grad = None

    def _check(self, tensors: Mapping[str, Tensor], fresh: set[str]) -> None:
        expected = {
            f"{name}.{key}": master
            for name, master in self._masters.items()
            for key in (
                *(() if name in fresh else ADAM_STATE),
                *((MASTER,) if self._has_copy(name) else ()),
            )
        }
        for key in sorted(expected.keys() ^ tensors.keys()):
            what = "lacks" if key in expected else "has the unknown tensor"
            raise CheckpointError(f"optimiser state {what} {key}")
        for key, master in expected.items():
            like = torch.zeros(()) if key.endswith(f".{ADAM_STATE[0]}") else master
            found = tensors[key]
            if found.shape != like.shape or found.dtype != like.dtype:
                raise CheckpointError(
                    f"optimiser state: {key} is {found.dtype} {list(found.shape)}, "
                    f"expected {like.dtype} {list(like.shape)}"
                )

    def _adam_state(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = self._masters[name].device
        # The fused kernel counts steps on the device, the others on the CPU.
        step_device = device if self._adamw.defaults["fused"] else torch.device("cpu")
        devices = (step_device, device, device)
        return {
            key: tensors[f"{name}.{key}"].to(target, copy=True)
            for key, target in zip(ADAM_STATE, devices, strict=True)
        }


def trainable(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Parameters that need a gradient, by name.

    Raises:
        ValueError: a name is used twice, or nothing is to be trained.
    """
    parameters: dict[str, nn.Parameter] = {}
    for name, parameter in named:
        if name in parameters:
            raise ValueError(f"named_parameters: {name} is there twice")
        if parameter.requires_grad:
            parameters[name] = parameter
    if not parameters:
        raise ValueError("named_parameters: no parameter needs a gradient")
    return parameters


def _master_of(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype not in (torch.float16, torch.bfloat16):
        return parameter
    return nn.Parameter(parameter.detach().float())
