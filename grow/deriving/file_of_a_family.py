"""`grow.derive`: a family derived from its stock class, and written as a file of Python where somebody names one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from grow.deriving.derivation import Derived, derivation
from grow.deriving.written import file_text
from grow.errors import BadInput, Refused, did_you_mean
from grow.files.owned import check_file
from grow.spelling import check_path, check_text, option

MARKS = (b"derived from its stock class by `grow families --derive",)
FIX = "a file name in a folder that exists and can be written"


def derive(model_type: str, out: str | os.PathLike | None = None) -> Derived:
    """See `grow.derive`."""
    check_text("model_type", model_type, "it is the model type of a config", "MODEL_TYPE")
    target = None if out is None else place(out, MARKS, "a derived family")
    if model_type not in CONFIG_MAPPING_NAMES:
        raise BadInput(
            option(derive=model_type),
            what="is not a model type of transformers; " + did_you_mean(model_type, CONFIG_MAPPING_NAMES),
            why=f"transformers {transformers.__version__} builds the tiny models that are grown",
            fix="the model_type of a config.json",
        )
    derived = derivation(model_type)
    if derived.family is None:
        raise Refused(
            option(derive=model_type),
            what=derived.why,
            why="a table is derived from a stock class that builds and reads token ids, and whose tensors all have "
            "words in the notation",
            fix='write the table by hand, as README says in "Adding a family"',
        )
    derived = replace(derived, text=file_text(derived, transformers.__version__))
    if target is not None:
        _write(derived.text, target)
    return derived


def place(out: str | os.PathLike, marks: Sequence[bytes], words: str) -> Path:
    """Where a file will lie; BadInput, before any work is done, where it cannot, or where another file is."""
    check_path("out", out, "what is derived is a file")
    path = Path(os.path.realpath(out))
    where = option(out=os.fspath(out))
    if os.path.exists(path) and not path.is_file():
        raise BadInput(where, what="is not a regular file", why="what is derived is one", fix=FIX)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadInput(where, what="cannot be written", why=f"{path.parent} is not a folder", fix=FIX)
    check_file(path, where, words, marks, "what somebody wrote is not lost")
    return path


def _write(text: str, target: Path) -> None:
    partial = target.with_name(f".grow-family-{os.getpid()}.partial")
    try:
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(option(out=str(target)), what="cannot be written", why=str(error), fix=FIX) from None
