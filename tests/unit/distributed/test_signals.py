from __future__ import annotations

import os
import signal

import pytest

from gazetteer.distributed.signals import SIGNALS, StopRequest
from gazetteer.records import Ranks


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_nothing_else_happens(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert not stop.requested(Ranks())
        os.kill(os.getpid(), number)
        assert stop.requested(Ranks())
        assert stop.requested(Ranks())


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_repeated_preemption_still_waits() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(Ranks())


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError), StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise ValueError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_nccl_s_own_signal_is_left_alone() -> None:
    assert signal.SIGUSR1 not in SIGNALS
