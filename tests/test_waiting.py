"""Who waits for what Python cannot interrupt says so, and passes on what came of it."""

from __future__ import annotations

import io
import threading

import pytest

from grow.cli.progress import Progress
from grow.waiting import beside


def test_what_comes_of_the_work_is_passed_on():
    assert beside(lambda: 7, lambda: None) == 7
    for error in (ValueError("no"), TimeoutError("its own"), SystemExit(3)):

        def work(error=error):
            raise error

        with pytest.raises(type(error)) as found:
            beside(work, lambda: None)
        assert found.value is error


def test_there_are_signs_of_life_until_the_work_is_done(monkeypatch):
    monkeypatch.setattr("grow.waiting.TICK", 0.01)
    enough, ticks = threading.Event(), []

    def alive() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            enough.set()

    assert beside(lambda: enough.wait(60), alive)
    assert len(ticks) >= 3


def test_a_wait_can_be_interrupted(monkeypatch):
    monkeypatch.setattr("grow.waiting.TICK", 0.01)
    never = threading.Event()

    def alive() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        beside(never.wait, alive)
    never.set()


def test_a_long_text_is_told_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now, terminal = [0.0], Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress()
    for now[0], count in ((1.0, 50), (2.0, 50), (5.0, 50), (6.0, 90)):
        progress.tokens(count)
    said = terminal.getvalue().split("\r\x1b[2K")[1:]
    assert said == [
        "50 tokens, 50 per second",
        "50 tokens, 25 per second; a long text, since 1 s",
        "50 tokens, 10 per second; a long text, since 4 s",
        "90 tokens, 15 per second",
    ]
