"""A folder's tokenizer as stock code loads it, once its files were looked at: stock code opens whatever has the name.

Whatever is wrong with it is an `Exception` here: the tokenizers library is written in Rust, and what panics there is a
BaseException in Python.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from grow.checkpoint.locate import companions, inside
from grow.checkpoint.regular import check_file


def load_tokenizer(folder: str | os.PathLike) -> Any:
    """The tokenizer; BadInput for a file that is a pipe, a device or endless, and whatever stock code raises."""
    import transformers

    from grow.verify.float64 import LOCAL, quiet

    check_files(Path(os.path.realpath(folder)))
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
