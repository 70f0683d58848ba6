"""A folder's tokenizer as stock code loads it, after its files were checked.

Whatever is wrong with it is an `Exception` here: the tokenizers library is written in Rust, and what panics there is a
BaseException in Python.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.allowed_files import inside
from grow.files.companion_files import companions
from grow.files.header import show
from grow.files.regular import check_file, is_there, read_file
from grow.notation.size_limits import cap_of, short

IDS = ("tokenizer.json", "added_tokens.json", "vocab.json", "tokenizer_config.json")
"""Files that name ids."""


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer; BadInput for a file that is a pipe, a device or endless, and whatever stock code raises."""
    import transformers

    from grow.models.true_float64 import LOCAL, quiet

    real = Path(os.path.realpath(folder))
    check_files(real)
    check_ids(real)
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def check_files(folder: Path) -> None:
    """BadInput unless what describes a checkpoint are regular files inside `folder` (a real path), none too long."""
    names = sorted(os.listdir(folder))
    for name in ["config.json"] * ("config.json" in names) + companions(folder, names):
        check_file(inside(folder, name))


def check_ids(folder: Path) -> None:
    """BadInput for an id that no vocabulary has: the library makes a table as long, or ends the process."""
    for name in IDS:
        if not is_there(folder / name):
            continue
        try:
            largest = largest_id(name, json.loads(read_file(folder / name)))
        except (ValueError, RecursionError):
            continue  # stock code says what is wrong
        if largest >= cap_of("vocab"):
            raise BadInput(
                show(folder / name),
                what=f"names the id {short(largest)}",
                why=f"the library makes tables as long as the largest id; a vocabulary has at most {cap_of('vocab'):,}",
                fix="correct the id: those of a vocabulary follow each other",
            )


def largest_id(name: str, stored: Any) -> int:
    """The largest id in a file of `IDS`, whose JSON is `stored`; -1 where it names none."""
    ids: list[Any] = []
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        if name == "tokenizer.json":
            ids += [token.get("id") for token in stored.get("added_tokens") or () if isinstance(token, dict)]
            vocab = stored["model"]["vocab"]
            ids += vocab.values() if isinstance(vocab, dict) else [len(vocab) - 1]
        elif name == "tokenizer_config.json":
            ids += [int(i) for i in stored.get("added_tokens_decoder") or ()]
        else:
            ids += stored.values()
    return max((i for i in ids if type(i) is int), default=-1)
