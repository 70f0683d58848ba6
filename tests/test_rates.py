"""Rates that follow from a growth: with the implied ones training commutes with growing, μP's go with fan-ins."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from launched import forks
from safetensors.torch import load_file, save_file
from training import QUICK, apart, curve, refused, same, tokens, weights

import grow
from grow.checkpoint.reader import open_checkpoint
from grow.planning.record import read_record
from grow.training.after_growth.new_entries import tensors_of
from grow.training.after_growth.rates import Dimwise, fan_in, in_words, mup_scales
from grow.training.begin.loading import load_model
from grow.training.settings.run_settings import Settings
from grow.training.sharding import World
from grow.training.step.parameter_groups import build_optimizers

ONE = World(0, 1, torch.device("cpu"))
COPIES: dict[str, Any] = {"split": "even", "operators": {"ffn": "copies", "heads": "copies"}, "verify": False}
# every entry is a copy: widths are multiples, an FFN's units may be copied unevenly
WHOLE: dict[str, tuple[str, dict[str, int]]] = {
    "llama-tied": ("llama-tied", {"hidden_size": 36, "heads": 12, "kv_heads": 4, "ffn": 61}),
    "llama-3x": ("llama", {"hidden_size": 54, "heads": 18, "kv_heads": 6, "ffn": 84}),
    "gpt2": ("gpt2", {"hidden": 24, "heads": 6, "ffn": 70}),
    "gpt_neox": ("gpt_neox", {"hidden_size": 48, "heads": 6, "ffn": 60}),
}
ODD = {"hidden_size": 24, "heads": 12, "kv_heads": 4, "ffn": 61}  # some coordinates are fresh


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="module")
def wide(tiny, tmp_path_factory):
    """`wide("gpt2")`: the tiny checkpoint in float64, without dropout."""

    def make(variant: str) -> Path:
        path = shutil.copytree(tiny(variant), tmp_path_factory.mktemp(variant) / "source")
        config = json.loads((path / "config.json").read_text()) | {"dtype": "float64"}
        config |= {k: 0.0 for k in config if k.endswith(("pdrop", "dropout"))}
        (path / "config.json").write_text(json.dumps(config))
        stored = {name: value.double() for name, value in load_file(path / "model.safetensors").items()}
        save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return make


@pytest.fixture(scope="module")
def grown(tiny, tmp_path_factory) -> grow.Growth:
    return grow.widen(tiny("llama"), ODD, out=tmp_path_factory.mktemp("grown") / "g", **COPIES)


def plans(grown: grow.Growth) -> dict[str, Any]:
    with open_checkpoint(grown.path) as checkpoint:
        record = read_record(grown.path)
        assert record is not None
        return {t.name: t for t in tensors_of(record, checkpoint)}


def losses(path: Path) -> list[float]:
    return [line[k] for line in curve(path) for k in ("loss", "val_loss", "grad_norm") if k in line]


# Implied rates


@pytest.mark.parametrize("name", WHOLE)
def test_training_commutes_with_growing_at_the_implied_rates(wide, text, tmp_path, name):
    """Losses, norms (which are clipped) and weights; 1e-12 is the order of sums in float64, over four steps."""
    variant, to = WHOLE[name]
    source = wide(variant)
    grown = grow.widen(source, to, out=tmp_path / "grown", **COPIES)
    options = {**QUICK, "dtype": "float64", "eval_every": 1, "lr": 3e-3}
    first = grow.train(source, text, out=tmp_path / "first", **options)
    second = grow.train(grown.path, text, out=tmp_path / "second", rates="implied", **options)
    assert losses(second.path) == pytest.approx(losses(first.path), rel=1e-12)
    assert min(line["grad_norm"] for line in curve(first.path)[1:]) > 1  # every step is clipped
    later = grow.widen(first.checkpoint, to, out=tmp_path / "later", **COPIES)
    wanted, found = load_file(later.path / "model.safetensors"), weights(second.path)
    for key in wanted:
        # a gradient that is 0 but for rounding (a key's bias) is divided by its own root, down to eps: 1e-16 / 1e-8
        limit = 1e-12 if "llama" in name else 1e-10
        assert (wanted[key] - found[key]).abs().max() <= limit * max(1.0, wanted[key].abs().max()), key
    other = grow.train(grown.path, text, out=tmp_path / "uniform", **options)
    assert losses(other.path) != pytest.approx(losses(first.path), rel=1e-3)


def test_entries_that_hold_nothing_old_take_the_usual_step(grown, text, tmp_path):
    """Without clipping, the first step of Adam: fresh entries as with one rate, copies v times as far."""
    options = {**QUICK, "steps": 1, "clip": 0.0, "weight_decay": 0.0, "lr": 1e-3}
    for rates in ("uniform", "implied"):
        grow.train(grown.path, text, out=tmp_path / rates, rates=rates, rewarm=None, **options)
    before = load_file(grown.path / "model.safetensors")
    one, own = weights(tmp_path / "uniform", 1), weights(tmp_path / "implied", 1)
    fresh = 0
    for name, rate in grow.rates(grown.plan).items():
        old = (rate.value != 0) & (rate.gradient != 0)
        moved, plain = (own[name] - before[name]).double(), (one[name] - before[name]).double()
        far = plain.abs() > 5e-4  # elsewhere the gradient is as small as eps
        assert torch.equal(own[name][~old], one[name][~old]) or (moved - plain)[~old].abs().max() < 2e-6
        torch.testing.assert_close(moved[old & far], (rate.value * plain)[old & far], rtol=2e-2, atol=2e-6)
        fresh += int((moved[~old] != 0).sum())
    assert fresh > 100


def test_vectors_per_dim_are_the_rates_of_every_entry(grown, monkeypatch):
    """Also of the half of the rows that one of two processes holds."""
    made = plans(grown)
    for name, rate in grow.rates(grown.plan).items():
        p = torch.nn.Parameter(torch.zeros(made[name].new_shape, dtype=torch.float64))
        old = (rate.value != 0) & (rate.gradient != 0)
        wanted = torch.where(old, rate.value, 1), torch.where(old, rate.gradient, 1)
        for found, want in zip(Dimwise(made[name], p)(p.data), wanted):
            torch.testing.assert_close(found, want, rtol=1e-15, atol=0)
        with monkeypatch.context() as patch:
            patch.setattr(
                sys.modules["grow.training.after_growth.rates"], "part_of", lambda full, like: full.chunk(2)[0]
            )
            half = p.data.chunk(2)[0]
            for found, want in zip(Dimwise(made[name], p)(half), wanted):
                torch.testing.assert_close(found, want.chunk(2)[0], rtol=1e-15, atol=0)


# μP


def test_a_matrix_learns_at_the_share_by_which_its_fan_in_grew(grown, text, tmp_path):
    """hidden 18 -> 24, ffn 28 -> 61, heads 6 -> 12 of head_dim 8."""
    options = {**QUICK, "steps": 1, "clip": 0.0, "lr": 1e-3}
    for rates in ("uniform", "mup"):
        grow.train(grown.path, text, out=tmp_path / rates, rates=rates, rewarm=None, **options)
    before = load_file(grown.path / "model.safetensors")
    one, own = weights(tmp_path / "uniform", 1), weights(tmp_path / "mup", 1)
    shares = {"q_proj": 18 / 24, "up_proj": 18 / 24, "lm_head": 18 / 24, "down_proj": 28 / 61, "o_proj": 6 / 12}
    for name, value in before.items():
        share = next((s for key, s in shares.items() if key in name.replace("k_proj", "q_proj")), None)
        share = 18 / 24 if any(key in name for key in ("v_proj", "gate_proj")) else share or 1.0
        decay = 1e-4 * value if value.ndim > 1 and "embed" not in name else 0 * value  # the same in both
        moved, plain = own[name] - value + decay, one[name] - value + decay
        torch.testing.assert_close(moved, share * plain, rtol=1e-3, atol=2e-6)


def test_shares_follow_the_roles_of_dims_and_weight_decay_stays(tiny, tmp_path):
    """GPT-2 stores input by output; a head that is tied to its table is a table."""
    for variant, to in (("gpt2", {"hidden": 24, "heads": 6}), ("gpt2-untied", {"hidden": 36, "heads": 9})):
        grown = grow.widen(tiny(variant), to, out=tmp_path / variant, **COPIES)
        made, settings = plans(grown), Settings(rates="mup")
        with open_checkpoint(grown.path) as checkpoint:
            model, _ = load_model(checkpoint, settings, ONE)
        scales = mup_scales(model, made.values())
        small = {name.removeprefix("transformer."): scale for name, scale in scales.items()}
        wide = to["hidden"] // 12
        assert small["h.0.attn.c_attn.weight"] == small["h.1.mlp.c_fc.weight"] == 1 / wide
        assert small["wte.weight"] == small["wpe.weight"] == small["ln_f.weight"] == small["h.0.mlp.c_fc.bias"] == 1
        assert small.get("lm_head.weight", 1 / wide) == 1 / wide
        optimizer, *_ = build_optimizers(model, settings, ONE, scales)
        for group in optimizer.param_groups:
            assert {scales[name] for name in group["param_names"]} == {group["scale"]}
            assert group["weight_decay"] * group["scale"] in (0.0, pytest.approx(0.1))
        assert in_words(scales).startswith(f"× {min(scales.values()):.4g} for ")
        assert all(fan_in(t, t.new_shape) >= fan_in(t, t.shape) for t in made.values())


# Both


def test_rates_resume_bit_for_bit_and_are_sharded_with_the_weights(grown, text, tmp_path):
    options: dict[str, Any] = {**QUICK, "lr": 1e-3}

    def two() -> None:
        dist.init_process_group("gloo")  # once: torch may wait for ever where it is done again
        for rates in ("implied", "mup"):
            more = dict(rates=rates, rewarm=(1.25, 3), world=2)
            grow.train(grown.path, text, out=tmp_path / f"{rates}-two", **more, **options)
        dist.destroy_process_group()

    done = forks(2, two, tmp_path)
    assert done.codes == [0, 0], done.stderr
    for rates in ("implied", "mup"):
        one = grow.train(grown.path, text, out=tmp_path / rates, rates=rates, rewarm=(1.25, 3), **options)
        assert apart(one.path, tmp_path / f"{rates}-two") < 1e-6  # sums of float32 in another order
        cut = shutil.copytree(one.path, tmp_path / f"{rates}-cut")
        shutil.rmtree(cut / "step-00000004")
        grow.train(out=cut, resume=True)
        assert curve(cut) == curve(one.path)
        assert same(weights(cut), weights(one.path))


def test_rates_that_cannot_be(tiny, grown, text, tmp_path):
    options: dict[str, Any] = {"data": text, "out": tmp_path / "run", **QUICK}
    for rates in ("mup", "implied"):
        said = refused(src=tiny("llama"), rates=rates, **options)
        assert f'rates="{rates}": float32 is not known to have grown' in said
        said = refused(src=grown.path, rates=rates, optimizer="muon", **options)
        assert "it is a rule for AdamW, not for muon" in said
    assert "did you mean 'mup'?" in refused(src=grown.path, rates="mupp", **options)
    assert list(tmp_path.iterdir()) == []
    done = grow.train(grown.path, rates="mup", **{**options, "steps": 1})
    assert [note for note in done.notes if note.startswith("learning rates: ")] == [
        "learning rates: × 0.459 for 2 parameters, × 0.5 for 2, × 0.75 for 11, × 1 for 6"
    ]
    assert 'resume=True: rates="uniform": ' in refused(out=tmp_path / "run", resume=True, rates="uniform")
