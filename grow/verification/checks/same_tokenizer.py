"""Both tokenizers must read a text as the same ids and write a chat as the same text.

A model with another tokenizer is another model to its users.

    vocabulary, special tokens, rules    which ids a text becomes
    chat template                        in tokenizer_config.json, in chat_template.jinja, or several in a folder
    sides, length, cleaning, inputs      where a batch is padded and cut, and what the model is given
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grow.architectures.common_fields import POSITIONS
from grow.errors import BadInput
from grow.files.regular import read_file
from grow.models.tokenizers import load_tokenizer
from grow.verification.verdict import Check

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES = "additional_chat_templates"
LIMIT = "the same token -> id and the same ids for a text"
SETTINGS = (
    "padding_side",
    "truncation_side",
    "model_max_length",
    "clean_up_tokenization_spaces",
    "model_input_names",
    "split_special_tokens",
    "response_schema",
    "response_template",
)


def tokenizers(source: Path, grown: Path) -> Check:
    """Same files, or else the same vocabulary, special tokens, rules, ids of the held-out text, and settings.

    One difference is meant: a tokenizer that cut texts at the last position cuts them at the new last one.
    """
    a, b = files_of(source), files_of(grown)
    if a and not b:
        return Check("tokenizer", "fail", limit=LIMIT, reason=f"{grown} has none, and its source has")
    if not a:
        which = "neither folder has" if not b else f"only {grown} has"
        return Check("tokenizer", "skip", limit=LIMIT, reason=f"{which} a tokenizer")
    if a.keys() == b.keys() and all(read_file(a[name]) == read_file(b[name]) for name in a):
        return Check("tokenizer", "pass", {"files": len(a), "identical": True}, LIMIT)
    measured: dict[str, Any] = {"files": len(b), "identical": False}
    try:
        first = load_tokenizer(source)
    except Exception as error:  # the source's own tokenizer does not load: its files are all there is
        problem = unequal_files(a, b, (source, grown))
        why = f"the source's does not load: {type(error).__name__}"
        return Check("tokenizer", "fail" if problem else "skip", measured, LIMIT, problem or why)
    try:
        second = load_tokenizer(grown)
    except Exception as error:
        reason = f"does not load: {type(error).__name__}: {error}"
        return Check("tokenizer", "fail", measured, LIMIT, reason)
    problem = _difference(first, second) or unequal_settings(
        settings(first, source), settings(second, grown), (positions(source), positions(grown))
    )
    measured["tokens"] = len(first.get_vocab())
    return Check("tokenizer", "fail" if problem else "pass", measured, LIMIT, problem)


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a tokenizer and of its chat templates, by their name in the folder."""
    files = {name: folder / name for name in FILES if (folder / name).is_file()}
    more = sorted((folder / TEMPLATES).glob("*.jinja")) if (folder / TEMPLATES).is_dir() else []
    return files | {f"{TEMPLATES}/{path.name}": path for path in more if path.is_file()}


def settings(tokenizer: Any, folder: Path) -> dict[str, Any]:
    """What a tokenizer does beyond ids, JSON-ready: chat templates by name, and `SETTINGS`."""
    templates = tokenizer.chat_template
    stated = (
        {f"chat_template {name!r}": text for name, text in templates.items()} if isinstance(templates, dict) else {}
    )
    if isinstance(templates, str):
        stated["chat_template"] = templates
    older = _json(folder / "chat_template.json")  # of processors, which the tokenizer itself does not read
    if isinstance(older, dict) and "chat_template" in older:
        stated["chat_template.json"] = older["chat_template"]
    for name in SETTINGS:
        value = getattr(tokenizer, name, None)
        if value is not None:
            stated[name] = json.loads(json.dumps(value, default=str))
    return stated


def positions(folder: Path) -> int | None:
    """How many positions the folder's config counts."""
    config = _json(folder / "config.json")
    counts = (config.get(name) for name in POSITIONS) if isinstance(config, dict) else ()
    return next((n for n in counts if isinstance(n, int)), None)


def unequal_settings(
    wanted: Mapping[str, Any], found: Mapping[str, Any], places: tuple[int | None, int | None] = (None, None)
) -> str:
    """The first setting that differs, or ""; `places` are the positions of both models."""
    for name in sorted(wanted.keys() | found.keys()):
        a, b = wanted.get(name), found.get(name)
        if a == b or (name == "model_max_length" and _follows((a, b), places)):
            continue
        if isinstance(a, str) and isinstance(b, str) and "template" in name:
            k = next((k for k, (i, j) in enumerate(zip(a, b)) if i != j), min(len(a), len(b)))
            return f"{name} differs from character {k} on: {b[k : k + 40]!r} instead of {a[k : k + 40]!r}"
        return f"{name} is {_short(b)}, wanted {_short(a)}"
    return ""


def _follows(lengths: tuple[Any, Any], places: tuple[int | None, int | None]) -> bool:
    """Whether the length grew as much as the positions did, and was as long as these before."""
    (a, b), (n, m) = lengths, places
    numbers = all(isinstance(value, int) for value in (a, b, n, m))
    return numbers and b > a and m - n == b - a and 0 <= n - a <= 8  # type: ignore[operator]


def unequal_files(a: Mapping[str, Path], b: Mapping[str, Path], folders: tuple[Path, Path]) -> str:
    """The first file that says something else, or ""; for tokenizers that cannot be loaded."""
    places = positions(folders[0]), positions(folders[1])
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            return f"{name}: only {folders[0] if name in a else folders[1]} has it"
        if read_file(a[name]) == read_file(b[name]):
            continue
        one, two = _json(a[name]), _json(b[name])
        if not (isinstance(one, dict) and isinstance(two, dict)):
            return f"{name}: another content"
        if problem := unequal_settings(one, two, places):
            return f"{name}: {problem}"
    return ""


def _json(path: Path) -> Any:
    try:
        return json.loads(read_file(path))
    except (BadInput, ValueError, RecursionError):
        return None


def _short(value: Any) -> str:
    return "absent" if value is None else f"{value!r}"[:80]


def _difference(a: Any, b: Any) -> str:
    """The first token, special token or text that the two read differently, or ""."""
    from grow.models.true_float64 import quiet
    from grow.zoo import heldout_text

    old, new = a.get_vocab(), b.get_vocab()
    moved = sorted((i, token) for token, i in old.items() if new.get(token) != i)
    if moved:
        i, token = moved[0]
        more = f" and {len(moved) - 1} more tokens" if len(moved) > 1 else ""
        return f"token {token!r} has id {new.get(token)}, wanted {i}{more}"
    special = a.special_tokens_map, b.special_tokens_map
    for name in dict.fromkeys(key for tokens in special for key in tokens):
        if special[0].get(name) != special[1].get(name):
            return f"{name} is {special[1].get(name)!r}, wanted {special[0].get(name)!r}"
    text = heldout_text()[:4000]
    with quiet():  # a tokenizer says that the text is longer than the model
        ids, others = a(text).input_ids, b(text).input_ids
    if ids != others:
        k = next((k for k, (i, j) in enumerate(zip(ids, others)) if i != j), min(len(ids), len(others)))
        return f"the held-out text reads differently from token {k} on: {others[k : k + 1]} instead of {ids[k : k + 1]}"
    theirs = _rules(b)
    for part, rule in _rules(a).items():
        if theirs.get(part) != rule:
            return f"{part}: {_first_unequal(rule, theirs.get(part))}"
    return ""


PARTS = ("model", "merges", "scores", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")


def _rules(tokenizer: Any) -> dict[str, Any]:
    """How a fast tokenizer cuts and joins, as the tokenizers library itself writes it; nothing of a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {}
    whole = json.loads(backend.to_str())
    model = whole["model"]
    whole["merges"] = model.pop("merges", None)
    vocab = model.pop("vocab", None)  # token -> id was compared; a unigram model has [token, score] for each
    whole["scores"] = vocab if isinstance(vocab, list) else None
    return {part: whole.get(part) for part in PARTS}


def _first_unequal(a: Any, b: Any) -> str:
    if not isinstance(a, list) or not isinstance(b, list):
        return f"{json.dumps(b)[:80]} instead of {json.dumps(a)[:80]}"
    k = next((k for k, (i, j) in enumerate(zip(a, b)) if i != j), min(len(a), len(b)))
    return f"from number {k} on {b[k : k + 1]} instead of {a[k : k + 1]}"
