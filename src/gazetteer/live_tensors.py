"""How much memory a computation needs, found by carrying it out on tensors without contents.

Tensors on torch's "meta" device have shapes and no numbers. Every tensor that an operation makes
is counted from then on until nobody refers to it, in forward and in backward, so what is kept for
the backward pass, what gradient checkpointing saves, and where the peak lies come out by
themselves, for any model. What operations use inside themselves is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ITEM = torch.ops.aten._local_scalar_dense.default
_INDEX = torch.ops.aten.index.Tensor
_Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of living tensors while it is entered.

    Where the computation asks a tensor without contents for a number it is told 1 or True, as a
    mask says where no text is padded; and where a mask chooses, it chooses everything.

    Args:
        held: modules whose weights are there before and are not counted. Gradients that their
            parameters are given are.
    """

    def __init__(self, held: Iterable[nn.Module]) -> None:
        super().__init__()
        self.peak = 0
        """Largest number of bytes at once, gradients included."""
        self.peak_beside_gradients = 0
        """The same, gradients of parameters left out."""
        self._now = 0
        self._gradients = 0
        self._living: dict[int, weakref.ref[Any]] = {}
        self._shapes: dict[Any, _Shape | tuple[_Shape, ...] | None] = {}
        self._held = tuple(held)
        self._hooks: list[Any] = []

    def __enter__(self) -> LiveTensors:
        for module in self._held:
            for tensor in (*module.parameters(), *module.buffers()):
                self._count(tensor, size=0)
            for parameter in module.parameters():
                if parameter.requires_grad:
                    hook = parameter.register_post_accumulate_grad_hook(self._note_gradient)
                    self._hooks.append(hook)
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:  # noqa: ANN401 - as the base class
        super().__exit__(*reason)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - as the base class
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Carry out one operation and count what it makes."""
        if func is _ITEM and args[0].device.type == "meta":
            return True if args[0].dtype == torch.bool else 1
        if func is _INDEX:
            args = (args[0], [place for each in args[1] for place in _places(each)])
        made = self._carry_out(func, args, dict(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return made

    def _carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What shape comes out is found out once for operation and arguments: that is slow."""
        key = _key_of(func, args, kwargs)
        if key is not None and (known := self._shapes.get(key)) is not None:
            return _empty(known)
        made = func(*args, **kwargs)
        if key is not None and key not in self._shapes:
            self._shapes[key] = _shapes_of(made, args)
        return made

    def _count(self, tensor: Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        # Python's object of a storage is as old as the storage; its address tells storages apart.
        address = storage._cdata
        if address in self._living:
            return
        size = storage.nbytes() if size is None else size
        self._living[address] = weakref.ref(storage, self._forget(address, size))
        self._now += size
        self.peak = max(self.peak, self._now)
        beside = self._now - self._gradients
        self.peak_beside_gradients = max(self.peak_beside_gradients, beside)

    def _forget(self, address: int, size: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            if self._living.pop(address, None) is not None:
                self._now -= size

        return forget

    def _note_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._gradients += parameter.grad.untyped_storage().nbytes()


class FusedOnGpu(TorchFunctionMode):
    """Has tensors without contents take the ways that a GPU takes: fused attention and dropout.

    Left to itself, the "meta" device would write out every attention weight.
    """

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - as the base class
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Carry out one function of torch."""
        given = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            return _fused_attention(*args, **given)
        if func is nn.functional.dropout:
            return _fused_dropout(*args, **given)
        return func(*args, **given)


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        heads = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device=attn_mask.device)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


def _fused_dropout(
    states: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0 or inplace:
        return states
    return torch.native_dropout(states, p, True)[0]


def _places(index: Tensor | None) -> list[Tensor | None]:
    """A mask without contents as the places it would choose: all, one row for each dimension."""
    if index is None or index.device.type != "meta" or index.dtype != torch.bool:
        return [index]
    chosen = torch.empty(index.dim(), index.numel(), dtype=torch.int64, device="meta")
    return list(chosen)


def _key_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """What the shapes of the result depend on; None where it is more than shapes."""
    schema = func._schema
    if schema.is_mutable or any(each.alias_info is not None for each in schema.returns):
        return None
    try:
        key = (func, _frozen(args), _frozen(tuple(sorted(kwargs.items()))))
        hash(key)
    except (TypeError, ValueError):
        return None
    return key


def _frozen(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        if value.device.type != "meta":
            raise ValueError("its contents may count")
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(_frozen(each) for each in value)
    # True and 1 are equal, and ask for results of different types.
    return (type(value), value)


def _shapes_of(made: Any, args: tuple[Any, ...]) -> _Shape | tuple[_Shape, ...] | None:  # noqa: ANN401
    """Shapes of new tensors; None for anything else, and for views that do not say so."""
    tensors = made if isinstance(made, tuple) else (made,)
    if not all(isinstance(t, Tensor) and t.device.type == "meta" for t in tensors):
        return None
    given = {
        leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)
    }
    if any(t.untyped_storage()._cdata in given for t in tensors):
        return None
    shapes = tuple((t.shape, t.stride(), t.dtype) for t in tensors)
    return shapes if isinstance(made, tuple) else shapes[0]


def _empty(known: _Shape | tuple[_Shape, ...]) -> Any:  # noqa: ANN401
    if isinstance(known[0], torch.Size):
        shape, stride, dtype = known
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")  # type: ignore[arg-type]
    return tuple(_empty(each) for each in known)  # type: ignore[arg-type]
