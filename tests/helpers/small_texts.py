"""Texts of a few documents, as files."""

from __future__ import annotations

import json
from pathlib import Path

TEXTS = [
    "The state of the Union is strong.",
    "Fellow citizens:",
    "We the people of the United States",
    "Peace and trade.",
]


def jsonl(path: Path, texts=TEXTS, field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text, "id": k}) + "\n" for k, text in enumerate(texts)))
    return path
