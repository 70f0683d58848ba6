"""Where the installed transformers has the code of a model type."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple


class StockFiles(NamedTuple):
    """Where the stock config class and the stock model classes of a model type are."""

    config: Path
    model: Path


@cache
def stock_files(root: Path, model_type: str) -> StockFiles | None:
    """None for a model type that the package in `root` does not have.

    A folder may hold several types (`data2vec`), a file as well (`gemma3_text`), and no module is called `x-y`.
    """
    name, models = model_type.replace("-", "_"), root / "models"
    if not name.isidentifier():
        return None
    folder = models / name
    if not folder.is_dir():
        beside = next((path.parent for path in sorted(models.glob(f"*/configuration_{name}.py"))), None)
        name = name if beside else _modules_of_types(root).get(model_type, "")
        folder = beside or models / name
        if not name or not folder.is_dir():
            return None
    return StockFiles(folder / f"configuration_{name}.py", folder / f"modeling_{name}.py")


@cache
def _modules_of_types(root: Path) -> dict[str, str]:
    """Model type -> the module that it shares with others, where its name does not say so."""
    tree = parsed(root / "models" / "auto" / "auto_mappings.py")
    for line in tree.body if tree else ():
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "SPECIAL_MODEL_TYPE_TO_MODULE_NAME":
            pairs = [node.elts for node in ast.walk(line.value) if isinstance(node, ast.Tuple) and len(node.elts) == 2]
            named = [[e.value for e in pair if isinstance(e, ast.Constant)] for pair in pairs]
            return {str(pair[0]): str(pair[1]) for pair in named if len(pair) == 2}
    return {}


def parsed(path: Path) -> ast.Module | None:
    """The syntax tree of a file; None where there is no file, or this Python cannot parse it."""
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
