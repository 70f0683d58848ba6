"""Layouts that stock classes load all alike: experts fused or one by one, a tied table under either of its names, the
base model's prefix once too often. Each is read as the family's table names it, and grows.

What is equal is asked of the stock class, never of `grow.checkpoint.layout`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

import grow
from grow.applying.engine import FileSource
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, GrowError

SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe", "mixtral-base", "qwen2_moe-base")
LAYOUTS = ("fused", "mixed")
TIED = {
    "llama-tied": "lm_head.weight",
    "qwen3-biases": "lm_head.weight",
    "mixtral-tied": "lm_head.weight",
    "gpt2": "lm_head.weight",
    "gpt_neox-no-bias": "lm_head.weight",
    "opt": "lm_head.weight",
    "opt-projected": "lm_head.weight",
    "roberta-mlm": "lm_head.decoder.weight",
    "bert-mlm": "cls.predictions.decoder.weight",
    "bert-pretraining": "cls.predictions.decoder.weight",
    "distilbert-mlm": "vocab_projector.weight",
}
BIASES = {
    "bert-mlm": ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    "bert-pretraining": ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    "roberta-mlm": ("lm_head.bias", "lm_head.decoder.bias"),
}
WIDER = {"ffn": 60}


def rewritten(source: Path, folder: Path, tensors, **fields) -> Path:
    """The checkpoint with other tensors and config fields."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def laid(tiny, tmp_path_factory):
    """`laid("mixtral", "fused")`: the same checkpoint with all layers fused, or with the last one ("mixed")."""

    def get(variant: str, layout: str, dtype: str = "float32") -> Path:
        root = tmp_path_factory.mktemp(variant)
        apart = tiny(variant, dtype)
        model = models.make(variant).to(getattr(torch, dtype))
        model.save_pretrained(root / "fused", save_original_format=False)
        fused, files = stored(root / "fused"), stored(apart)
        assert any(tensor.ndim == 3 and name not in files for name, tensor in fused.items())
        if layout == "fused":
            return root / "fused"
        last = f"layers.{model.config.num_hidden_layers - 1}."
        some = {k: v for k, v in fused.items() if last in k} | {k: v for k, v in files.items() if last not in k}
        return rewritten(apart, root / "mixed", some)

    return get


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", SPARSE)
def test_every_layout_of_experts_is_the_same_checkpoint(variant, layout, tiny, laid):
    """Names, shapes, order of rows and bytes are those of the files that stock saving writes by default."""
    with open_checkpoint(tiny(variant)) as apart, open_checkpoint(laid(variant, layout)) as other:
        assert apart.tensors.keys() == other.tensors.keys()
        for name, info in other.tensors.items():
            assert (info.dtype, info.shape) == (apart.tensors[name].dtype, apart.tensors[name].shape)
            assert other.sha256(info) == apart.sha256(apart.tensors[name]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", SPARSE[:5])
def test_a_fused_checkpoint_grows(variant, layout, laid, tmp_path):
    source = laid(variant, layout)
    to = {"hidden": 72 if variant == "qwen2_moe" else 54, "layers": 4}
    growth = grow.widen(source, to, out=tmp_path / "grown", dtype="float64", verify=False)
    assert models.difference(models.outputs(source), models.outputs(growth.path)) < 1e-12
    found = grow.verify(source, growth.path, rungs=["certificate", "recover"])
    assert {check.name: check.status for check in found.checks} == {"certificate": "pass", "recover": "pass"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_experts_of_a_fused_checkpoint_are_multiplied_and_verified(layout, laid, tmp_path):
    growth = grow.widen(laid("mixtral", layout, "bfloat16"), {"experts": 8}, out=tmp_path / "grown")
    assert growth.verified


def test_a_result_that_was_saved_fused_again_is_still_the_recorded_one(tiny, tmp_path):
    growth = grow.widen(tiny("qwen3_moe"), {"expert_ffn": 31}, out=tmp_path / "grown", verify=False)
    again = models.transformers.AutoModelForCausalLM.from_pretrained(growth.path)
    again.save_pretrained(tmp_path / "fused", save_original_format=False)
    shutil.copy(growth.path / "grow.json", tmp_path / "fused")
    found = grow.verify(tiny("qwen3_moe"), tmp_path / "fused", rungs=["certificate", "recover"])
    assert all(check.status == "pass" for check in found.checks), found.checks
    tensors = stored(tmp_path / "fused")
    name = next(n for n in tensors if n.endswith("layers.1.mlp.experts.down_proj"))
    tensors[name][2, 3, 5] += 1
    save_file(tensors, tmp_path / "fused" / "model.safetensors", {"format": "pt"})
    check = grow.verify(tiny("qwen3_moe"), tmp_path / "fused", rungs=["certificate"]).checks[0]
    assert check.status == "fail"
    assert "layers.1.mlp.experts.2.down_proj.weight[3, 5]" in check.reason


def test_two_layouts_are_compared_number_by_number(tiny, laid, tmp_path):
    fused = laid("qwen2_moe", "fused")
    same = grow.verify(tiny("qwen2_moe"), fused, rungs=["certificate"]).checks[0]
    assert same.status == "pass"
    tensors = stored(fused)
    name = next(n for n in tensors if n.endswith("experts.gate_up_proj"))
    tensors[name][1, -1, 0] *= 2  # the last row of an expert's up projection
    other = rewritten(fused, tmp_path / "other", tensors)
    reason = grow.verify(tiny("qwen2_moe"), other, rungs=["certificate"]).checks[0].reason
    assert "experts.1.up_proj.weight[" in reason


def test_rows_of_a_stack_are_read_and_no_more(laid, monkeypatch):
    """An expert's rows are where they lie: no read is longer than asked for."""
    with open_checkpoint(laid("mixtral", "fused")) as source:
        name = next(n for n in source.tensors if n.endswith("experts.3.w3.weight"))
        info, spans = source.tensors[name], []
        read = source.read
        monkeypatch.setattr(source, "read", lambda i, a, b: spans.append(b - a) or read(i, a, b))
        plan = grow.plan(source.path, WIDER)
        t = next(t for t in plan.tensors if t.name == name)
        rows = FileSource(source).rows(t.old, 2, 4)
        assert spans == [2 * info.shape[1] * 4]
    wanted = stored(source.path)[name.split(".block")[0] + ".mlp.experts.gate_up_proj"][3]
    assert np.array_equal(rows, wanted[info.shape[0] + 2 : info.shape[0] + 4].numpy())


@pytest.mark.parametrize("shape", [(3, 8, 4), (4, 7, 4), (8, 4)])
def test_a_stack_of_another_shape_is_refused(shape, laid, tmp_path):
    source = laid("mixtral", "fused")
    tensors = stored(source)
    name = next(n for n in tensors if n.endswith("experts.gate_up_proj"))
    tensors[name] = torch.zeros(shape)
    with pytest.raises(BadInput) as found:
        grow.inspect(rewritten(source, tmp_path / "other", tensors))
    assert name in found.value.where
    assert f"has shape {shape}, wanted (4, 2·units, columns)" in found.value.what


def test_experts_that_are_stored_in_both_layouts_are_refused(tiny, laid, tmp_path):
    both = stored(tiny("qwen3_moe")) | stored(laid("qwen3_moe", "fused"))
    with pytest.raises(BadInput, match="as does"):
        grow.inspect(rewritten(tiny("qwen3_moe"), tmp_path / "both", both))


# A tied table under either name


def alone(variant: str, folder: Path, dropped: set[str]) -> Path:
    """The checkpoint without some of the names that its class ties."""
    model = models.make(variant)
    model.save_pretrained(folder / "plain")
    names = model.state_dict()
    assert dropped < names.keys()
    return rewritten(folder / "plain", folder / "alone", {k: v for k, v in names.items() if k not in dropped})


@pytest.mark.parametrize("variant", TIED)
def test_a_tied_checkpoint_may_have_the_heads_name_alone(variant, tmp_path):
    model = models.make(variant)
    table = next(n for n, p in model.named_parameters() if p is model.get_parameter(TIED[variant]))
    source = alone(variant, tmp_path, {table, *BIASES.get(variant, ())[1:]})
    assert models.difference(models.outputs(tmp_path / "plain"), models.outputs(source)) == 0
    ours, plain = (grow.plan(p, {"layers": 3}) for p in (source, tmp_path / "plain"))
    assert {(t.name, t.source, t.new_shape) for t in ours.tensors} == {
        (t.name, t.source, t.new_shape) for t in plain.tensors
    }
    growth = grow.widen(source, "2x", out=tmp_path / "grown", verify=False)
    found = grow.verify(source, growth.path, rungs=["certificate", "recover", "true_float64"])
    assert found.lossless, found.checks
    assert any("tied to it and not stored" in note for note in growth.notes)


@pytest.mark.parametrize("variant", ["llama-tied", "gpt2", "opt", "roberta-mlm", "bert-mlm", "distilbert-mlm"])
def test_what_save_model_writes_grows(variant, tmp_path):
    model = models.make(variant)
    model.save_pretrained(tmp_path / "source")
    save_model(model, str(tmp_path / "source" / "model.safetensors"))
    assert grow.widen(tmp_path / "source", WIDER, out=tmp_path / "grown").verified


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("variant", BIASES)
def test_a_tied_bias_may_have_either_name(variant, keep, tmp_path):
    source = alone(variant, tmp_path, {BIASES[variant][1 - keep]})
    assert models.difference(models.outputs(tmp_path / "plain"), models.outputs(source)) == 0
    growth = grow.widen(source, "2x", out=tmp_path / "grown", verify=False)
    assert grow.verify(source, growth.path, rungs=["certificate", "true_float64"]).lossless


@pytest.mark.parametrize("lost", [0, 1])
def test_half_of_an_untied_pair_is_refused_with_what_to_write(lost, tmp_path):
    model = models.make("llama")
    model.lm_head.weight = model.model.embed_tokens.weight  # what training code does; the config says untied
    model.save_pretrained(tmp_path / "plain")
    names = ("model.embed_tokens.weight", "lm_head.weight")
    tensors = {k: v for k, v in model.state_dict().items() if k != names[lost]}
    source = rewritten(tmp_path / "plain", tmp_path / "half", tensors)
    with pytest.raises(BadInput) as found:
        grow.plan(source, WIDER)
    assert found.value.where.endswith(names[lost])
    assert '"tie_word_embeddings": true' in found.value.fix
    fixed = rewritten(source, tmp_path / "fixed", tensors, tie_word_embeddings=True)
    assert grow.widen(fixed, WIDER, out=tmp_path / "grown").verified


def test_half_of_an_untied_bias_is_refused(tmp_path):
    """Stock loading would begin the one that counts with zeros."""
    model = models.make("bert-mlm-untied")
    model.save_pretrained(tmp_path / "plain")
    tensors = {k: v for k, v in model.state_dict().items() if k != "cls.predictions.decoder.bias"}
    with pytest.raises(BadInput) as found:
        grow.plan(rewritten(tmp_path / "plain", tmp_path / "half", tensors), WIDER)
    assert found.value.where.endswith("cls.predictions.decoder.bias")
    assert "tie_word_embeddings" not in found.value.fix
    assert "a second time" in found.value.fix


def test_equal_tables_under_an_untied_config_are_told(tiny, tmp_path):
    tensors = stored(tiny("llama"))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    notes = grow.inspect(rewritten(tiny("llama"), tmp_path / "equal", tensors)).notes
    assert any("does not tie them" in note and '"tie_word_embeddings": true' in note for note in notes)
    assert not any("tie them" in note for note in grow.inspect(tiny("llama")).notes)


def test_a_tied_table_that_is_stored_twice_and_differs_is_still_refused(tmp_path):
    model = models.make("llama-tied")
    model.save_pretrained(tmp_path / "plain")
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    tensors["lm_head.weight"][3, 2] += 1
    with pytest.raises(GrowError, match="differs from"):
        grow.plan(rewritten(tmp_path / "plain", tmp_path / "twice", tensors), WIDER)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm", "bert-sequence", "mixtral"])
def test_the_prefix_of_the_base_model_may_be_there_twice(variant, tiny, tmp_path):
    model = models.make(variant)
    lead = model.base_model_prefix + "."
    tensors = {lead + name: value for name, value in stored(tiny(variant)).items()}
    source = rewritten(tiny(variant), tmp_path / "source", tensors)
    assert models.difference(models.outputs(tiny(variant)), models.outputs(source)) == 0
    assert grow.widen(source, {"layers": 3}, out=tmp_path / "grown", verify=False).path
    assert grow.verify(source, tmp_path / "grown", rungs=["certificate", "true_float64"]).lossless
