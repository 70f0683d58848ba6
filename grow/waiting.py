"""Calls that Python cannot interrupt, run in a thread so that the caller can report and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

TICK = 1.0  # seconds between two signs of life


def beside(work: Callable[[], Any], alive: Callable[[], None]) -> Any:
    """What `work` returns or raises; `alive` is called every second until then.

    A signal that comes meanwhile leaves the work to itself: the end of the interpreter does not wait for it.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # the threads of a pool would be waited for
    while True:
        try:
            return done.result(timeout=TICK)
        except NotYet:
            if done.done():  # it was the work's own
                raise
            alive()
