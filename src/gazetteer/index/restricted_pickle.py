"""Pickles of plain data, read and written without Python's unpickler.

A pickle is a program for a stack machine. The machine here has no instruction that imports or
calls anything: a global that a pickle names is refused, or, where the caller knows it, kept as a
symbol. No list or dict is met twice, so what comes out is no larger than the pickle.
"""

# ruff: noqa: D102 - one method per instruction, and named as it is
from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import IO, Any, cast

BATCH_MEMBERS = 1000
"""Members of a list that stand on the stack together, as in Python's own pickles."""


class RefusedPickleError(ValueError):
    """A pickle is damaged or holds more than plain data; the caller adds the file's name."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A global that a pickle names, such as "torch.HalfStorage"; never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a pickle asks for; never made."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """Something that a pickle says is kept outside of it (a persistent id)."""

    key: Any


def read_pickle(source: IO[bytes], symbols: frozenset[str] = frozenset()) -> Any:  # noqa: ANN401
    """Read a pickle that holds only lists, dicts, strings, finite numbers, booleans and None.

    Args:
        source: at the pickle's first byte; left after its last one.
        symbols: globals that may occur, as `Symbol`; with them tuples, calls and persistent ids.

    Returns:
        What JSON could hold, as a tree, and where `symbols` are given their kin as well.

    Raises:
        RefusedPickleError: anything else is in it, or it is damaged.
    """
    return run_pickle(source, Machine(symbols), PLAIN | SYMBOLIC if symbols else PLAIN)


def run_pickle(source: IO[bytes], machine: Machine, actions: Mapping[str, Action]) -> Any:  # noqa: ANN401
    """Run the instructions of a pickle on a machine of the caller's.

    Raises:
        RefusedPickleError: one of them is not among `actions`, or the pickle is damaged.
    """
    # Without a `tell`, which would be called for each instruction.
    reader = cast(IO[bytes], SimpleNamespace(read=source.read, readline=source.readline))
    try:
        for instruction, argument, _ in pickletools.genops(reader):
            action = actions.get(instruction.name)
            if action is None:
                raise RefusedPickleError(f"holds more than plain data ({instruction.name})")
            action(machine, argument)
        return machine.result()
    except RefusedPickleError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise RefusedPickleError(f"not a whole pickle ({reason})") from None


class Machine:
    """The stack, the marks that were set on it, and the memo. One method per kind of instruction.

    Instructions come from a file that may be malicious: what is not exactly as a pickler writes it
    ends in an exception.
    """

    __slots__ = ("_marked", "_memo", "_stack", "_symbols")

    def __init__(self, symbols: frozenset[str]) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._symbols = symbols

    def result(self) -> Any:  # noqa: ANN401 - whatever the pickle holds
        """What is left on the stack at the end."""
        (value,) = self._stack
        if self._marked:
            raise ValueError("a mark is left over")
        return value

    def pass_over(self, _: object) -> None:
        """Nothing to do: a frame, a protocol number, the end."""

    def push_none(self, _: None) -> None:
        self._stack.append(None)

    def push_true(self, _: None) -> None:
        self._stack.append(True)

    def push_false(self, _: None) -> None:
        self._stack.append(False)

    def push_text(self, text: str) -> None:
        if not text.isascii():
            # Half a surrogate pair can be pickled, but not written in UTF-8.
            text.encode()
        self._stack.append(text)

    def push_integer(self, number: int) -> None:
        if number.bit_length() > 64:
            raise RefusedPickleError("holds an integer of more than 64 bits")
        self._stack.append(number)

    def push_float(self, number: float) -> None:
        if not math.isfinite(number):
            raise RefusedPickleError(f"holds the number {number}, expected finite ones")
        self._stack.append(number)

    def push_list(self, _: None) -> None:
        self._stack.append([])

    def push_dict(self, _: None) -> None:
        self._stack.append({})

    def mark(self, _: None) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _take_marked(self) -> list[Any]:
        taken, self._stack = self._stack, self._marked.pop()
        return taken

    def make_list(self, _: None) -> None:
        members = self._take_marked()
        self._stack.append(members)

    def make_dict(self, _: None) -> None:
        members = self._take_marked()
        self._stack.append({})
        self._put(members)

    def append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def append_marked(self, _: None) -> None:
        self._extend(self._take_marked())

    def _extend(self, members: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError("members for what is no list")
        target.extend(members)

    def set_item(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._put([key, value])

    def set_marked(self, _: None) -> None:
        self._put(self._take_marked())

    def _put(self, members: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise TypeError("fields for what is no dict")
        for key, value in zip(members[::2], members[1::2], strict=True):
            if type(key) is not str:
                raise RefusedPickleError("holds a dict with keys that are no strings")
            target[key] = value

    def memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def get(self, place: int) -> None:
        value = self._memo[place]
        # Lists of the same list of the same list ... would be endless to whoever walks through.
        if type(value) in (list, dict):
            raise RefusedPickleError("holds the same list or dict twice")
        self._stack.append(value)

    def push_global(self, name: str) -> None:
        dotted = ".".join(name.split(" ", 1))
        if dotted not in self._symbols:
            raise RefusedPickleError(f"refers to {ascii(dotted)[1:-1]}, expected plain data only")
        self._stack.append(Symbol(dotted))

    def push_stacked_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self.push_global(f"{module} {name}")

    def push_empty_tuple(self, _: None) -> None:
        self._stack.append(())

    def make_tuple(self, _: None) -> None:
        members = self._take_marked()
        self._stack.append(tuple(members))

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("too few members for a tuple")
        members = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(members)

    def call(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not Symbol or type(arguments) is not tuple:
            raise TypeError("a call of what is no function")
        self._stack.append(self.called(function.name, arguments))

    def called(self, function: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """What stands for the result of a call."""
        return Call(function, arguments)

    def refer(self, _: None) -> None:
        self._stack.append(Reference(self._stack.pop()))


Action = Callable[[Any, Any], None]
"""What an instruction does to a machine with its argument."""

PLAIN: dict[str, Action] = (
    dict.fromkeys(["PROTO", "FRAME", "STOP"], Machine.pass_over)
    | dict.fromkeys(["UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"], Machine.push_text)
    | dict.fromkeys(
        ["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"], Machine.push_integer
    )
    | dict.fromkeys(["FLOAT", "BINFLOAT"], Machine.push_float)
    | dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], Machine.put)
    | dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], Machine.get)
    | dict.fromkeys(["GLOBAL", "INST"], Machine.push_global)
    | {
        "NONE": Machine.push_none,
        "NEWTRUE": Machine.push_true,
        "NEWFALSE": Machine.push_false,
        "EMPTY_LIST": Machine.push_list,
        "EMPTY_DICT": Machine.push_dict,
        "MARK": Machine.mark,
        "LIST": Machine.make_list,
        "DICT": Machine.make_dict,
        "APPEND": Machine.append,
        "APPENDS": Machine.append_marked,
        "SETITEM": Machine.set_item,
        "SETITEMS": Machine.set_marked,
        "MEMOIZE": Machine.memoize,
        "STACK_GLOBAL": Machine.push_stacked_global,
    }
)
SYMBOLIC: dict[str, Action] = {
    "EMPTY_TUPLE": Machine.push_empty_tuple,
    "TUPLE": Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "REDUCE": Machine.call,
    "BINPERSID": Machine.refer,
}


def write_list(members: Iterable[Any], target: IO[bytes]) -> None:
    """Write a list as a pickle of protocol 2, which every Python reads.

    Args:
        members: plain data; may be a stream.
        target: written from where it stands.

    Raises:
        TypeError: a member holds something else.
    """
    target.write(b"\x80\x02]")
    iterator = iter(members)
    while batch := list(islice(iterator, BATCH_MEMBERS)):
        target.write(b"(" + b"".join(map(_pickled, batch)) + b"e")
    target.write(b".")


def _pickled(value: Any) -> bytes:  # noqa: ANN401 - checked here
    if isinstance(value, str):
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, dict):
        pairs = (_pickled(key) + _pickled(member) for key, member in value.items())
        return b"}(" + b"".join(pairs) + b"u"
    raise TypeError(f"{type(value).__name__} is no plain data")
