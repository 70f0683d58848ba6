"""The suite stays a place to work: short files by subject, and helpers that stand where helpers do."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FILES = sorted(TESTS.rglob("test_*.py"))
LONGEST = 400  # lines: what one can read in a sitting
MENTIONING = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]


def from_tests(text: str) -> list[str]:
    """What a file imports from test files or conftests, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if re.match(r"test_|conftest$", name.split(".")[-1])]
    return found


def missing(text: str) -> list[str]:
    """Files and folders of the suite that a text names and that are not there. Golden files are a user's."""
    named = re.findall(r"\btests/[\w/]+(?:\.py)?", text)
    return [name for name in named if not (ROOT / name).exists() and "golden/" not in name]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_nothing_is_imported_from_a_test_file(path):
    assert from_tests(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("line", ["from test_run import x", "def f():\n    import test_run as y", "import conftest"])
def test_an_import_from_a_test_file_is_seen(line):
    assert len(from_tests(f"import tiny\nfrom models import make\n{line}\n")) == 1


def test_no_file_is_longer_than_one_can_read():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_two_files_have_one_name():
    """pytest imports test files by their bare names, and helpers are imported by theirs."""
    modules = [path.stem for path in FILES + sorted((TESTS / "helpers").glob("*.py"))]
    assert [name for name, count in Counter(modules).items() if count > 1] == []


@pytest.mark.parametrize("path", MENTIONING, ids=lambda path: path.name)
def test_files_of_the_suite_are_where_texts_say(path):
    assert missing(path.read_text(encoding="utf-8")) == []


def test_docstrings_and_comments_know_where_files_of_the_suite_are():
    sources = [path for folder in ("grow", "tests") for path in (ROOT / folder).rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in sources if path != Path(__file__)}
    assert {str(path.relative_to(ROOT)): names for path, text in texts.items() if (names := missing(text))} == {}


def test_a_file_that_moved_is_missed():
    assert missing("see tests/helpers/tiny.py and `tests/tiny.py`, or tests/benchmarks/") == ["tests/tiny.py"]
