"""Tests SIGTERM and Ctrl-C in the loop; test_signals and test_train test their effects."""

import signal
from collections.abc import Iterator

import pytest

from fsvfm_jax.run.preemption import Preemption, StopWaiting

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def preemption() -> Iterator[Preemption]:
    before = [signal.getsignal(number) for number in NUMBERS]
    with Preemption() as preemption:
        preemption.begin_steps()
        yield preemption
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_remembered(preemption, number):
    assert not preemption.requested()
    preemption.check()
    signal.raise_signal(number)
    assert preemption.requested() and preemption.requested()
    with pytest.raises(StopWaiting):
        preemption.check()


def test_sigterm_may_come_again(preemption):
    for _ in range(3):
        signal.raise_signal(signal.SIGTERM)
    assert preemption.requested()


def test_a_second_ctrl_c_is_an_interrupt(preemption):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_waiting_ends_when_the_signal_comes_and_is_not_begun_after_it(preemption):
    with preemption.waiting():
        pass
    with pytest.raises(StopWaiting), preemption.waiting():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on waiting")
    with pytest.raises(StopWaiting), preemption.waiting():
        pytest.fail("it began to wait")
    signal.raise_signal(signal.SIGTERM)  # outside `waiting`
