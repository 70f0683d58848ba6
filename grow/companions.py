"""Tokenizer, generation config, chat template, licence: what comes along with the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from grow.checkpoint.reader import Checkpoint
from grow.checkpoint.writer import write_json
from grow.plan import Plan


def copy_companions(checkpoint: Checkpoint, folder: Path, plan: Plan) -> None:
    """Copy them byte for byte; a sentence-transformers pooling layer is told the new width."""
    for name in checkpoint.companions:
        source, target = checkpoint.path / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("_Pooling/config.json") and (pooling := _pooling(source, plan)):
            write_json(target, pooling)
        else:
            try:
                shutil.copyfile(source, target)
            except OSError:
                checkpoint.check_unchanged()  # says it better when the file went away meanwhile
                raise


def _pooling(path: Path, plan: Plan) -> dict | None:
    """The pooling config with the new hidden size, None when it does not name the old one."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or config.get("word_embedding_dimension") != plan.sizes["hidden"]:
        return None
    return {**config, "word_embedding_dimension": plan.new_sizes["hidden"]}
