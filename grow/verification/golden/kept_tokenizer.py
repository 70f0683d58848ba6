"""What a golden file keeps of a tokenizer: enough to tell another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grow.files.header import show
from grow.files.regular import read_file
from grow.models.tokenizers import load_tokenizer
from grow.models.true_float64 import quiet
from grow.verification.checks.same_tokenizer import files_of, positions, settings, unequal_settings
from grow.verification.verdict import Check
from grow.zoo import heldout_text

TEMPLATES = ("chat_template", "additional_chat_templates")
LENGTH = 2000  # characters of held-out text
LIMIT = "the same files, or the same ids for a text, vocabulary, special tokens and settings"


def fingerprint(folder: Path) -> dict[str, Any] | None:
    """Digests of the files and of the vocabulary, and a text with its ids; None where no tokenizer loads."""
    files = _files(folder)
    if not files:
        return None
    try:
        tokenizer = load_tokenizer(folder)
    except Exception:  # transformers raises a dozen types here; a source without a working tokenizer has none
        return None
    text = heldout_text()[:LENGTH]
    last = max(tokenizer.get_vocab().values())
    return {
        "files": files,
        "text": text,
        "ids": _read(tokenizer, text),
        "last": last,
        "vocab": _vocabulary(tokenizer, last),
        "special": _special(tokenizer),
        "settings": settings(tokenizer, folder),
        "positions": positions(folder),
    }


def tokenizer(wanted: Mapping[str, Any] | None, folder: Path) -> Check:
    """The folder's tokenizer reads as the recorded one did; a larger vocabulary may go on where that ended."""
    files = _files(folder)
    if wanted is None:
        return Check("tokenizer", "skip", limit=LIMIT, reason="no tokenizer: the golden file has none of the source")
    if not files:
        return Check("tokenizer", "fail", limit=LIMIT, reason=f"{show(folder)} has none, and its source had")
    known = {name: digest for name, digest in files.items() if "settings" in wanted or not name.startswith(TEMPLATES)}
    if known == wanted["files"]:
        return Check("tokenizer", "pass", {"files": len(files), "identical": True}, LIMIT)
    measured = {"files": len(files), "identical": False}
    try:
        loaded = load_tokenizer(folder)
    except Exception as error:
        return Check("tokenizer", "fail", measured, LIMIT, f"does not load: {type(error).__name__}: {error}")
    problem = _difference(wanted, loaded)
    if not problem and "settings" in wanted:  # files of earlier versions have none
        both = wanted.get("positions"), positions(folder)
        problem = unequal_settings(wanted["settings"], settings(loaded, folder), both)
    return Check("tokenizer", "fail" if problem else "pass", measured, LIMIT, problem)


def _difference(wanted: Mapping[str, Any], tokenizer: Any) -> str:
    ids, others = list(wanted["ids"]), _read(tokenizer, wanted["text"])
    if ids != others:
        k = next((k for k, (i, j) in enumerate(zip(ids, others)) if i != j), min(len(ids), len(others)))
        return f"the recorded text reads differently from token {k} on: {others[k : k + 1]} instead of {ids[k : k + 1]}"
    for name, token in wanted["special"].items():
        if _special(tokenizer).get(name) != token:
            return f"{name} is {_special(tokenizer).get(name)!r}, wanted {token!r}"
    if _vocabulary(tokenizer, wanted["last"]) != wanted["vocab"]:
        return f"the tokens of the ids up to {wanted['last']} are others than the recorded ones"
    return ""


def _files(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(read_file(path)).hexdigest() for name, path in files_of(folder).items()}


def _vocabulary(tokenizer: Any, last: int) -> str:
    """sha256 of id and token for every id up to `last`."""
    pairs = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i <= last)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _special(tokenizer: Any) -> dict[str, Any]:
    return {str(k): json.loads(json.dumps(v, default=str)) for k, v in tokenizer.special_tokens_map.items()}


def _read(tokenizer: Any, text: str) -> list[int]:
    with quiet():  # it would warn that the text is longer than the model's context
        return list(tokenizer(text).input_ids)
