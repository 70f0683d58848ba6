"""What a result says of its source's folder: files that stay behind, the card, the names, and a tokenizer too large."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import yaml

import grow
from grow.growth.model_card import LARGEST_HEAD

CARD = """---
license: other
license_name: our-licence
license_link: https://example.org/licence
language:
- en
- de
pipeline_tag: sentence-similarity
library_name: sentence-transformers
tags: [feature-extraction, old]
datasets:
- org/data
base_model: somebody/else
model-index: [{name: x}]
---
# A model

---
license: mit
---
"""


def front_matter(folder: Path) -> dict:
    head = (folder / "README.md").read_text(encoding="utf-8").split("\n---\n")[0]
    assert head.startswith("---\n")
    return yaml.safe_load(head)


@pytest.fixture
def source(tmp_path) -> Path:
    return tiny.checkpoint(tmp_path / "private" / "my-model", "llama", tokenizer=True)


def grown(source: Path, **options) -> grow.Growth:
    return grow.widen(source, {"intermediate_size": 40}, out=source.parent / "grown", **{"verify": False, **options})


# The card


def test_the_card_carries_over_what_holds_of_the_grown_model(source):
    (source / "README.md").write_text(CARD)
    found = front_matter(grown(source).path)
    assert found == {
        "library_name": "sentence-transformers",
        "license": "other",
        "license_name": "our-licence",
        "license_link": "https://example.org/licence",
        "language": ["en", "de"],
        "pipeline_tag": "sentence-similarity",
        "datasets": ["org/data"],
        "tags": ["feature-extraction", "old", "grow"],  # nobody looked whether it preserves the function
    }


def test_a_source_without_a_card_gives_the_plain_one(source):
    assert front_matter(grown(source).path) == {"library_name": "transformers", "tags": ["grow"]}


def test_the_language_of_norway_is_no_truth_value(source):
    (source / "README.md").write_text("---\nlanguage: no\n---\n")
    assert front_matter(grown(source).path)["language"] == "no"


HOSTILE = {
    "aliases": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nlicense: *b\n",
    "an object": "license: !!python/object/apply:os.system ['touch /tmp/never']\n",
    "deep": "license: " + "[" * 20000 + "]" * 20000 + "\n",
    "no YAML": "license: {mit\n\tx: [\n",
    "a list": "- license\n",
    "numbers": "license: 3\nlanguage: {a: b}\ntags: [1, 2.5, null]\nlicense_link: 0x1F\n",
    "control characters": 'license: "mit\\nbase_model: evil/evil\\e[31m"\n',
    "bad bytes": "license: \udcff\udcfe\n",
    "long": "license: " + "m" * 5000 + "\n",
    "too much": "x: " + "y" * LARGEST_HEAD + "\nlicense: mit\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_card_neither_stops_a_growth_nor_gets_into_the_new_card(name, source):
    text = f"---\n{HOSTILE[name]}---\n"
    (source / "README.md").write_bytes(text.encode("utf-8", errors="surrogateescape"))
    found = front_matter(grown(source).path)
    assert not {"license", "language", "base_model", "license_link"} & found.keys()
    assert found["tags"] == ["grow"]


def test_a_value_cannot_begin_another_key(source):
    (source / "README.md").write_text("---\nlicense: 'mit\" , base_model: evil/evil #'\ntags: ['a, b]', '- c']\n---\n")
    found = front_matter(grown(source).path)
    assert found["license"] == 'mit" , base_model: evil/evil #'
    assert found["tags"][:2] == ["a, b]", "- c"]
    assert "base_model" not in found


@pytest.mark.parametrize("readme", ["folder", "fifo"])
def test_a_card_that_is_no_file_is_none(readme, source):
    import os

    (source / "README.md").mkdir() if readme == "folder" else os.mkfifo(source / "README.md")
    assert "license" not in front_matter(grown(source).path)


def test_a_local_path_is_nobodys_base_model(source, monkeypatch):
    monkeypatch.chdir(source.parents[1])
    found = grow.widen("private/my-model", {"intermediate_size": 40}, out="grown", verify=False)
    assert "base_model" not in front_matter(found.path)


def test_a_snapshot_of_the_hub_is_known_by_its_repository(tmp_path):
    snapshot = tiny.checkpoint(tmp_path / "models--org--some-model" / "snapshots" / "0123abc", "llama")
    found = grow.widen(snapshot, {"intermediate_size": 40}, out=tmp_path / "grown", verify=False)
    assert front_matter(found.path)["base_model"] == "org/some-model"
    assert tiny.read_json(found.path / "grow.json")["source"]["name"] == "org/some-model"


def test_no_path_of_this_machine_is_published(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    for src, out in ((source, source.parent / "a"), ("my-model", "b"), ("./my-model", "c")):
        found = grow.widen(src, {"intermediate_size": 40}, out=out)
        assert found.verification.lossless
        assert '"function-preserving"' in (Path(out) / "README.md").read_text()
        for name in ("grow.json", "README.md"):
            text = (Path(out) / name).read_text()
            assert str(source.parent) not in text
            assert "my-model" in text
        document = tiny.read_json(Path(out) / "grow.json")
        assert document["source"]["name"] == "my-model"
        assert not document["verification"]["source"].startswith(("/", "./"))
    assert grow.verify(source, "b", rungs=["certificate"]).verdict == "certified"


# Files that stay behind


def told(found: grow.Growth) -> str:
    return "\n".join(found.notes)


def test_every_file_that_stays_behind_is_told(source):
    for name in ("notes.txt", "modeling_x.py", "eval.csv", "pytorch_model.bin", "model.gguf"):
        (source / name).write_text("x")
    (source / "onnx").mkdir()
    (source / "onnx" / "model.onnx").write_text("x")
    text = told(grown(source))
    assert "stays behind: eval.csv, model.gguf, modeling_x.py, notes.txt, onnx/, pytorch_model.bin" in text
    (source / "README.md").write_text("# A model")
    plan = grow.plan(source, {"intermediate_size": 40})
    assert any("README.md is replaced" in note for note in plan.notes)


def test_files_of_tools_are_one_line_and_what_came_along_is_none(source):
    (source / ".git").mkdir()
    (source / ".gitattributes").write_text("x")
    (source / "LICENSE").write_text("x")
    found = grown(source)
    assert [note for note in found.notes if "behind" in note] == ["files of tools stay behind: .git/, .gitattributes"]
    plain = tiny.checkpoint(source.parent / "plain", "llama")
    assert not [n for n in grow.plan(plain, {"intermediate_size": 40}).notes if "behind" in n or "README" in n]


def test_a_file_beside_a_module_is_told_by_its_path(source):
    (source / "1_Pooling").mkdir()
    tiny.write_json(source / "1_Pooling" / "config.json", {})
    (source / "1_Pooling" / "extra.py").write_text("x")
    assert "stays behind: 1_Pooling/extra.py" in told(grown(source))


@pytest.mark.parametrize("command", ["widen", "deepen", "upcycle"])
def test_every_command_that_writes_tells_it(command, source, monkeypatch, capsys):
    (source / "notes.txt").write_text("x")
    how = {"widen": ["--to", "intermediate_size=40"], "deepen": ["--layers", "3"], "upcycle": ["--experts", "4"]}[
        command
    ]
    out = source.parent / "grown"
    code, shown, err = tiny.command(monkeypatch, capsys, command, "--from", source, *how, "--out", out, "--no-verify")
    assert code == 0
    assert "stays behind: notes.txt" in shown + err


# A tokenizer with more entries than the model has rows


def tokenizer(folder: Path, entries: int, added: int) -> None:
    vocab = {f"t{k}": k for k in range(entries)}
    more = [{"id": entries + k, "content": f"<{k}>"} for k in range(added)]
    tiny.write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": more})


def test_a_tokenizer_larger_than_the_table_is_told_with_the_size_that_fits(source):
    tokenizer(source, 30, 3)
    notes = [n for n in grow.plan(source, {"intermediate_size": 40}).notes if "vocab_size" in n]
    assert len(notes) == 1
    assert 'to={"vocab_size": 33} ' in notes[0]
    assert " 64 is a multiple of 64" in notes[0]
    assert not [n for n in grow.plan(source, {"vocab_size": 33}).notes if "vocab_size" in n]
    assert [n for n in grow.plan(source, {"vocab_size": 32}).notes if '"vocab_size": 33' in n]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"model": {"vocab": {"a": 2**31}}}),
        json.dumps({"model": {"vocab": 3}}),
        json.dumps({"model": {"vocab": {"a": "x"}}, "added_tokens": [3]}),
        json.dumps([]),
        "{nonsense",
    ],
)
def test_a_tokenizer_that_says_nonsense_asks_for_no_rows(text, source):
    (source / "tokenizer.json").write_text(text)
    assert not [n for n in grow.plan(source, {"intermediate_size": 40}).notes if "vocab_size" in n]


def test_a_tokenizer_that_fits_is_no_note(source):
    tokenizer(source, 27, 2)
    assert not [n for n in grow.plan(source, {"intermediate_size": 40}).notes if "vocab_size" in n]
