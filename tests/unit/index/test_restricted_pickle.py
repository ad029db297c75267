"""Plain data comes back, whatever Python wrote it; whatever asks for code is refused, not run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazetteer.index.restricted_pickle import (
    Call,
    RefusedPickleError,
    Symbol,
    read_pickle,
    write_list,
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


def read(content: bytes) -> Any:
    return read_pickle(io.BytesIO(content))


@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_of_every_protocol_comes_back(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@given(members=st.lists(PLAIN))
def test_what_is_written_is_a_pickle_that_python_and_we_read(members: list[Any]) -> None:
    target = io.BytesIO()
    write_list(iter(members), target)
    assert pickle.loads(target.getvalue()) == members  # noqa: S301 - our own
    assert read(target.getvalue()) == members
    pickletools.dis(target.getvalue(), io.StringIO())


def test_long_lists_are_written_in_batches() -> None:
    members = [{"id": str(number)} for number in range(2500)]
    target = io.BytesIO()
    write_list(members, target)
    assert pickle.loads(target.getvalue()) == members  # noqa: S301 - our own


def test_what_is_no_plain_data_is_not_written() -> None:
    with pytest.raises(TypeError, match="set is no plain data"):
        write_list([{"a": {1}}], io.BytesIO())


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._flag}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["alone", "in a list", "as a field"])
def test_a_trap_is_named_and_does_not_go_off(protocol: int, place: str, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "ran")
    value = {"alone": trap, "in a list": [[trap]], "as a field": [{"text": trap}]}[place]
    content = pickle.dumps(value, protocol)
    with pytest.raises(RefusedPickleError, match=r"^refers to posix\.system, expected plain"):
        read(content)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)  # noqa: S301 - shows that the trap is one
    assert (tmp_path / "ran").exists()


CRAFTED = {
    "instance": b"(S'touch ran'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nX\x01\0\0\0ao.",
    "stacked name": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "extension": b"\x80\x02\x82\x01.",
    "build": b"\x80\x02}}b.",
    "new object": b"\x80\x02})\x81.",
    "call": b"\x80\x02}}R.",
    "call of a text": b"\x80\x02X\x01\0\0\0a)R.",
    "persistent id": b"\x80\x02X\x01\0\0\0aQ.",
    "textual persistent id": b"Pa\n.",
    "buffer": b"\x80\x05\x97.",
    "tuple": b"\x80\x02).",
    "bytes": b"\x80\x03C\x01a.",
    "set": b"\x80\x04\x8f.",
    "list in itself": b"\x80\x02]q\0h\0a.",
    "lists of the same list": b"\x80\x02]q\0](h\0h\0e.",
    "dict with a number as key": b"\x80\x02}K\x01Ns.",
    "half a surrogate pair": b"\x80\x02X\x03\0\0\0\xed\xa0\x80.",
    "infinite": b"\x80\x02G\x7f\xf0\0\0\0\0\0\0.",
    "enormous integer": b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x7f.",
    "text longer than the file": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "memo far away": b"\x80\x02j\xff\xff\xff\xff.",
    "nothing to pop": b"\x80\x02a.",
    "no mark": b"\x80\x02e.",
    "a mark left over": b"\x80\x02(N.",
    "two values": b"\x80\x02NN.",
    "a field without value": b"\x80\x02}(X\x01\0\0\0au.",
    "members of a text": b"\x80\x02X\x01\0\0\0a(Ne.",
    "fields of a list": b"\x80\x02](X\x01\0\0\0aNu.",
    "no end": b"\x80\x02N",
    "nothing": b"",
    "no pickle": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("content", CRAFTED.values(), ids=CRAFTED.keys())
def test_what_no_pickler_of_plain_data_writes_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedPickleError) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_a_memo_place_of_four_billion_costs_nothing() -> None:
    assert read(b"\x80\x02Nr\xff\xff\xff\xff.") is None


@given(content=st.binary(max_size=60))
@settings(max_examples=300)
def test_random_bytes_are_refused_or_plain(content: bytes) -> None:
    try:
        value = read(b"\x80\x04" + content)
    except RefusedPickleError:
        return
    assert isinstance(value, list | dict | str | int | float | None)


@given(value=st.lists(PLAIN, max_size=5), data=st.data())
@settings(max_examples=200)
def test_damaged_pickles_are_refused_or_plain(value: list[Any], data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(value))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(content))
    except RefusedPickleError:
        return
    assert isinstance(found, list | dict | str | int | float | None)


def test_known_names_stay_symbols_and_calls_are_not_made() -> None:
    content = pickle.dumps(Trap(Path("unused")), 2)
    found = read_pickle(io.BytesIO(content), frozenset({"posix.system"}))
    assert found == Call("posix.system", ("touch unused",))
    with pytest.raises(RefusedPickleError, match=r"refers to builtins\.eval"):
        read_pickle(io.BytesIO(b"\x80\x02cbuiltins\neval\n."), frozenset({"posix.system"}))
    kept = read_pickle(io.BytesIO(b"\x80\x02cbuiltins\neval\n."), frozenset({"builtins.eval"}))
    assert kept == Symbol("builtins.eval")
    with pytest.raises(RefusedPickleError, match="BUILD"):
        read_pickle(io.BytesIO(b"\x80\x02ca\nb\n}b."), frozenset({"a.b"}))
