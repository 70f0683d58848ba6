"""Refusals of folders that hold something else than a transformers checkpoint: an adapter, modules, other formats."""

from __future__ import annotations

import contextlib
import fnmatch
from pathlib import Path
from typing import Any

from grow.errors import BadInput, GrowError, Refused, listing
from grow.files.allowed_files import inside
from grow.files.companion_files import MODULES
from grow.files.foreign_files import OTHER_WEIGHTS
from grow.files.foreign_names import MERGE, PLAIN, in_command
from grow.files.header import show
from grow.files.regular import read_json

ADAPTED = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
"""task_type of an adapter -> the class of its base model."""
LARGEST_ADAPTER = 1 << 20  # bytes of its config


def check_kind(folder: Path, names: list[str]) -> None:
    """The folder is a transformers checkpoint and not something else that people keep in folders."""
    where = show(folder)
    if any(name in names for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")):
        raise Refused(
            where,
            what="is a PEFT adapter, not a model",
            why="an adapter is a difference to a base model; growth needs the sum",
            fix=_merged(folder),
        )
    if "config.json" not in names:
        if MODULES in names:
            raise Refused(
                where,
                what=f"has {MODULES} and no config.json; found {listing(map(show, names))}",
                why="the transformer of this sentence-transformers folder lies in another one, or there is none",
                fix="SentenceTransformer(SRC).save(DST) writes the transformer into the folder itself",
            )
        refuse_other_weights(folder, names)
        raise BadInput(
            where,
            what=f"has no config.json; found {listing(map(show, names)) or 'nothing, the folder is empty'}",
            why="a checkpoint is config.json and safetensors together in one folder",
            fix="give the folder that holds config.json; for a repository: hf download ORG/NAME",
        )


def _merged(folder: Path) -> str:
    """The command that adds an adapter to its base model, as far as adapter_config.json names the two."""
    config: dict[str, Any] = {}
    with contextlib.suppress(GrowError, OSError):
        document = read_json(inside(folder, "adapter_config.json"), most=LARGEST_ADAPTER)
        config = document if isinstance(document, dict) else {}
    base, task = config.get("base_model_name_or_path"), config.get("task_type")
    base = base if isinstance(base, str) and PLAIN.fullmatch(base) else "BASE"
    return MERGE.format(cls=ADAPTED.get(str(task), "AutoModel"), base=base, adapter=in_command(folder, "ADAPTER"))


def refuse_other_weights(folder: Path, names: list[str]) -> None:
    """There are safetensors, or no weights at all; a folder with weights in other formats only is refused."""
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return
    for pattern, (kind, fix) in OTHER_WEIGHTS.items():
        if others := fnmatch.filter(names, pattern):
            what = f"{kind}: {listing(map(show, others))}"
            raise Refused(
                show(folder),
                what=what,
                why="grow reads safetensors, unquantised",
                fix=fix.replace("SRC", in_command(folder)),
            )
