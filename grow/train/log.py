"""metrics.jsonl, one line of strict JSON per step; a line on the terminal; tensorboard where it is wanted.

    {"step": 7, "tokens": 14336, "loss": 3.02…, "lr": 0.0002, "grad_norm": 0.71…, "flops": …,
     "seconds": …, "tokens_per_second": …}

"seconds" are those of the steps so far, without evaluation and saving, over all interruptions. Numbers are float64 and
written so that they are read back bit for bit. "val_loss" stands where it was measured.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from grow.errors import BadInput
from grow.train.settings import Settings

METRICS = "metrics.jsonl"


class Log:
    """Written by the first process only; `continued` drops the lines of steps that are done again."""

    def __init__(self, run: Path, settings: Settings, *, done: int, steps: int, quiet: bool) -> None:
        self.path, self.settings, self.steps, self.quiet = run / METRICS, settings, steps, quiet
        self.live = not quiet and sys.stderr.isatty()
        lines = kept_lines(self.path, done) if done else []
        self.path.write_text("".join(lines), encoding="utf-8")
        self.file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self.board = _board(run / "tensorboard", done) if settings.tensorboard else None

    def record(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry, allow_nan=False) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in entry.items():
                if name != "step":
                    self.board.add_scalar(name, value, entry["step"])
        if not self.quiet:
            self._say(entry)

    def note(self, text: str) -> None:
        if not self.quiet:
            sys.stderr.write(("\r\x1b[2K" if self.live else "") + f"note: {text}\n")
            sys.stderr.flush()

    def sync(self) -> None:
        """What was recorded is on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def _say(self, entry: dict[str, Any]) -> None:
        step = entry["step"]
        parts = [f"step {step:>{len(str(self.steps))}}/{self.steps}"]
        if "loss" in entry:
            parts.append(f"loss {entry['loss']:.4f}")
        if "val_loss" in entry:
            parts.append(f"val {entry['val_loss']:.4f}")
        if "lr" in entry:
            parts.append(f"lr {entry['lr']:.2e}  norm {entry['grad_norm']:.2f}")
            parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
        sparse = step % self.settings.log_every == 0 or step in (1, self.steps) or "val_loss" in entry
        if self.live:
            sys.stderr.write("\r\x1b[2K" + "  ".join(parts) + ("\n" if "val_loss" in entry else ""))
            sys.stderr.flush()
        elif sparse:
            print("  ".join(parts), file=sys.stderr, flush=True)


def kept_lines(path: Path, done: int) -> list[str]:
    """The lines of steps up to `done`; what follows is done again, and a line that a killed run cut off is no line."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if line.endswith("\n") and step <= done:
            found.append(line)
    return found


def last_losses(path: Path, done: int) -> tuple[float | None, float | None]:
    """The last loss and validation loss up to step `done`."""
    entries = [json.loads(line) for line in kept_lines(path, done)]
    loss, val = (next((e[k] for e in reversed(entries) if k in e), None) for k in ("loss", "val_loss"))
    return loss, val


def validation_losses(path: Path, done: int) -> list[tuple[int, float]]:
    """(step, validation loss) of every evaluation up to step `done`."""
    entries = [json.loads(line) for line in kept_lines(path, done)]
    return [(entry["step"], entry["val_loss"]) for entry in entries if "val_loss" in entry]


def check_board() -> None:
    """BadInput where tensorboard is not installed, before anything is begun."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise BadInput(
            "--tensorboard",
            what="needs tensorboard, which is not installed",
            why="it writes the event files",
            fix="pip install 'grow-transformers[train]', or leave it out: metrics.jsonl has the same numbers",
        ) from None


def _board(folder: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
