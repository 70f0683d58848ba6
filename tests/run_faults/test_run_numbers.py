"""What a run computes with: changed text, numbers that are not finite, and the loss before the first step."""

from __future__ import annotations

import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as files
import torch
from training import QUICK, refused, tokens

import grow
from grow.errors import BadInput
from grow.training.saved import checkpoints
from grow.training.step.loop import NotFinite

# Text


def flipped(file: Path, at: int = 100) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_changed_byte_of_the_text_is_found_whenever_a_run_begins_or_goes_on(run, tiny, text, tmp_path, name):
    copied = Path(shutil.copytree(text, tmp_path / "tokens"))
    path = Path(shutil.copytree(run.path, tmp_path / "run"))
    flipped(copied / name)
    for options in ({"src": tiny("llama"), "out": tmp_path / "new"}, {"out": path, "resume": True, "steps": 5}):
        assert f"{name}: is not the file that was written" in refused(data=copied, **options)
    assert not (tmp_path / "new").exists()


def test_a_huge_corpus_is_not_hashed_before_the_run_and_a_note_says_so(tiny, text, tmp_path, monkeypatch):
    copied = Path(shutil.copytree(text, tmp_path / "text"))
    flipped(copied / "val.bin", -2)
    monkeypatch.setattr(sys.modules["grow.training.text.inputs"], "READ_WHOLE", 1000)
    done = grow.train(tiny("llama-tied"), copied, out=tmp_path / "run", **QUICK)
    assert f"{copied} was not read and hashed before the run: 1,800 bytes are too many" in done.notes


def test_a_plateau_without_validation_text_is_refused(tiny, tmp_path):
    tokens(tmp_path / "tokens", held_out=9)
    begin = {"src": tiny("llama"), "data": tmp_path / "tokens", "out": tmp_path / "run", **QUICK}
    assert "no corpus has a block of validation text" in refused(**begin, plateau=(2, 0.1))
    shutil.copytree(tiny("llama"), tmp_path / "llama")
    (tmp_path / "recipe.toml").write_text(
        'name = "x"\ndata = "tokens"\n[[stage]]\nkind = "load"\nfrom = "llama"\n'
        '[[stage]]\nkind = "train"\nsteps = 9\nlength = 16\nplateau = "2:0.1"\n'
    )
    with pytest.raises(BadInput, match=r"stage 2 .train.: plateau = .2:0.1.: no corpus"):
        grow.price(tmp_path / "recipe.toml", measured=False)


def test_a_share_too_small_to_be_read_is_refused(tiny, text, tmp_path):
    little = tokens(tmp_path / "little", count=40, seed=1)
    begin = {"src": tiny("llama"), "out": tmp_path / "run", **QUICK}
    said = refused(data=[f"{text}:1", f"{little}:1e-5"], **begin)
    assert "little/train: would never be read: its share is 1e-05" in said
    for share, other in ((0, 0), ("nan", 1), (-1, 1)):
        assert "data=…: weights " in refused(data=[f"{text}:{share}", f"{little}:{other}"], **begin)
    done = grow.train(data=[f"{text}:1e308", f"{little}:1e308"], **{**begin, "steps": 1})
    assert done.step == 1


# Numbers


@pytest.mark.parametrize("kind", ["weight", "moment"])
def test_no_checkpoint_holds_a_number_that_is_not_finite(kind, tiny, text, tmp_path, monkeypatch):
    """The last update may make a weight infinite that no loss has seen yet."""
    step, done = torch.optim.AdamW.step, []

    def spoilt(self, *_: object) -> None:
        step(self)
        done.append(1)
        if len(done) == 2:
            p = self.param_groups[0]["params"][1]
            (p.data if kind == "weight" else self.state[p]["exp_avg_sq"])[3] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
    with pytest.raises(NotFinite) as error:
        grow.train(tiny("llama"), text, out=tmp_path / "run", **{**QUICK, "save_every": 1, "eval_every": 99})
    assert error.value.where.startswith("step 2: model." if kind == "weight" else "step 2: optim.")
    assert f"{text}/train: blocks " in str(error.value)
    assert [step for step, _ in checkpoints.steps(tmp_path / "run")] == [1]


def test_a_validation_loss_that_is_not_finite_names_the_step_before_it(tiny, text, tmp_path, monkeypatch):
    from grow.training.step import loop

    loss_sum = loop.loss_sum
    monkeypatch.setattr(
        loop, "loss_sum", lambda model, given: loss_sum(model, given) * (1 if model.training else math.nan)
    )
    with pytest.raises(NotFinite, match="step 0: the validation loss"):
        grow.train(tiny("llama"), text, out=tmp_path / "run", **QUICK)


LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "a rate beyond float32": ({"lr": 1e38}, "lr=1e+38: must be"),
    "a clip that is none": ({"clip": math.nan}, "fix        clip=1"),
    "no tokens": ({"steps": None, "tokens": 0}, "tokens=0: must be"),
    "fewer tokens than none": ({"steps": None, "tokens": -5}, "tokens=-5: must be"),
    "half a token": ({"steps": None, "tokens": 0.5}, "tokens=0.5: must be"),
    "a batch of nothing and tokens": ({"steps": None, "tokens": 5, "batch": 0}, "batch=0: must be"),
    "tokens without end": ({"steps": None, "tokens": 10**40}, "at most"),
    "a place beyond every text": ({"skip": 2**63 - 1}, "skip=9223372036854775807: must be"),
    "half a re-warming": ({"rewarm": (1.25,)}, "rewarm=[1.25]: must be"),
    "a plateau of one number": ({"plateau": 5}, "plateau=5: must be"),
    "a flag of words": ({"documents": "yes"}, 'documents="yes": must be'),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_number_that_cannot_be_computed_with_is_refused_by_name(name, tiny, text, tmp_path):
    change, said = LIMITS[name]
    options = {k: v for k, v in {**QUICK, **change}.items() if v is not None}
    assert said in refused(src=tiny("llama"), data=text, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_running_out_of_memory_is_not_reported_as_a_fault_of_grow(error, tiny, text, tmp_path, monkeypatch, capsys):
    from grow.training import run as module

    def none_left(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "load_model", none_left)
    line = ["train", "--from", tiny("llama"), "--data", text, "--out", tmp_path / "run"]
    code, _, err = files.command(monkeypatch, capsys, *line)
    assert code == 2
    assert f"memory: {error}" in err
    assert "--accumulate" in err
    assert not (tmp_path / "run").exists()


# The step before the first


def scaled(folder: Path, tensor: str, factor: float) -> Path:
    """A copy whose tensor has its first row scaled; every file keeps its size."""
    path = Path(shutil.copytree(folder, folder.parent / f"{folder.name}-{factor}"))
    header, begin = files.read_header(path)
    at, _ = header[tensor]["data_offsets"]
    values = np.memmap(path / "model.safetensors", "<f4", "r+", begin + at, tuple(header[tensor]["shape"]))
    values[:1] *= np.float32(factor)
    values.flush()
    return path


@pytest.mark.parametrize("held_out", [200, 9])
def test_first_losses_are_compared_token_by_token_on_validation_text_or_the_first_batch(held_out, tiny, tmp_path):
    """A row of a query matrix moves some losses up and others down: their mean stays within 1e-4."""
    grown = grow.widen(tiny("llama-tied"), {"hidden": 48}, out=tmp_path / "grown", verify=False).path
    begin = {"data": tokens(tmp_path / "tokens", held_out=held_out), "source": tiny("llama-tied"), **QUICK, "steps": 1}
    what = "validation loss" if held_out > 16 else "loss of the first batch"
    done = grow.train(grown, out=tmp_path / "run", **begin)
    assert any(note.startswith(f"the {what} before the first step is the source's: ") for note in done.notes)
    broken = scaled(grown, "model.layers.0.self_attn.q_proj.weight", 1.0005)
    said = refused(src=broken, out=tmp_path / "broken", **begin)
    one, other = (float(x) for x in re.search(r"loss.* of ([\d.]+) before .* source one of ([\d.]+),", said).groups())
    assert abs(one - other) < 1e-4
    assert "single tokens differ by " in said


def test_appended_tokens_and_positions_do_not_count_in_the_first_loss(tiny, text, tmp_path):
    source = tiny("llama-tied")
    begin = {"data": text, "source": source, **QUICK, "steps": 1}
    wide = grow.widen(source, {"hidden": 48, "vocab": 52}, out=tmp_path / "wide", verify=False).path
    done = grow.train(wide, out=tmp_path / "run", **begin)
    assert any("before the first step is the source's" in note for note in done.notes)
    assert "before the first step" in refused(src=scaled(wide, "model.norm.weight", 1.5), out=tmp_path / "x", **begin)
    more = tokens(tmp_path / "more", vocab=52)
    done = grow.train(wide, out=tmp_path / "new", **{**begin, "data": more})
    assert any("was not compared with the source's: the text has tokens" in note for note in done.notes)
    far = grow.widen(source, {"positions": 90}, out=tmp_path / "far", verify=False).path
    done = grow.train(far, out=tmp_path / "long", **{**begin, "length": 80})
    assert any("it has 64 positions, and a sequence 80 tokens" in note for note in done.notes)


def test_weights_changed_beside_a_state_are_an_error(run, tiny, text, tmp_path):
    """The weights of the state would silently replace them."""
    grown = grow.widen(run.checkpoint, {"hidden": 48}, out=tmp_path / "grown", verify=False).path
    for source in (Path(shutil.copytree(run.checkpoint, tmp_path / "step")), grown):
        begin = {"src": scaled(source, "model.norm.weight", 1.001), "data": text, "out": tmp_path / "run", **QUICK}
        assert re.search(r"model.norm.weight: (differs by|was changed after)", refused(**begin))
        assert grow.train(**begin, state="drop").step == 4
        shutil.rmtree(tmp_path / "run")
        assert grow.train(**{**begin, "src": source}).step == 4
        shutil.rmtree(tmp_path / "run")
    wide = grow.train(
        tiny("llama"), text, out=tmp_path / "wide", **QUICK, dtype="float64"
    )  # the state is, the file is not
    more = grow.widen(wide.checkpoint, {"hidden": 72}, out=tmp_path / "more", verify=False).path
    assert grow.train(more, text, out=tmp_path / "run", **QUICK, dtype="float64").step == 4
