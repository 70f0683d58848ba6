"""Growths over what is there, and refusals that leave it as it was."""

from __future__ import annotations

from pathlib import Path

import grow


def widen(source: Path, out: Path, **options) -> grow.Growth:
    return grow.widen(source, "2x", out=out, verify=False, overwrite=True, **options)


def web(out: Path, config: str = '{"port": 8080}') -> Path:
    """A project with a config.json of its own."""
    (out / ".git" / "objects").mkdir(parents=True)
    (out / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (out / "config.json").write_text(config)
    (out / "notes.txt").write_text("three years")
    return out
