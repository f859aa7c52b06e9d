"""Ctrl-C is a clean end, also where a library swallows or disguises it."""

import signal
import threading

import pytest

from RegistrationNetLib.cli.interruption import Interruption
from RegistrationNetLib.errors import Cancelled
from RegistrationNetLib.progress import Progress

SOME = Progress("prepare", 0.5, None)


def press(number: signal.Signals = signal.SIGINT) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_and_is_remembered(number: signal.Signals) -> None:
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt):
            press(number)
        assert interruption.is_requested


def test_impatience_does_not_disturb_the_cleaning_up() -> None:
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt):
            press()
        press()
        assert interruption.is_requested


def test_a_swallowed_signal_ends_the_work_at_the_next_progress() -> None:
    seen: list[Progress] = []
    with Interruption() as interruption:
        callback = interruption.checked(seen.append)
        callback(SOME)
        with pytest.raises(KeyboardInterrupt):
            press()
        with pytest.raises(Cancelled, match="nothing was written"):
            callback(SOME)
    assert seen == [SOME]


def test_after_the_results_are_written_nothing_is_cancelled() -> None:
    with Interruption() as interruption:
        interruption.too_late()
        press()
        assert not interruption.is_requested


def test_the_handlers_from_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            press()
            assert not interruption.is_requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone() -> None:
    before, inside = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interruption():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_patient_work_hears_the_first_signal_at_its_next_check_and_the_second_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interruption() as interruption, interruption.patient():
        press()
        with pytest.raises(Cancelled):
            interruption.check()
        monkeypatch.setattr("RegistrationNetLib.cli.interruption.GRACE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            press()
