"""Both folders must read a text as the same ids: a model with another tokenizer is another model to its users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grow.verify.result import Check

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
)
LIMIT = "the same token -> id and the same ids for a text"


def tokenizers(source: Path, grown: Path, *, grew: bool = False) -> Check:
    """Same files, or else the same vocabulary, special tokens, rules and ids of the held-out text.

    grew  a growth takes the tokenizer along, so that one without is a fault; of other pairs one may be weights alone
    """
    a, b = ({name: (folder / name) for name in FILES if (folder / name).is_file()} for folder in (source, grown))
    if a and not b and grew:
        return Check("tokenizer", "fail", limit=LIMIT, reason=f"{grown} has none, and its source has")
    if not a or not b:
        which = "neither folder has" if not a and not b else f"only {source if a else grown} has"
        return Check("tokenizer", "skip", limit=LIMIT, reason=f"{which} a tokenizer")
    if a.keys() == b.keys() and all(a[name].read_bytes() == b[name].read_bytes() for name in a):
        return Check("tokenizer", "pass", {"files": len(a), "identical": True}, LIMIT)
    try:
        first = _load(source)
    except Exception as error:  # the source's own tokenizer does not load: nothing to hold the other one to
        return Check("tokenizer", "skip", limit=LIMIT, reason=f"the source's does not load: {type(error).__name__}")
    try:
        second = _load(grown)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        reason = f"does not load: {type(error).__name__}: {error}"
        return Check("tokenizer", "fail", {"identical": False}, LIMIT, reason)
    problem = _difference(first, second)
    measured = {"files": len(b), "identical": False, "tokens": len(first.get_vocab())}
    return Check("tokenizer", "fail" if problem else "pass", measured, LIMIT, problem)


def _load(folder: Path) -> Any:
    import transformers

    from grow.verify.float64 import LOCAL, quiet

    with quiet():
        return transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)


def _difference(a: Any, b: Any) -> str:
    """The first token, special token or text that the two read differently, or ""."""
    from grow.verify.float64 import quiet
    from grow.zoo import heldout_text

    old, new = a.get_vocab(), b.get_vocab()
    moved = sorted((i, token) for token, i in old.items() if new.get(token) != i)
    if moved:
        i, token = moved[0]
        more = f" and {len(moved) - 1} more tokens" if len(moved) > 1 else ""
        return f"token {token!r} has id {new.get(token)}, wanted {i}{more}"
    for name, token in a.special_tokens_map.items():
        if b.special_tokens_map.get(name) != token:
            return f"{name} is {b.special_tokens_map.get(name)!r}, wanted {token!r}"
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
