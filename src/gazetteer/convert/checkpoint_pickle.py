"""The pickle inside a checkpoint: dicts of tensors, numbers and options; nothing in it is run.

What a training state holds beyond plain data is known by name. Every other class is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, Any

from gazetteer.index.restricted_pickle import (
    PLAIN,
    SYMBOLIC,
    Action,
    Call,
    Machine,
    RefusedPickleError,
    Symbol,
    run_pickle,
)

STORAGES = frozenset(
    f"torch.{kind}Storage"
    for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte")
) | {"torch.BoolStorage", "torch.storage.UntypedStorage"}
DICTS = frozenset({"collections.OrderedDict", "collections.defaultdict"})
NAMESPACE = "argparse.Namespace"
REBUILD = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
KNOWN = (
    STORAGES
    | DICTS
    | {NAMESPACE, REBUILD, REBUILD_PARAMETER, "torch.Size", "torch.device", "builtins.dict"}
    | {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int64", "bool")}
    # Numbers of numpy among options and statistics.
    | {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
    | {"numpy.dtype", "_codecs.encode", "pathlib.PosixPath"}
)
"""Globals that a checkpoint may name. They are kept as names and never looked up."""


@dataclass(slots=True)
class Namespace:
    """An `argparse.Namespace`: the options of the run that saved."""

    fields: dict[str, Any] = field(default_factory=dict)


def read_checkpoint_pickle(source: IO[bytes]) -> Any:  # noqa: ANN401 - checked by the caller
    """Read the pickle of a checkpoint.

    Returns:
        Dicts, lists, tuples and plain values; tensors and other objects as `Call`, options as
        `Namespace`. An object that the pickle holds twice is the same object twice, so it may
        contain itself: look things up, do not walk through.

    Raises:
        RefusedPickleError: it names another class or function, or is damaged.
    """
    return run_pickle(source, _CheckpointMachine(KNOWN), _ACTIONS)


class _CheckpointMachine(Machine):
    __slots__ = ()

    def push_global(self, name: str) -> None:
        dotted = ".".join(name.split(" ", 1))
        if dotted not in self._symbols:
            raise RefusedPickleError(
                f"names {ascii(dotted)[1:-1]}, which no checkpoint of Atlas holds; nothing was run"
            )
        self._stack.append(Symbol(dotted))

    def push_number(self, number: float) -> None:
        """Any number: statistics may be infinite."""
        self._stack.append(number)

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def called(self, function: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        if function in DICTS:
            # Their fields follow; no version of Python writes them as arguments.
            return {}
        return Namespace() if function == NAMESPACE else Call(function, arguments)

    def set_state(self, _: None) -> None:
        """Attributes of the object below: kept for options alone."""
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is Namespace:
            if type(state) is not dict:
                raise TypeError("options that are no dict")
            target.fields.update(state)
        elif type(target) not in (dict, Call):
            raise TypeError("attributes for what has none")

    def _put(self, members: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise TypeError("fields for what is no dict")
        for key, value in zip(members[::2], members[1::2], strict=True):
            # Optimiser states are numbered.
            if type(key) not in (str, int):
                raise RefusedPickleError("holds a dict with keys that are no strings or numbers")
            target[key] = value


_OWN: dict[str, Action] = {
    "GLOBAL": _CheckpointMachine.push_global,
    "FLOAT": _CheckpointMachine.push_number,
    "BINFLOAT": _CheckpointMachine.push_number,
    "GET": _CheckpointMachine.get,
    "BINGET": _CheckpointMachine.get,
    "LONG_BINGET": _CheckpointMachine.get,
    "BUILD": _CheckpointMachine.set_state,
    "NEWOBJ": _CheckpointMachine.call,
}
_ACTIONS = PLAIN | SYMBOLIC | _OWN
