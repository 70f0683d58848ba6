"""The suite stays a place to work: short files by subject, and helpers that stand where helpers do."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FILES = sorted(TESTS.rglob("*.py"))
LONGEST = 400  # lines: what one can read in a sitting
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]


def texts(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    return [(path, path.read_text(encoding="utf-8")) for path in paths]


def from_tests(text: str) -> list[str]:
    """What a file imports from test files or conftests, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if re.match(r"test_|conftest$", name.split(".")[-1])]
    return found


def missing(text: str) -> list[str]:
    """Files of the suite that a text names and that are not there."""
    return [name for name in re.findall(r"\btests/[\w/]+\.py\b", text) if not (ROOT / name).exists()]


def test_nothing_is_imported_from_a_test_file():
    found = {str(path.relative_to(TESTS)): from_tests(text) for path, text in texts(TESTS.rglob("*.py"))}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    ["from test_run import x", "def f():\n    import test_run as y", "import conftest"],
    ids=["names of it", "inside a function", "conftest"],
)
def test_an_import_from_a_test_file_is_seen(line):
    assert len(from_tests(f"import tiny\nfrom models import make\n{line}\n")) == 1


def test_no_file_is_longer_than_one_can_read():
    lengths = {str(path.relative_to(TESTS)): len(text.splitlines()) for path, text in texts(FILES)}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_no_two_files_have_one_name():
    """pytest imports test files by their bare names, and helpers are imported by theirs."""
    modules = [path.stem for path in FILES if path.name != "conftest.py"]
    assert [name for name, count in Counter(modules).items() if count > 1] == []


def test_files_of_the_suite_are_where_texts_say():
    sources = (path for folder in ("grow", "tests", "recipes") for path in (ROOT / folder).rglob("*.py"))
    found = {str(path.relative_to(ROOT)): missing(text) for path, text in texts([*TEXTS, *sources])}
    del found["tests/test_suite.py"]  # which names one that is not there, below
    assert {path: names for path, names in found.items() if names} == {}


def test_the_source_distribution_has_what_make_and_the_suite_read():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packed = {*re.findall(r'"([^"]+)"', project.partition("[tool.hatch.build.targets.sdist]")[2].partition("\n]")[0])}
    needed = {name for _, text in texts(FILES) for name in re.findall(r'\bROOT / "([\w.]+)', text)}
    needed |= {path.name for path in TEXTS} | {
        *re.findall(r"\b\w+\.(?:txt|toml)\b", TEXTS[-1].read_text(encoding="utf-8"))
    }
    assert {"constraints.txt", "CONTRIBUTING.md", "Makefile", "grow", "recipes"} <= needed
    assert needed - packed == {"pyproject.toml"}  # which every build packs


def test_a_file_that_moved_is_missed():
    assert missing("see tests/helpers/tiny.py and `tests/tiny.py`, or tests/benchmarks/*.py") == ["tests/tiny.py"]
