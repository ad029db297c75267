"""AdamW whose state is spread over the ranks: each of them updates the parameters it owns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from gazetteer.distributed.ownership import Owners, buckets_by_owner, owned_here, publish
from gazetteer.training.optimiser import MasterWeightAdamW, Rows, trainable


class OwnedAdamW:
    """`MasterWeightAdamW` for the parameters of this rank; the others' come from their owners.

    Every parameter is updated as if nothing was spread, so the weights are the same bits.

    Args:
        named_parameters: as for `MasterWeightAdamW`, on every rank all of them.
        owners: the rank that updates each.
        settings: of `MasterWeightAdamW`.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        owners: Owners,
        **settings: Any,  # noqa: ANN401 - of MasterWeightAdamW
    ) -> None:
        self._parameters = trainable(named_parameters)
        self._own = [(n, p) for n, p in self._parameters.items() if owned_here(p, owners)]
        self._adamw = MasterWeightAdamW(self._own, **settings) if self._own else None
        self._buckets = buckets_by_owner(self.parameters, owners)
        self._learning_rate = settings["learning_rate"]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters being trained, of all ranks, in the order given: what to clip."""
        return list(self._parameters.values())

    @property
    def rows(self) -> Mapping[str, Rows | None]:
        """The parameters whose state is here; all of each."""
        return dict.fromkeys(dict(self._own))

    @property
    def names(self) -> Iterable[str]:
        """The parameters being trained, of all ranks."""
        return self._parameters.keys()

    @property
    def is_spread(self) -> bool:
        """True: every rank has a part of the state."""
        return True

    @property
    def learning_rate(self) -> float:
        """What the next update will use."""
        return self._learning_rate

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set what the next update will use."""
        self._learning_rate = learning_rate
        if self._adamw is not None:
            self._adamw.set_learning_rate(learning_rate)

    def step(self, *, gradient_scale: float = 1.0) -> None:
        """Apply one update, and give all ranks the new weights.

        Collective: every rank must call this.

        Args:
            gradient_scale: as in `MasterWeightAdamW.step`.
        """
        if self._adamw is not None:
            self._adamw.step(gradient_scale=gradient_scale)
        publish(self._buckets)

    def zero_grad(self) -> None:
        """Forget the gradients and free their memory."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """As `MasterWeightAdamW.state_tensors`, of this rank's own parameters."""
        return self._adamw.state_tensors() if self._adamw is not None else {}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """As `MasterWeightAdamW.load_state_tensors`, for this rank's own parameters.

        Raises:
            CheckpointError: as there.
        """
        if self._adamw is not None:
            self._adamw.load_state_tensors(tensors)
