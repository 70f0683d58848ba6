"""Progress on a terminal, silence in a pipe."""

from __future__ import annotations

import sys
import time

from grow.errors import one_line


class Progress:
    """One line on stderr that is rewritten: bytes and time left while writing, then the running check."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stderr.isatty()
        self.started = time.monotonic()
        self.last = 0.0
        self.counted, self.since = 0, self.started

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line("")

    def bytes(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.shown or (now - self.last < 0.1 and done < total):
            return
        self.last = now
        passed = now - self.started
        left = passed * (total - done) / max(done, 1)
        width = 30
        bar = "█" * (width * done // max(total, 1))
        self._line(f"writing {bar:<{width}} {size(done)} of {size(total)}, {left:.0f} s left")

    def tokens(self, count: int) -> None:
        now = time.monotonic()
        if count != self.counted:
            self.counted, self.since = count, now
        if self.shown and now - self.last >= 0.1:
            self.last = now
            still = f"; a long text, since {now - self.since:.0f} s" if now - self.since >= 1 else ""
            self._line(f"{count:,} tokens, {count / max(now - self.started, 1e-9):,.0f} per second{still}")

    def rung(self, name: str) -> None:
        self._line(f"checking {name} …")

    def _line(self, text: str) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[2K" + one_line(text))
            sys.stderr.flush()


def size(count: float) -> str:
    """`1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
