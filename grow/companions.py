"""Tokenizer, generation config, chat template, licence: what comes along with the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from grow.checkpoint.reader import Checkpoint
from grow.checkpoint.writer import write_json
from grow.choose import first_position
from grow.plan import Plan


def copy_companions(checkpoint: Checkpoint, folder: Path, plan: Plan) -> None:
    """Copy them byte for byte, but for two numbers: a sentence-transformers pooling layer is told the new width, and
    a tokenizer that cuts texts at the old number of positions cuts them at the new one.
    """
    for name in checkpoint.companions:
        source, target = checkpoint.path / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if edited := _edited(name, source, plan):
            write_json(target, edited)
        else:
            try:
                shutil.copyfile(source, target)
            except OSError:
                checkpoint.check_unchanged()  # says it better when the file went away meanwhile
                raise


def _edited(name: str, path: Path, plan: Plan) -> dict | None:
    """The file's JSON with a size brought up to date, None where it stays as it is."""
    sizes, new = plan.sizes, plan.new_sizes
    if name.endswith("_Pooling/config.json"):
        return _with(path, "word_embedding_dimension", sizes["hidden"], new["hidden"])
    if name == "tokenizer_config.json" and "positions" in sizes:
        first = first_position(plan.family, plan.config)
        return _with(path, "model_max_length", sizes["positions"] - first, new["positions"] - first)
    return None


def _with(path: Path, field: str, old: int, new: int) -> dict | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if old == new or not isinstance(config, dict) or config.get(field) != old:
        return None
    return {**config, field: new}
