"""Checkpoints that people have and pairs that are right: none is refused, none is called different, and what is said
of them is true."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tiny as files
import torch
import transformers
from safetensors.torch import load_file, save_file

import grow
from grow.errors import BadInput, GrowError
from grow.verification.verdict import Verification

WIDE = "hidden=36,heads=12,kv_heads=4"


def unrecorded(source: Path, to: str, **options: Any) -> Path:
    """A growth without its grow.json."""
    grown = grow.widen(source, to, out=source.parent / "grown", verify=False, **options).path
    assert grown is not None
    (grown / "grow.json").unlink()
    return grown


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: t.contiguous().clone() for k, t in change(tensors).items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def proved(source: Path, grown: Path, *rungs: str) -> Verification:
    found = grow.verify(source, grown, rungs=rungs or ("certificate", "true_float64"))
    assert (found.verdict, found.exit_code) == ("lossless", 0), (found.notes, [c for c in found.checks if c.reason])
    return found


BARE = '"time_step_limit": [0.0, Infinity], "deep": {"a": [NaN], "b": -Infinity}'


def test_numbers_that_json_does_not_have_come_along(tmp_path):
    source = models.save("llama", tmp_path / "source")
    text = (source / "config.json").read_text().rstrip()
    (source / "config.json").write_text(f"{text[:-1].rstrip()}, {BARE}\n}}")
    growth = grow.widen(source, WIDE, out=tmp_path / "grown")
    assert growth.status == "lossless"
    config = files.read_json(tmp_path / "grown/config.json")
    json.dumps(config, allow_nan=False)
    assert config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert config["deep"] == {"a": [{"__float__": "NaN"}], "b": {"__float__": "-Infinity"}}
    read = transformers.AutoConfig.from_pretrained(tmp_path / "grown")
    assert read.time_step_limit[1] == math.inf
    assert math.isnan(read.deep["a"][0])
    (tmp_path / "grown/grow.json").unlink()
    proved(source, tmp_path / "grown")
    (tmp_path / "grown/README.md").unlink()
    assert grow.widen(source, WIDE, out=tmp_path / "grown", overwrite=True, verify=False).path.is_dir()


@pytest.mark.parametrize(("value", "words"), [("NaN", "NaN (float)"), ("Infinity", "Infinity (float)")])
def test_a_field_that_is_read_must_be_a_number_all_the_same(value, words, tmp_path):
    source = files.checkpoint(tmp_path / "source")
    text = (source / "config.json").read_text()
    (source / "config.json").write_text(text.replace('"rms_norm_eps": 0.01', f'"rms_norm_eps": {value}'))
    with pytest.raises(BadInput) as caught:
        grow.plan(source, "2x")
    assert "rms_norm_eps" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"quantization_config": None},
        {"transformers_weights": None},
        {"tie_encoder_decoder": False},
        {"is_encoder_decoder": False, "tie_encoder_decoder": False, "languages": ["en"]},
        {"_attn_implementation_autoset": True},
    ],
)
def test_fields_that_say_nothing_block_nothing(fields, tmp_path):
    source = files.checkpoint(tmp_path / "source", **fields)
    assert grow.widen(source, "2x", out=tmp_path / "grown").status == "lossless"
    (tmp_path / "grown/grow.json").unlink()
    proved(source, tmp_path / "grown")


def test_a_misspelt_field_is_still_told(tmp_path):
    source = files.checkpoint(tmp_path / "source", atention_bias=True)
    with pytest.raises(GrowError, match="did you mean 'attention_bias'"):
        grow.plan(source, "2x")


@pytest.mark.parametrize("named", [None, "missing"])
def test_a_config_that_names_no_class_is_the_same_as_one_that_does(named, tmp_path):
    source = models.save("qwen3", tmp_path / "source")
    files.edit_json(
        source / "config.json",
        lambda c: c.pop("architectures") if named else c.update(architectures=None),
    )
    proved(source, unrecorded(source, WIDE))


def test_another_class_is_no_equal_class(tmp_path):
    """The base model of one and the head of the other: what is not compared is not called the same."""
    source = models.save("llama-tied", tmp_path / "source")
    other = shutil.copytree(source, tmp_path / "other")
    files.edit_json(other / "config.json", lambda c: c.update(architectures=["LlamaModel"]))
    assert not grow.verify(source, other, rungs=["true_float64"]).lossless


@pytest.mark.parametrize("variant", ["bert-base", "llama-base", "roberta-base"])
def test_outputs_of_a_base_model_are_read_by_a_head_that_is_yet_to_come(variant, tmp_path):
    source = models.save(variant, tmp_path / "source")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    check = grow.verify(source, grown, rungs=["trainability"]).check("trainability")
    assert (check.status, check.measured["twins"], check.measured["dead"]) == ("pass", 0, 0), check.reason


def test_locked_units_of_a_base_model_are_still_found(tmp_path):
    source = models.save("llama-base", tmp_path / "source")
    grown = grow.widen(
        source, "ffn=56", out=tmp_path / "grown", verify=False, split="even", operators={"ffn": "copies"}
    )
    check = grow.verify(source, grown.path, rungs=["trainability"]).check("trainability")
    assert check.status == "fail"
    assert check.measured["twins"] >= 28


@pytest.mark.parametrize("variant", ["bert-sequence", "llama-sequence"])
def test_a_single_logit_trains(variant, tmp_path):
    """A reward model: cross-entropy over one class has no gradient."""
    source = tmp_path / "source"
    models.make(variant, num_labels=1, id2label={0: "x"}, label2id={"x": 0}).save_pretrained(source)
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    check = grow.verify(source, grown, rungs=["trainability"]).check("trainability")
    assert (check.status, check.measured["share"]) == ("pass", 1.0), check.reason


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        *(("multi_label_classification", n) for n in (1, 4)),
        *(("regression", n) for n in (1, 4)),
        ("single_label_classification", 4),
    ],
)
def test_labels_are_those_of_the_problem(problem, labels, tmp_path):
    names = {i: str(i) for i in range(labels)}
    model = models.make(
        "bert-sequence", id2label=names, label2id={v: k for k, v in names.items()}, problem_type=problem
    )
    model.save_pretrained(tmp_path / "source")
    growth = grow.widen(tmp_path / "source", "2x", out=tmp_path / "grown", verify=False)
    check = grow.verify(tmp_path / "source", growth.path, rungs=["loss"]).check("loss")
    assert check.status == "pass", check.reason


@pytest.mark.parametrize(("variant", "to"), [("granitemoe", "hidden=36,layers=3"), ("mixtral", "layers=3")])
def test_an_inserted_layer_of_experts_is_no_other_router(variant, to, tmp_path):
    source = models.save(variant, tmp_path / "source")
    found = grow.verify(source, unrecorded(source, to), rungs=["true_float64"])
    assert found.verdict in ("lossless", "unproved"), found.checks
    assert not any("logits of expert" in c.reason for c in found.checks)
    if found.verdict == "unproved":
        assert any("which layers stand for which" in note for note in found.notes)


@pytest.mark.parametrize(("variant", "to"), [("mixtral", "experts=8"), ("qwen2_moe", "experts=8")])
def test_more_experts_and_more_of_them_chosen(variant, to, tmp_path):
    source = models.save(variant, tmp_path / "source")
    proved(source, unrecorded(source, to))


def test_experts_in_another_order_are_the_same_model(tmp_path):
    source = models.save("qwen3_moe", tmp_path / "source")
    grown = shutil.copytree(source, tmp_path / "grown")
    order = [2, 0, 3, 1]

    def shuffled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        new = dict(tensors)
        for name, tensor in tensors.items():
            if name.endswith("mlp.gate.weight"):
                new[name] = tensor[order]
            elif ".experts." in name:
                lead, _, rest = name.partition(".experts.")
                expert, _, rest = rest.partition(".")
                new[f"{lead}.experts.{order.index(int(expert))}.{rest}"] = tensor
        return new

    proved(source, rewritten(grown, shuffled))


def test_one_expert_that_differs_is_found_among_the_others(tmp_path):
    """Stored numbers of a single expert are looked for within the stack that stock code makes of them."""
    source = models.save("qwen3_moe", tmp_path / "source")
    grown = shutil.copytree(source, tmp_path / "grown")
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    rewritten(grown, lambda tensors: {**tensors, name: tensors[name] * 1.5})
    found = grow.verify(source, grown, rungs=["certificate", "true_float64"])
    assert found.verdict == "different"
    assert name in found.first["text"]


@pytest.mark.parametrize(
    ("variant", "table", "head"),
    [
        ("llama-tied", "model.embed_tokens.weight", "lm_head.weight"),
        ("gpt2", "transformer.wte.weight", "lm_head.weight"),
    ],
)
def test_an_untied_head_with_the_tables_numbers_is_the_same_model(variant, table, head, tmp_path):
    source = models.save(variant, tmp_path / "source")
    grown = rewritten(unrecorded(source, "2x"), lambda tensors: {**tensors, head: tensors[table]})
    files.edit_json(grown / "config.json", lambda c: c.update(tie_word_embeddings=False))
    proved(source, grown)
    rewritten(
        grown, lambda tensors: {**tensors, head: tensors[head] * torch.linspace(1, 1.5, len(tensors[head]))[:, None]}
    )
    assert grow.verify(source, grown, rungs=["true_float64"]).verdict == "different"


@pytest.mark.parametrize("variant", ["gpt2", "opt"])
def test_roundings_that_layers_amplify_are_drawn_again(variant, tmp_path):
    model = models.make(variant)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(10.0)
    model.save_pretrained(tmp_path / "source")
    growth = grow.widen(tmp_path / "source", "2x", out=tmp_path / "grown", verify=False)
    found = proved(tmp_path / "source", growth.path, "certificate", "true_float64", "runtime_dtype")
    floor = found.check("runtime_dtype").measured["floor"]
    assert floor["redrawn"] > floor["true_float64"]
    name = {"gpt2": "transformer.h.0.mlp.c_fc.weight", "opt": "model.decoder.layers.0.fc1.weight"}[variant]
    files.edit_tensor(growth.path, name, lambda raw: np.multiply(raw, 1.01, out=raw))
    assert (
        grow.verify(tmp_path / "source", growth.path, rungs=["runtime_dtype"]).check("runtime_dtype").status == "fail"
    )


@pytest.mark.parametrize(
    "parameters", [{}, {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.25, "factor": 2.0}]
)
def test_a_head_whose_last_pairs_stand_still_grows_in_width(parameters, tmp_path):
    rope = {"rope_type": "proportional", "rope_theta": 500.0, **parameters}
    source = models.save("llama", tmp_path / "source", rope_parameters=rope)
    growth = grow.widen(source, f"{WIDE},layers=3,max_position_embeddings=90", out=tmp_path / "grown")
    assert growth.status == "lossless"
    assert files.read_json(growth.path / "config.json")["rope_parameters"] == rope
    assert models.difference(models.outputs(source), models.outputs(growth.path)) < 1e-12
    with pytest.raises(GrowError, match="keep head_dim"):
        grow.plan(source, "head_dim=16")


def test_a_factor_of_null_is_refused_where_stock_code_divides_by_it(tmp_path):
    rope = {"rope_type": "proportional", "rope_theta": 500.0, "factor": None}
    with pytest.raises(GrowError, match="factor"):
        grow.plan(files.checkpoint(tmp_path / "source", rope_parameters=rope), "2x")


@pytest.mark.parametrize(("first", "place"), [(2, "spread"), (4, "top"), (1, "after:0")])
def test_where_kinds_take_turns_the_older_number_stays_between_its_layers(first, place, tmp_path):
    kinds = ["full_attention", "sliding_attention"] * 2
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": first, "num_hidden_layers": 4}
    source = files.checkpoint(tmp_path / "source", "qwen3", layer_types=kinds, **window)
    plan = grow.plan(source, "layers=8", place=place)
    number, origin = plan.new_config["max_window_layers"], [int(i) for i in plan.change.depth.source]
    assert len(plan.new_config["layer_types"]) == len(origin) == 8
    assert number != first or place == "top" or origin[:first] == list(range(first))
    assert all(i < first for i in origin[:number])
    assert all(i >= first for i in origin[number:])


@pytest.mark.parametrize("variant", ["llama", "qwen3_moe"])
def test_a_model_in_memory_tells_of_fields_that_nobody_reads(variant):
    model = models.make(variant)
    model.config.unsloth_fixed = True
    to = {"hidden": 36, "heads": 12, "kv_heads": 4}
    for notes in (grow.plan(model, to).notes, grow.widen(model, to, verify=False).notes):
        assert sum("no stock code reads unsloth_fixed" in note for note in notes) == 1, notes
