"""Signals sent for real: to this process, and to others that they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from dlrun.training.signals import StopFlag, watch_signals

NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"]
WAIT = "import os, signal\nfrom dlrun.training.signals import watch_signals\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_raises_the_flag_and_the_old_handler_comes_back(name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with watch_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.number == number
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(signal.Signals[name]) for name in NAMES]
    with pytest.raises(RuntimeError, match="on purpose"), watch_signals():
        raise RuntimeError("on purpose")
    assert [signal.getsignal(signal.Signals[name]) for name in NAMES] == before


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGTERM", "SIGHUP")])
def test_a_second_signal_ends_the_process_at_once(first: str, second: str) -> None:
    program = (
        f"{WAIT}import dlrun.training.signals\ndlrun.training.signals.TWICE = 0\nwith watch_signals():\n"
        f"    os.kill(os.getpid(), signal.{first})\n    print('one', flush=True)\n"
        f"    os.kill(os.getpid(), signal.{second})\n    print('two', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 128 + signal.Signals[second]
    assert ended.stdout == "one\n"


def test_two_signals_in_a_moment_are_one() -> None:
    """A batch system sends SIGTERM to every process of a job, and the parent process sends it too."""
    with watch_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM


def test_nohup_stays_obeyed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watch_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_gets_an_inert_flag() -> None:
    found: list[tuple[StopFlag, object]] = []

    def work() -> None:
        with watch_signals() as stop:
            found.append((stop, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ((stop, handler),) = found
    assert not stop
    assert handler is before
