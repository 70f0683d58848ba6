"""The file metrics.jsonl, and the same numbers on the terminal.

    {"step": 7, "tokens": 14336, "loss": 3.02…, "lr": 0.0002, "grad_norm": 0.71…, "flops": …,
     "seconds": …, "tokens_per_second": …}

"seconds" are those of the steps so far, without evaluation and saving, across interruptions. Numbers are float64 and
written so that they read back bit for bit. "val_loss" appears where it was measured.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

from grow.errors import one_line
from grow.files.regular import MAX_LOG, is_there, read_file
from grow.files.writer import write_whole
from grow.training.log.trackers import Tracker, close_trackers, open_trackers
from grow.training.settings.run_settings import Settings

METRICS = "metrics.jsonl"
SPEED_OVER = 20  # steps
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


class Log:
    """The log of a run, written by the first process alone. It drops the lines of steps that are done again."""

    def __init__(self, run: Path, settings: Settings, *, done: int, steps: int, quiet: bool) -> None:
        self.path, self.settings, self.steps, self.quiet = run / METRICS, settings, steps, quiet
        self.trackers: list[Tracker] = open_trackers(
            run, settings, done
        )  # it may refuse, so it comes before the file is touched
        self.live = not quiet and sys.stderr.isatty()
        lines = kept_lines(self.path, done) if done else []
        write_whole(self.path, "".join(lines).encode())
        self.file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self.pace = Pace(steps)

    def record(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry, allow_nan=False) + "\n")
        self.file.flush()
        for tracker in list(self.trackers):
            try:
                tracker.record(entry)
            except Exception as error:  # trackers are other people's packages; the run is worth more than its picture
                self.trackers.remove(tracker)
                self.note(f"a tracker is left out from step {entry['step']} on: {type(error).__name__}: {error}")
        self.pace.add(entry)
        if not self.quiet:
            self._say(entry)

    def note(self, text: str) -> None:
        if not self.quiet:
            sys.stderr.write(("\r\x1b[2K" if self.live else "") + f"note: {one_line(text)}\n")
            sys.stderr.flush()

    def sync(self) -> None:
        """Flush what was recorded to disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
        self.file.close()
        close_trackers(self.trackers)

    def _say(self, entry: dict[str, Any]) -> None:
        step = entry["step"]
        parts = [f"step {step:>{len(str(self.steps))}}/{self.steps}"]
        if "loss" in entry:
            parts.append(f"loss {entry['loss']:.4f}")
        if "val_loss" in entry:
            parts.append(f"val {entry['val_loss']:.4f}")
        if "lr" in entry:
            parts.append(f"lr {entry['lr']:.2e}  norm {entry['grad_norm']:.2f}")
            parts += self.pace.words()
        sparse = step % self.settings.log_every == 0 or step in (1, self.steps) or "val_loss" in entry
        if self.live:
            line = "  ".join(parts)
            if "val_loss" not in entry:  # a line that wraps could not be rewritten
                line = line[: shutil.get_terminal_size().columns - 1]
            sys.stderr.write("\r\x1b[2K" + line + ("\n" if "val_loss" in entry else ""))
            sys.stderr.flush()
        elif sparse:
            print("  ".join(parts), file=sys.stderr, flush=True)


class Pace:
    """How fast a run goes over the last 20 steps, and how long it will still take at its pace since it began or was
    resumed, evaluation and saving included."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.last: deque[dict[str, Any]] = deque(maxlen=SPEED_OVER + 1)
        self.first: tuple[int, float] | None = None

    def add(self, entry: dict[str, Any]) -> None:
        self.last.append({**entry, "clock": time.monotonic()})
        if self.first is None and "loss" in entry:  # the first step takes longer: it allocates memory and compiles
            self.first = entry["step"], self.last[-1]["clock"]

    def words(self) -> list[str]:
        """`841 tokens/s`, `1.2 TFLOPs at 26 GFLOP/s`, `0:37 left`."""
        a, b = self.last[0], self.last[-1]
        seconds = b["seconds"] - a["seconds"]
        if len(self.last) == 1 or seconds <= 0:
            parts = [f"{b['tokens_per_second']:,.0f} tokens/s", f"{flops(b['flops'])}FLOPs"]
        else:
            speed = (b["flops"] - a["flops"]) / seconds
            parts = [f"{(b['tokens'] - a['tokens']) / seconds:,.0f} tokens/s"]
            parts.append(f"{flops(b['flops'])}FLOPs at {flops(speed)}FLOP/s")
        if (left := self.left()) is not None:
            parts.append(f"{clock(left)} left")
        return parts

    def left(self) -> float | None:
        """The seconds that are left; None before there is a pace."""
        now = self.last[-1]
        if self.first is None or now["step"] == self.first[0] or now["step"] >= self.steps:
            return None
        step, began = self.first
        return float((now["clock"] - began) / (now["step"] - step) * (self.steps - now["step"]))


def flops(count: float) -> str:
    """`1.23 T`: three digits and a prefix."""
    unit, prefix = next(((unit, prefix) for unit, prefix in PREFIXES if count >= unit), (1.0, ""))
    return f"{count / unit:.3g} {prefix}"


def clock(seconds: float) -> str:
    """`0:37`, `1:02:03`, `3 d 04:05`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def kept_lines(path: Path, done: int) -> list[str]:
    """The lines of steps up to `done`, without one that a killed run cut off."""
    if not is_there(path):
        return []
    kept = []
    fix = "bring it back, or begin another run"
    for line in read_file(path, most=MAX_LOG, fix=fix).decode("utf-8", "replace").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if line.endswith("\n") and isinstance(step, int) and step <= done:
            kept.append(line)
    return kept


def recorded(path: Path) -> set[int]:
    """The steps that have a line with a loss."""
    entries = [json.loads(line) for line in kept_lines(path, 1 << 62)]
    return {entry["step"] for entry in entries if "loss" in entry}


def last_losses(path: Path, done: int) -> tuple[float | None, float | None]:
    """The last loss and validation loss up to step `done`."""
    entries = [json.loads(line) for line in kept_lines(path, done)]
    loss, val = (next((e[k] for e in reversed(entries) if k in e), None) for k in ("loss", "val_loss"))
    return loss, val


def validation_losses(path: Path, done: int) -> list[tuple[int, float]]:
    """(step, validation loss) of every evaluation up to step `done`."""
    entries = [json.loads(line) for line in kept_lines(path, done)]
    return [(entry["step"], entry["val_loss"]) for entry in entries if "val_loss" in entry]
