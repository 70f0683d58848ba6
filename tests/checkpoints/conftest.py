"""No file makes a reader hang."""

import signal

import pytest


@pytest.fixture(autouse=True)
def _never_hangs():
    def stop(*_):
        raise TimeoutError("a malformed checkpoint made the reader wait")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
