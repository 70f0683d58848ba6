"""Whatever has the name of a file that grow reads is read in bounded time and memory, or refused with exit code 2.

One command for each kind of file, and in its place a pipe, a device without end, links that lead nowhere or to
themselves, a folder, a file that claims a terabyte, one without a byte, and bytes that are no text.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny as files
from training import QUICK, tokens

import grow
from grow.data import prepare
from grow.data.readers import documents
from grow.errors import BadInput
from grow.files.header import read_header
from grow.zoo import bundled_path

SECONDS = 60  # a hang is for ever


class Hang(BaseException):
    """Nothing may catch it."""


@pytest.fixture(autouse=True)
def _never_hangs():
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "sparse": sparse,
    "empty": Path.touch,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "latin1": lambda path: path.write_bytes("{\"a\": \"Grüße\"}\n".encode("latin-1")),
}  # fmt: skip

WIDEN = "widen --from source --to max_position_embeddings=80 --out out --no-verify"
RUN = "train --out run --resume"
TRAINER = "widen --from trainer --to hidden=48 --out out --no-verify --state carry"
PLACES: dict[str, str] = {
    "source/config.json": "plan --from source --to hidden=48",
    "source/grow.json": WIDEN,
    "source/model.safetensors": "inspect source",
    "source/tokenizer.json": WIDEN,
    "source/tokenizer_config.json": WIDEN,
    "source/generation_config.json": WIDEN,
    "source/added_tokens.json": WIDEN,
    "source/vocab.txt": WIDEN,
    "source/chat_template.jinja": WIDEN,
    "source/LICENSE": WIDEN,
    "sentences/modules.json": "widen --from sentences --to hidden=48 --out out --no-verify",
    "sentences/1_Pooling/config.json": "widen --from sentences --to hidden=48 --out out --no-verify",
    "sharded/model.safetensors.index.json": "plan --from sharded --to hidden=48",
    "pickled/pytorch_model.bin": "verify pickled source",
    "adapter/adapter_config.json": "plan --from adapter --to hidden=48",
    "target/config.json": "plan --from source --to target",
    "words/tokenizer.json": "data prepare text.txt --tokenizer words --out out",
    "words/tokenizer_config.json": "data prepare text.txt --tokenizer words --out out",
    "text.txt": "data prepare text.txt --tokenizer words --out out",
    "text.jsonl": "data prepare text.jsonl --tokenizer words --out out",
    "text.txt.gz": "data prepare text.txt.gz --tokenizer words --out out",
    "text.parquet": "data prepare text.parquet --tokenizer words --out out",
    "texts/a.txt": "data prepare texts --tokenizer words --out out",
    "heard.txt": "compare --from small --to 2x --text heard.txt --train-steps 1 --methods default --out out",
    "recipe.toml": "run recipe.toml --dry-run",
    "golden.safetensors": "verify --against golden.safetensors source --rung true_float64",
    "tokens/manifest.json": "train --from trained --data tokens --out out --steps 1",
    "tokens/train.bin": "train --from trained --data tokens --out out --steps 1",
    "tokens/val.docs": "train --from trained --data tokens --out out --steps 1",
    "trained/grow.json": "train --from trained --data tokens --out out --steps 1",
    "run/run.json": "plot run",
    "run/metrics.jsonl": "plot run",
    "run/step-00000002/state/train.json": RUN,
    "run/step-00000002/state/.metadata": RUN,
    "run/step-00000002/grow.json": "widen --from run/step-00000002 --to hidden=24 --out out --no-verify",
    "stages/recipe.json": "plot stages",
    "trainer/trainer_state.json": TRAINER,
    "trainer/optimizer.pt": TRAINER,
    "trainer/scheduler.pt": TRAINER,
}
"""The file, and what reads it; all of it lies in one folder."""

AS_IT_IS = {"empty", "binary", "latin1"}
HARMLESS = {
    "source/tokenizer.json": AS_IT_IS,
    "source/tokenizer_config.json": AS_IT_IS,
    "source/generation_config.json": AS_IT_IS,
    "source/added_tokens.json": AS_IT_IS,
    "source/vocab.txt": AS_IT_IS,
    "source/chat_template.jinja": AS_IT_IS | {"folder"},
    "source/LICENSE": AS_IT_IS | {"folder"},
    "texts/a.txt": {"empty", "folder"},  # the other text is enough
}
"""What does no harm: files that are copied byte for byte, whatever stands in them; folders, which stay behind."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder in which every command above does what it should."""
    import torch
    from models import save

    at = tmp_path_factory.mktemp("whole")
    source = files.checkpoint(at / "source", tokenizer=True)
    for name in ("tokenizer.json", "generation_config.json", "added_tokens.json"):
        (source / name).write_text("{}")
    for name in ("vocab.txt", "chat_template.jinja", "LICENSE"):
        (source / name).write_text("x\n")
    grown = grow.widen(source, {"hidden": 48}, out=at / "grown", verify=False).path
    shutil.copy(grown / "grow.json", source / "grow.json")
    sentences = files.checkpoint(at / "sentences", "bert", architectures=["BertModel"])
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling")
    entries = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds]
    files.write_json(sentences / "modules.json", entries)
    (sentences / "1_Pooling").mkdir()
    files.write_json(sentences / "1_Pooling" / "config.json", {"word_embedding_dimension": 24})
    sharded = files.checkpoint(at / "sharded")
    shard = "model-00001-of-00001.safetensors"
    (sharded / files.WEIGHTS).rename(sharded / shard)
    index = {"weight_map": dict.fromkeys(read_header(sharded / shard)[0], shard)}
    files.write_json(sharded / "model.safetensors.index.json", index)
    pickled = at / "pickled"
    pickled.mkdir()
    shutil.copy(source / "config.json", pickled)
    torch.save({"x": torch.zeros(1)}, pickled / "pytorch_model.bin")
    (at / "adapter").mkdir()
    files.write_json(at / "adapter" / "adapter_config.json", {})
    (at / "target").mkdir()
    files.write_json(at / "target" / "config.json", {**files.read_json(source / "config.json"), "hidden_size": 48})
    words = at / "words"
    shutil.copytree(bundled_path("small"), words, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    for place in (at / "text.txt", at / "heard.txt", at / "texts" / "a.txt"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("The state of the Union is strong.\n")
    (at / "texts" / "b.txt").write_text("Fellow citizens:\n")
    (at / "text.jsonl").write_text('{"text": "Fellow citizens:"}\n')
    (at / "text.txt.gz").write_bytes(gzip.compress(b"Fellow citizens:\n"))
    (at / "text.parquet").write_bytes(b"no parquet")
    (at / "recipe.toml").write_text('name = "r"\n[[stage]]\nkind = "init"\nfrom = "small"\n')
    (at / "golden.safetensors").write_bytes(b"no golden file")
    trained = save("llama", at / "trained")
    files.write_json(trained / "grow.json", {"schema": 1, "grow": "0", "training": {}})
    tokens(at / "tokens")
    grow.train(trained, at / "tokens", out=at / "run", **{**QUICK, "steps": 2})
    (at / "stages").mkdir()
    files.write_json(at / "stages" / "recipe.json", {"stages": []})
    trainer = files.checkpoint(at / "trainer")
    files.write_json(trainer / "trainer_state.json", {"global_step": 3})
    torch.save({}, trainer / "scheduler.pt")
    torch.save({}, trainer / "optimizer.pt")
    return at


@pytest.fixture
def run(whole, tmp_path, monkeypatch, capsys):
    """Spoils one file of a copy and runs the command there: exit code, stdout and stderr."""

    def spoiled(place: str, kind: str) -> tuple[int, str, str]:
        command = PLACES[place].split()
        for name in {place.split("/")[0], *command} & set(os.listdir(whole)):
            copy = shutil.copytree if (whole / name).is_dir() else shutil.copy
            copy(whole / name, tmp_path / name)
        path = tmp_path / place
        path.unlink(missing_ok=True)
        KINDS[kind](path)
        monkeypatch.chdir(tmp_path)
        before = {*os.listdir(tmp_path)}
        found = files.command(monkeypatch, capsys, *command)
        assert found[0] == 0 or {*os.listdir(tmp_path)} == before, "something half-made is left"
        return found

    return spoiled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_of_any_kind_is_read_or_refused(place, kind, run):
    code, _, err = run(place, kind)
    if kind in HARMLESS.get(place, ()):
        assert code == 0, err
        return
    assert code == 2, err
    assert err.startswith("error: "), err
    assert Path(place).name in err or f"/{place.split('/')[0]}: " in err, err
    assert "\n  why " in err, err
    assert "\n  fix " in err, err
    assert not err.startswith(("error: memory", "error: grow itself")), err


@pytest.mark.parametrize("kind", ["fifo", "sparse", "latin1"])
def test_a_record_that_cannot_be_read_is_told_before_a_weight_is_written(kind, whole, tmp_path, monkeypatch):
    source = shutil.copytree(whole / "source", tmp_path / "source")
    (source / "grow.json").unlink()
    KINDS[kind](source / "grow.json")
    monkeypatch.setattr("grow.growth.written_and_verified.write_plan", lambda *_: pytest.fail("a weight was written"))
    with pytest.raises(BadInput, match=r"grow\.json"):
        grow.widen(source, {"hidden": 48}, out=tmp_path / "out", verify=False)


def test_a_link_in_a_checkpoint_does_not_lead_out_of_it(whole, tmp_path):
    source = shutil.copytree(whole / "source", tmp_path / "source")
    (source / "grow.json").rename(tmp_path / "elsewhere.json")
    (source / "grow.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadInput, match="leaves the folder"):
        grow.plan(source, {"hidden": 48})


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_a_document_has_an_end(name, tmp_path, monkeypatch):
    monkeypatch.setattr("grow.data.readers.MAX_TEXT", 50)
    text = "x" * 30
    (tmp_path / name).write_bytes(_as(name, text))
    assert prepare([tmp_path / name], tokenizer="small", out=tmp_path / "out", end=False).splits["train"].bytes == 30
    (tmp_path / name).write_bytes(_as(name, 2 * text))
    with pytest.raises(BadInput, match="a document of more than 50 characters"):
        prepare([tmp_path / name], tokenizer="small", out=tmp_path / "more")
    assert not (tmp_path / "more").exists()


def _as(name: str, text: str) -> bytes:
    raw = (json.dumps({"text": text}) if "jsonl" in name else text).encode()
    return gzip.compress(raw) if name.endswith("gz") else raw


@pytest.mark.parametrize("separator", ["|", "ab", "aba"])
def test_documents_are_those_of_the_whole_text_wherever_a_part_of_it_ends(separator, tmp_path, monkeypatch):
    monkeypatch.setattr("grow.data.readers.PART", 7)
    draw = np.random.default_rng(3)
    for _ in range(30):
        text = "".join(draw.choice(list("abc|\n"), draw.integers(1, 60)))
        (tmp_path / "a.txt").write_text(text)
        assert list(documents(str(tmp_path / "a.txt"), separator=separator)) == text.split(separator)
