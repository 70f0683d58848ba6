"""How the house is laid out, read from the files themselves: modules, imports, and the trees in the documents.

python tests/helpers/house.py           compares the trees in README.md and CONTRIBUTING.md with the package
python tests/helpers/house.py --write   writes them
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ORDER = [
    "errors", "spelling", "version", "waiting", "torchrun", "processes", "zoo",  # the ground
    "notation", "files", "architectures", "checkpoint", "models",  # what is known, and what is there
    "planning", "applying", "costs", "data", "optimizer",  # what is wished for, and done
    "verification", "growth", "deriving", "training", "plotting",
    "api", "comparison", "staged", "integrations", "grow", "testing", "cli", "__main__",
]  # fmt: skip
"""Folders and files of the package, "grow" for its public names: each imports only what stands before it."""
BEGIN, END = "<!-- tree -->", "<!-- /tree -->"
DATA = {
    "py.typed": "marks the package as typed",
    "zoo/sotu.txt.xz": "the speeches that the bundled models were trained on",
    "zoo/heldout.txt.xz": "five speeches that none of them has seen",
    "zoo/results.json": "what was measured of the bundled models, with commands and dates",
    "zoo/small": "Llama, 1.4M parameters",
    "zoo/small-bert": "BERT, masked LM, 1.1M parameters",
    "zoo/small-gpt2": "GPT-2, 1.5M parameters",
    "staged/recipes": "the recipes that come with the package",
    "comparison/comparison.html.j2": "the template of the page",
    "verification/downstream/data": "the tasks that come with the package",
    "verification/report/page.html.j2": "the template of the report",
    "verification/report/style.css.j2": "the style sheet of the report and of the comparison",
}
"""What is no Python: path -> phrase."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """grow.files.header -> its file."""
    found = {}
    for path in sorted((root / "grow").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(module, module of the package that it imports), late ones and those for annotations alone too."""
    known = modules(root)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in known else node.module for target in inner]
            else:
                continue
            yield from ((name, target) for target in targets if target in known and target != name)


def step(module: str) -> str:
    """The folder or file below `grow` that a module belongs to; "grow" for the public names themselves."""
    return module.split(".")[1] if "." in module else module


def upwards(arrows: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """Imports of something that stands later in `ORDER`."""
    return sorted({arrow for arrow in arrows if ORDER.index(step(arrow[1])) > ORDER.index(step(arrow[0]))})


def circles(arrows: Iterator[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules, or of folders beside each other, that import each other in a round."""
    graph: dict[str, set[str]] = {}
    for user, used in arrows:
        for a, b in ((user, used), _beside(user, used)):
            if a != b and not used.startswith(f"{user}.") and not user.startswith(f"{used}."):
                graph.setdefault(a, set()).add(b)
    return _rounds(graph)


def _beside(user: str, used: str) -> tuple[str, str]:
    """Both cut where their paths part: what two folders beside each other are to each other."""
    a, b = user.split("."), used.split(".")
    same = next((k for k, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return ".".join(a[: same + 1]), ".".join(b[: same + 1])


def _rounds(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of two and more (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(v: str) -> None:
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in graph.get(v, ()):
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in stack:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            group = stack[stack.index(v) :]
            del stack[stack.index(v) :]
            if len(group) > 1:
                found.append(sorted(group))

    for v in list(graph):
        if v not in index:
            visit(v)
    return found


def phrase(path: Path) -> str:
    """The first line of a file's docstring; of data, what `DATA` says."""
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return text.split("\n")[0].rstrip(".")
    return DATA.get(path.relative_to(ROOT / "grow").as_posix(), "")


def rooms() -> str:
    """One line for each folder and file below `grow`, in the order of `ORDER`."""
    lines = [_line(0, "grow/", phrase(ROOT / "grow/__init__.py"), 20)]
    for name in (name for name in ORDER if name != "grow"):
        folder = ROOT / "grow" / name
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        lines.append(_line(1, name + ("/" if folder.is_dir() else ".py"), phrase(file), 20))
    return "\n".join(lines)


def tree() -> str:
    """One line for every file of the package; a folder without Python is one line."""
    lines = [_line(0, "grow/", phrase(ROOT / "grow/__init__.py")), _line(1, "py.typed", DATA["py.typed"])]
    for name in (name for name in ORDER if name != "grow"):
        folder = ROOT / "grow" / name
        lines += _tree(folder, 1) if folder.is_dir() else [_line(1, f"{name}.py", phrase(folder.with_suffix(".py")))]
    return "\n".join(lines)


def _tree(folder: Path, depth: int) -> list[str]:
    within = sorted(p for p in folder.iterdir() if p.name != "__pycache__" and not p.name.startswith("."))
    if not any(p.suffix == ".py" for p in within):
        return [_line(depth, f"{folder.name}/", phrase(folder))]
    lines = [_line(depth, f"{folder.name}/", phrase(folder / "__init__.py"))]
    for path in within:
        if path.is_dir():
            lines += _tree(path, depth + 1)
        elif path.name != "__init__.py":
            lines.append(_line(depth + 1, path.name, phrase(path)))
    return lines


def _line(depth: int, name: str, said: str, width: int = 34) -> str:
    return f"{'  ' * depth + name:{width}}{said}".rstrip()


def documents() -> dict[Path, str]:
    """Document -> the tree that it has to show."""
    return {ROOT / "README.md": rooms(), ROOT / "CONTRIBUTING.md": tree()}


def shown(text: str) -> str:
    """The tree between the two marks."""
    return text.partition(BEGIN)[2].partition(END)[0].strip().removeprefix("```text").removesuffix("```").strip()


def with_tree(text: str, lines: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n```text\n{lines}\n```\n{END}{rest.partition(END)[2]}"


def main() -> int:
    wrong = [path for path, lines in documents().items() if shown(path.read_text(encoding="utf-8")) != lines]
    for path in wrong:
        if "--write" in sys.argv:
            path.write_text(with_tree(path.read_text(encoding="utf-8"), documents()[path]), encoding="utf-8")
        print(f"{path.name}: {'written' if '--write' in sys.argv else 'differs from the package; --write mends it'}")
    return bool(wrong) and "--write" not in sys.argv


if __name__ == "__main__":
    sys.exit(main())
