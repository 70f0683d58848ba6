"""The house is as its documents show it: steps that import only earlier ones, no circles, names that hide nothing."""

from __future__ import annotations

import ast
import importlib

import house
import pytest

import grow


def test_nothing_imports_upwards():
    assert house.upwards(house.imports()) == []


def test_nothing_imports_in_a_circle():
    assert house.circles(house.imports()) == []


def test_every_folder_and_file_has_its_place_in_the_order():
    assert sorted(house.ORDER) == sorted({house.step(name) for name in house.modules()})


def test_no_name_of_a_package_hides_a_module_of_it():
    """`import grow.x.y; grow.x.y` is that module, whatever a package imports under that name."""
    hidden = {}
    for name in house.modules():
        parent, _, last = name.rpartition(".")
        if parent and name != "grow.__main__":
            module = importlib.import_module(name)
            if getattr(importlib.import_module(parent), last, None) is not module:
                hidden[name] = getattr(importlib.import_module(parent), last, None)
    assert hidden == {}


def test_no_module_is_called_like_a_public_function():
    public = {name for name in grow.__all__ if callable(getattr(grow, name))}
    assert public & {name.rpartition(".")[2] for name in house.modules() if name.count(".") == 1} == set()


def test_two_files_of_one_name_mean_the_same():
    """An `experts.py` here and another one there are told apart by nobody."""
    seen: dict[str, list[str]] = {}
    for name in house.modules():
        seen.setdefault(name.rpartition(".")[2], []).append(name)
    assert {last: names for last, names in seen.items() if len(names) > 1} == {}


def test_every_file_says_what_it_is():
    silent = [name for name, path in house.modules().items() if not house.phrase(path)]
    assert silent == []
    assert [line for line in house.tree().splitlines() if len(line.split()) < 2] == []


@pytest.mark.parametrize("path", house.documents(), ids=lambda path: path.name)
def test_the_tree_in_a_document_is_the_package(path):
    """`python tests/helpers/house.py --write` mends it."""
    assert house.shown(path.read_text(encoding="utf-8")) == house.documents()[path]


def test_the_checks_see_what_they_are_for(tmp_path):
    """Planted: an import upwards, a late one too; a circle of files and one of folders; one for annotations alone."""
    files = {
        "grow/__init__.py": "",
        "grow/notation/__init__.py": "",
        "grow/notation/maps.py": "def f():\n    from grow.planning.plan import g\n",
        "grow/planning/__init__.py": "",
        "grow/planning/plan.py": "import grow.planning.layers\n",
        "grow/planning/layers.py": "from grow.planning import plan\n",
        "grow/files/__init__.py": "import typing\nif typing.TYPE_CHECKING:\n    import grow.planning.plan\n",
        "grow/training/a/x.py": "from grow.training.b.y import z\n",
        "grow/training/b/y.py": "z = 1\n",
        "grow/training/b/w.py": "from grow.training.a import v\n",
        "grow/training/a/v.py": "",
    }
    for name, text in files.items():
        ast.parse(text)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    arrows = list(house.imports(tmp_path))
    assert house.upwards(iter(arrows)) == [
        ("grow.files", "grow.planning.plan"),
        ("grow.notation.maps", "grow.planning.plan"),
    ]
    assert house.circles(iter(arrows)) == [
        ["grow.planning.layers", "grow.planning.plan"],
        ["grow.training.a", "grow.training.b"],
    ]
