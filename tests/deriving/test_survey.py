"""The page of all model types: one process for each, what is done is kept, and what is said is what was found."""

from __future__ import annotations

import json

from grow.deriving import survey as module
from grow.deriving.survey import alone, page, survey


def test_a_survey_that_was_stopped_goes_on(tmp_path, monkeypatch):
    asked = []
    found = {"why": "", "whole": True, "axes": [{"axis": "ffn", "status": "proved", "why": ""}]}
    monkeypatch.setattr(module, "alone", lambda kind, seconds: asked.append(kind) or {**found, "model_type": kind})
    out = tmp_path / "types.md"
    survey(out, types=("bart", "bert"))
    text = survey(out, types=("bart", "bert", "clip"))
    assert asked == ["bart", "bert", "clip"]
    assert out.read_text() == text
    assert "| clip | whole | ffn |  |" in text
    assert "| bert | whole, family | ffn |  |" in text


def test_a_type_that_takes_too_long_is_stopped_and_one_that_resists_says_why():
    assert alone("bert", 0)["why"] == "stopped: it took more than 0 s"
    assert "no class with a head" in alone("mask2former", 60)["why"]


def test_the_counts_are_those_of_the_lines():
    axes = [{"axis": "hidden", "status": "refused", "why": "no value | fits"}]
    lines = page(
        [
            {"model_type": "a", "why": "", "whole": False, "axes": axes},
            {"model_type": "b", "why": "not described yet: x: dim 0", "whole": False, "axes": []},
            {"model_type": "c", "why": "stock code: ValueError: <no>", "whole": False, "axes": []},
        ],
        ["d", "e"],
    )
    assert "2 types are still to be looked at" in lines
    assert "d, e" in lines
    assert "- 1 types have a derived table; of 2 none was made:" in lines
    assert "    - 1: not described yet" in lines
    assert "    - 1: stock code does not build or run a tiny model" in lines
    assert "- a, hidden: no value \\| fits" in lines
    assert "&lt;no>" in lines


def test_what_is_kept_beside_the_page_is_one_document_a_line(tmp_path):
    out = tmp_path / "types.md"
    survey(out, types=("mask2former",), seconds=60)
    (line,) = out.with_suffix(".jsonl").read_text().splitlines()
    assert json.loads(line)["model_type"] == "mask2former"
