"""The notebooks are true: every code cell runs, offline, and prints and draws what is stored below it.

python -m tests.test_notebooks      stores the outputs anew
"""

import base64
import contextlib
import copy
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
PLACES = ("/work", "/root", "/opt", "/tmp", "/home/", "/Users/", "site-packages")
NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]\d+)?")
LARGEST = 600_000  # bytes of a notebook with its pictures


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(notebook: dict) -> Iterator[tuple[str, list[bytes]]]:
    """(printed text, pictures as PNG) of each code cell, run in order in one fresh namespace."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    namespace: dict = {"__name__": "__main__"}
    with plt.rc_context(), patch.object(plt, "show", lambda: None):
        for cell in code_cells(notebook):
            printed, pictures = io.StringIO(), []
            with contextlib.redirect_stdout(printed):
                exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
            for number in plt.get_fignums():
                png = io.BytesIO()
                plt.figure(number).savefig(png, format="png", bbox_inches="tight", metadata={"Software": None})
                pictures.append(png.getvalue())
            plt.close("all")
            yield printed.getvalue(), pictures


def stored(cell: dict) -> tuple[str, list[bytes]]:
    """The same pair from a cell's stored outputs."""
    printed = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
    images = [out["data"].get("image/png") for out in cell["outputs"] if "data" in out]
    return printed, [base64.b64decode(image) for image in images if image]


def faults(notebook: dict) -> list[str]:
    """What is wrong with the stored outputs by themselves."""
    found = []
    for number, cell in enumerate(code_cells(notebook), 1):
        where = f"{cell['id']}: "
        printed, pictures = stored(cell)
        if cell["execution_count"] != number:
            found.append(where + "was not run in order")
        if "plt.show()" in "".join(cell["source"]) and not pictures:
            found.append(where + "draws, and no picture is stored")
        if any(not png.startswith(b"\x89PNG") for png in pictures):
            found.append(where + "a picture is no PNG")
        if any(out["output_type"] == "error" or out.get("name") == "stderr" for out in cell["outputs"]):
            found.append(where + "an error or a warning is stored")
        if re.search(r"Traceback|Warning", printed):
            found.append(where + "an error or a warning is printed")
        texts = [{k: v for k, v in out.get("data", {}).items() if k != "image/png"} for out in cell["outputs"]]
        text = printed + json.dumps(texts)
        home = str(Path.home())
        found += [where + f"shows {p}" for p in (*PLACES, tempfile.gettempdir(), home) if len(p) > 1 and p in text]
    return found


def same(a: str, b: str) -> bool:
    """Equal but for the digits, which another processor may round otherwise."""
    return NUMBER.sub("#", a) == NUMBER.sub("#", b)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_presentable(path):
    assert faults(read(path)) == []
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_what_is_stored(path, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the notebooks draw with matplotlib: pip install '.[dev]'")
    monkeypatch.chdir(tmp_path)
    notebook = read(path)
    for cell, (printed, pictures) in zip(code_cells(notebook), execute(notebook), strict=True):
        was, drawn = stored(cell)
        assert same(printed, was), f"{cell['id']} prints\n{printed}\nand stored is\n{was}"
        assert len(pictures) == len(drawn), f"{cell['id']} draws {len(pictures)} pictures, {len(drawn)} are stored"
    assert not list(tmp_path.iterdir()), "the notebook leaves files behind"


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda cell: cell.update(outputs=[]), "no picture is stored"),
        (lambda cell: cell.update(execution_count=7), "not run in order"),
        (lambda cell: cell["outputs"][0].update(name="stderr"), "an error or a warning is stored"),
        (lambda cell: cell["outputs"][0].update(text=["Traceback (most recent call last)"]), "is printed"),
        (lambda cell: cell["outputs"][0].update(text=["FutureWarning: soon"]), "is printed"),
        (lambda cell: cell["outputs"][0].update(text=["saved in /tmp/small-2x"]), "shows /tmp"),
        (lambda cell: cell["outputs"][0].update(text=[f"{Path.home()}/grow"]), f"shows {Path.home()}"),
        (lambda cell: cell["outputs"][1]["data"].update({"image/png": "R0lGODlh"}), "no PNG"),
    ],
)
def test_a_damaged_output_is_found(damage, fault):
    stream = {"output_type": "stream", "name": "stdout", "text": ["1 picture\n"]}
    image = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}
    source = ["print('1 picture')\n", "plt.show()"]
    cell = {"cell_type": "code", "id": "a", "source": source, "execution_count": 1, "outputs": [stream, image]}
    notebook = {"cells": [cell]}
    assert faults(notebook) == []
    damaged = copy.deepcopy(notebook)
    damage(damaged["cells"][0])
    assert any(fault in found for found in faults(damaged))


def test_other_digits_are_the_same_output_and_other_words_are_not():
    assert same("max |Δ| = 1.1e-14 of 16,384", "max |Δ| = 7e-15 of 9")
    assert not same("lossless 1.0", "different 1.0")


def store(path: Path) -> None:
    """Run the notebook and keep what it prints and draws."""
    notebook = read(path)
    for number, (cell, (printed, pictures)) in enumerate(zip(code_cells(notebook), execute(notebook)), 1):
        text = [{"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)}]
        drawn = [{"image/png": base64.b64encode(png).decode(), "text/plain": ["<Figure>"]} for png in pictures]
        images = [{"output_type": "display_data", "metadata": {}, "data": data} for data in drawn]
        cell.update(execution_count=number, outputs=(text if printed else []) + images)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    for each in NOTEBOOKS:
        store(each)
