"""Experts: a dense model becomes one with experts, experts become more, and every output stays.

Measured as in `test_lossless`: stock checkpoints with random parameters, in their own dtype, through files, in true
float64 by a mode that shares no code with `grow.verify`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from models import LLAMA, VARIANTS, difference, make, outputs, save
from safetensors.torch import load_file, save_file
from tiny import command, edit_json

import grow
from grow.families import FAMILIES
from grow.families.upcycling import PAIRS
from grow.growth.opened import opened
from grow.notation.numbers import Noise, mean_share
from grow.planning.expert_slices import uncovered
from grow.planning.options import GrowthOptions, UpcyclingOptions
from grow.planning.plan import plan_for
from grow.planning.record import read_record

EXACT = 1e-12  # as in test_lossless: some roundings of 2^-53 in a row
DENSE = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "granite")
CLASSES = dict(zip(DENSE, ("Mixtral", "Mixtral", "Qwen2Moe", "Qwen3Moe", "FlexOlmo", "GraniteMoe")))


def old_vocabulary(found: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
    return {name: value[..., :size] for name, value in found.items()}


def apart(source, folder) -> float:
    """How far the outputs are apart on the source's tokens, on ids and logits that both have."""
    size = json.loads((source / "config.json").read_text())["vocab_size"]
    grown = json.loads((folder / "config.json").read_text())
    before = outputs(source)
    if grown["vocab_size"] == size:
        return difference(before, outputs(folder))
    from models import Float64, inputs, load

    with Float64(), torch.no_grad():
        given = inputs(transformers.AutoConfig.from_pretrained(source), 17)
        after = {"logits of 17": load(folder)(**given).logits}
    return difference(before, old_vocabulary(after, size))


# Dense -> experts

UPCYCLED = {
    "copies": (4, {}),
    "all-chosen": (3, dict(top_k=3)),
    "halves": (8, dict(granularity=2, top_k=4)),
    "quarters-one-group": (8, dict(granularity=4, top_k=4)),
    "slices-only": (2, dict(granularity=2)),
    "together": (6, dict(top_k=3, to=dict(hidden=72, ffn=37, layers=4, vocab=47))),
    "halves-together": (4, dict(granularity=2, to="heads=12,kv_heads=4,hidden=72,layers=3")),
}


@pytest.mark.parametrize("case", UPCYCLED)
@pytest.mark.parametrize("variant", DENSE)
def test_a_dense_model_becomes_experts_in_its_own_dtype(variant, case, tiny, tmp_path):
    experts, how = UPCYCLED[case]
    source = tiny(variant, "bfloat16")
    plan = grow.upcycle(source, experts, out=tmp_path / "grown", verify=False, seed=3, **how).plan
    assert plan.storage == "bit-exact" or (variant == "qwen2" and "together" in case)
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert config["architectures"] == [CLASSES[variant] + "ForCausalLM"]
    assert config["num_experts_per_tok"] == how.get("top_k", min(experts, 2 * how.get("granularity", 1)))
    stored = {t.dtype for t in load_file(tmp_path / "grown" / "model.safetensors").values()}
    assert stored == {torch.bfloat16 if plan.storage == "bit-exact" else torch.float32}
    limit = EXACT if plan.storage == "bit-exact" else 1e-5  # one rounding to float32 per weight
    assert apart(source, tmp_path / "grown") <= limit


@pytest.mark.parametrize(
    "variant", ["qwen2", "qwen2-window", "qwen2-tied", "llama-tied", "mistral-tied", "qwen3-biases"]
)
def test_windows_ties_and_biases_come_along(variant, tiny, tmp_path):
    grown = grow.upcycle(tiny(variant), 4, out=tmp_path / "grown", to={"layers": 4}, verify=False)
    assert apart(tiny(variant), tmp_path / "grown") <= EXACT
    assert grown.plan.new_config["tie_word_embeddings"] == ("tied" in variant or variant == "qwen3-biases")


@pytest.mark.parametrize("variant", ["llama-base", "llama-sequence", "llama-token", "llama-qa", "olmo2-base"])
def test_other_heads_become_the_targets(variant, tiny, tmp_path):
    grow.upcycle(tiny(variant), 4, out=tmp_path / "grown", verify=False)
    assert apart(tiny(variant), tmp_path / "grown") <= EXACT


@pytest.mark.parametrize("variant", ["qwen2", "llama", "granite"])
def test_three_slices_are_exact_and_rounded_where_they_are_stored(variant, tmp_path):
    fields = VARIANTS[variant].fields | {"intermediate_size": 30}
    config = transformers.AutoConfig.for_model(variant, **fields)
    source = tmp_path / "source"
    model = transformers.AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * (1 if p.ndim == 1 else (2 / min(p.shape)) ** 0.5))
    model.save_pretrained(source)
    for dtype, limit in (("float64", EXACT), ("float32", 1e-5)):
        grown = grow.upcycle(source, 6, granularity=3, top_k=3, dtype=dtype, out=tmp_path / dtype, verify=False)
        assert grown.plan.storage == "rounded"
        assert grown.plan.rounded[0] == "weights × 3"
        assert apart(source, tmp_path / dtype) <= limit


@pytest.mark.parametrize("how", [{}, {"granularity": 2}, {"top_k": 1}, {"to": {"shared_ffn": 40, "expert_ffn": 31}}])
def test_the_shared_expert_can_carry_the_ffn(how, tiny, tmp_path):
    grow.upcycle(tiny("qwen2", "bfloat16"), 5 if not how else 6, out=tmp_path / "grown", route="shared", **how)
    stored = load_file(tmp_path / "grown" / "model.safetensors")
    layer = "model.layers.0.mlp."
    assert not stored[layer + "experts.0.down_proj.weight"].any()
    assert stored[layer + "experts.0.up_proj.weight"].any()
    assert not stored[layer + "shared_expert_gate.weight"].any()
    assert apart(tiny("qwen2", "bfloat16"), tmp_path / "grown") <= EXACT


@pytest.mark.parametrize("variant", ["qwen2", "qwen3"])
def test_every_second_layer_stays_dense_wherever_layers_are_inserted(variant, tmp_path):
    model = make(variant)
    config = type(model.config).from_dict(model.config.to_dict() | {"num_hidden_layers": 4, "layer_types": None})
    deep = transformers.AutoModelForCausalLM.from_config(config)
    for p in deep.parameters():
        torch.nn.init.normal_(p, std=0.3)
    deep.save_pretrained(tmp_path / "source")
    plan = grow.upcycle(tmp_path / "source", 4, every=2, out=tmp_path / "grown", to={"layers": 6}, verify=False).plan
    dense = [j for j, i in enumerate(plan.change.depth.source) if i % 2 == 0]
    assert plan.new_config["mlp_only_layers"] == dense
    assert plan.new_config["decoder_sparse_step"] == 1
    assert plan.new_sizes["ffn"] == plan.sizes["ffn"]
    assert apart(tmp_path / "source", tmp_path / "grown") <= EXACT


def test_the_router_has_one_row_per_group_and_groups_differ(tiny, tmp_path):
    grow.upcycle(tiny("llama"), 8, granularity=2, out=tmp_path / "grown", verify=False)
    stored = load_file(tmp_path / "grown" / "model.safetensors")
    rows = stored["model.layers.0.block_sparse_moe.gate.weight"]
    assert torch.equal(rows[0::2], rows[1::2])
    assert len(torch.unique(rows, dim=0)) == 4
    down = stored["model.layers.0.block_sparse_moe.experts.3.w2.weight"]
    old = load_file(tiny("llama") / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(down, 2 * old[:, 14:])


def test_what_a_config_leaves_out_has_the_sources_defaults(tiny, tmp_path):
    """Mixtral's stock θ, eps and window are not Llama's."""
    source = tmp_path / "source"
    make_sparse_config = {"rope_parameters", "rms_norm_eps", "bos_token_id", "eos_token_id", "hidden_act"}
    model = make("llama")
    model.config.rms_norm_eps = 1e-6
    fields = {k: v for k, v in model.config.to_dict().items() if k not in make_sparse_config}
    model.save_pretrained(source)
    (source / "config.json").write_text(json.dumps(fields | {"architectures": ["LlamaForCausalLM"]}))
    grow.upcycle(source, 4, out=tmp_path / "grown", verify=False)
    assert apart(source, tmp_path / "grown") <= EXACT


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.source}-{pair.target}")
def test_what_is_carried_is_the_stock_default_of_the_source(pair):
    source = transformers.AutoConfig.for_model(pair.source)
    target = transformers.AutoConfig.for_model(pair.target)
    assert source.default_theta == pair.carried["rope_theta"]
    for name, value in pair.carried.items():
        if name not in ("rope_theta", "sliding_window", "max_window_layers"):
            assert getattr(source, name) == value, name
    plain = {**source.to_dict(), "rope_theta": None}
    decided = {*pair.carried, *pair.sets, *pair.dropped, *FAMILIES[pair.target].axes.values()}
    differ = {k for k in plain if hasattr(target, k) and getattr(target, k) != plain[k]}
    bookkeeping = {"model_type", "transformers_version", "rope_parameters", "layer_types", "architectures"}
    assert differ - decided <= bookkeeping
    for name, value in pair.sets.items():
        if name not in ("norm_topk_prob", "sliding_window"):
            assert getattr(target, name) == value, name
    for head in pair.heads:
        assert hasattr(transformers, pair.classes[0] + head) == hasattr(transformers, pair.classes[1] + head), head


# Experts -> more experts

SPARSE = ("mixtral", "mixtral-tied", "qwen2_moe", "qwen2_moe-plain", "qwen3_moe", "qwen3_moe-plain")
SPARSE += ("flex_olmo", "flex_olmo-plain", "granitemoe", "granitemoe-tied")


@pytest.mark.parametrize("copies", [2, 3, 5])
@pytest.mark.parametrize("variant", SPARSE)
def test_experts_are_multiplied_in_their_own_dtype(variant, copies, tiny, tmp_path):
    source = tiny(variant, "bfloat16")
    more = {"layers": 5, "vocab": 43} if copies == 3 else {}
    field = "num_local_experts" if "mix" in variant or "granite" in variant else "num_experts"
    plan = grow.widen(source, {field: 4 * copies, **more}, out=tmp_path / "grown", verify=False, seed=7).plan
    assert plan.storage == "bit-exact"
    assert plan.new_config["num_experts_per_tok"] == copies * plan.config["num_experts_per_tok"]
    assert apart(source, tmp_path / "grown") <= EXACT


def test_copies_of_an_expert_differ_and_have_it_as_their_mean(tiny, tmp_path):
    grow.widen(tiny("mixtral", "bfloat16"), {"experts": 12}, out=tmp_path / "grown", verify=False)
    old = load_file(tiny("mixtral", "bfloat16") / "model.safetensors")
    new = load_file(tmp_path / "grown" / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.{}.w2.weight"
    copies = [new[name.format(e)].double() for e in (1, 5, 9)]
    assert torch.equal(sum(copies), 3 * old[name.format(1)].double())
    assert all((a != b).double().mean() > 0.9 for a, b in zip(copies, (*copies[1:], copies[0])))
    gate = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
    assert torch.equal(new[gate.format(1)], new[gate.format(9)])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_shares_have_the_value_as_their_mean_bit_for_bit(count, dtype):
    from grow.notation.numbers import representable

    values = representable(np.random.default_rng(0).standard_normal((31, 17)).astype(np.float32), dtype)
    parts = [mean_share(values, k, count, dtype, Noise(0, f"pair {k // 2}", 0)) for k in range(count)]
    assert all((representable(part, dtype) == part).all() for part in parts)
    assert (sum(part.astype(np.float64) for part in parts) == count * values.astype(np.float64)).all()
    assert all((a != b).mean() > 0.9 for i, a in enumerate(parts) for b in parts[:i])


# Verification


def damaged(folder, name: str, at: tuple[int, ...]) -> None:
    file = folder / "model.safetensors"
    stored = load_file(file)
    stored[name][at] += 1
    save_file(stored, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("variant", "how", "name", "at"),
    [
        ("llama", {}, "model.layers.1.block_sparse_moe.experts.2.w2.weight", (3, 5)),
        ("llama", {"granularity": 2}, "model.layers.0.block_sparse_moe.experts.1.w3.weight", (13, 0)),
        ("qwen2", {"route": "shared"}, "model.layers.1.mlp.shared_expert.down_proj.weight", (0, 27)),
        ("qwen2", {}, "model.layers.1.mlp.shared_expert.down_proj.weight", (0, 27)),
        ("granite", {"granularity": 2}, "model.layers.1.block_sparse_moe.input_linear.weight", (3, 20, 1)),
        ("mixtral", None, "model.layers.1.block_sparse_moe.experts.6.w2.weight", (3, 5)),
        ("mixtral", None, "model.layers.0.block_sparse_moe.gate.weight", (5, 2)),
        ("granitemoe", None, "model.layers.0.block_sparse_moe.output_linear.weight", (7, 2, 3)),
    ],
)
def test_a_damaged_expert_is_found_and_named(variant, how, name, at, tiny, tmp_path):
    out = tmp_path / "grown"
    if how is None:
        grow.widen(tiny(variant), {"experts": 8}, out=out, verify=False)
    else:
        grow.upcycle(tiny(variant), 4, out=out, verify=False, **how)
    assert grow.verify(tiny(variant), out, rungs=["certificate"]).verdict == "certified"
    damaged(out, name, at)
    certificate = grow.verify(tiny(variant), out, rungs=["certificate"])
    assert certificate.verdict == "different"
    assert certificate.first["tensor"] == name
    if "granite" not in variant:
        assert tuple(certificate.first["index"]) == at
    running = grow.verify(tiny(variant), out, rungs=["true_float64"])
    assert running.verdict == "different"
    assert running.first["tensor"] == name


def test_router_rows_of_one_group_that_differ_are_a_fault(tiny, tmp_path):
    grow.upcycle(tiny("llama"), 4, granularity=2, out=tmp_path / "grown", verify=False)
    damaged(tmp_path / "grown", "model.layers.0.block_sparse_moe.gate.weight", (1, 2))
    found = grow.verify(tiny("llama"), tmp_path / "grown", rungs=["certificate"])
    assert found.verdict == "different"
    assert "one row in the router" in found.checks[0].reason


def test_slices_that_leave_units_out_or_take_them_twice_are_a_fault(tiny):
    with opened(tiny("llama")) as (checkpoint, family, matched):
        plan = plan_for(family, matched, None, GrowthOptions(upcycling=UpcyclingOptions(4, granularity=2)))
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    assert not list(uncovered(plan.tensors, shapes))
    name = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    shifted = [dataclasses.replace(t, corner=(0, 0)) if t.name == name else t for t in plan.tensors]
    assert len(list(uncovered(shifted, shapes))) == 1
    assert len(list(uncovered([t for t in plan.tensors if t.name != name], shapes))) == 1


@pytest.mark.parametrize("how", [{}, {"granularity": 2, "to": "layers=3"}, {"to": "hidden=36"}])
@pytest.mark.parametrize("variant", ["llama", "granite", "qwen3"])
def test_every_new_expert_learns_and_every_rung_passes(variant, how, tiny, tmp_path):
    grown = grow.upcycle(tiny(variant), 4, out=tmp_path / "grown", **how)
    assert grown.verification.verdict == "lossless"
    found = grow.verify(tiny(variant), tmp_path / "grown", rungs=["trainability"]).checks[0]
    assert found.status == "pass", found.reason
    assert found.measured["new"] > 0


@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe-plain", "granitemoe"])
def test_more_experts_learn_and_every_rung_passes(variant, tiny, tmp_path):
    grown = grow.widen(tiny(variant), {"experts": 8, "layers": 4, "ffn": 33}, out=tmp_path / "grown")
    assert grown.verification.verdict == "lossless"
    found = grow.verify(tiny(variant), tmp_path / "grown", rungs=["trainability", "recover"])
    assert [c.status for c in found.checks] == ["pass", "pass"], [c.reason for c in found.checks]


def test_twins_among_experts_are_seen(tiny, tmp_path):
    """Copies that are equal down to the last bit compute the same, always are chosen together and never part."""
    for variant, stacked in (("mixtral", False), ("granitemoe", True)):
        out = tmp_path / variant
        grow.widen(tiny(variant), {"experts": 8}, out=out, verify=False)
        old, new = (load_file(folder / "model.safetensors") for folder in (tiny(variant), out))
        down = [name for name in new if "w2" in name or "output_linear" in name]
        for name in down:
            if stacked:
                new[name] = old[name].repeat(2, 1, 1)
            else:
                e = int(name.split(".")[5])
                new[name] = old[name.replace(f"experts.{e}.", f"experts.{e % 4}.")].clone()
        save_file(new, out / "model.safetensors", metadata={"format": "pt"})
        assert apart(tiny(variant), out) <= EXACT
        found = grow.verify(tiny(variant), out, rungs=["trainability"]).checks[0]
        assert found.status == "fail"
        assert found.measured["twins"] > 0
        assert found.measured["dead"] == 0


def test_a_dead_expert_is_seen(tiny, tmp_path):
    """Two zero factors in a fresh unit of an expert: it never learns."""
    grow.upcycle(tiny("llama"), 3, top_k=3, out=tmp_path / "grown", to={"ffn": 32}, verify=False)
    new = load_file(tmp_path / "grown" / "model.safetensors")
    for part in ("w1", "w3"):
        new[f"model.layers.0.block_sparse_moe.experts.1.{part}.weight"][28:] = 0
    save_file(new, tmp_path / "grown" / "model.safetensors", metadata={"format": "pt"})
    found = grow.verify(tiny("llama"), tmp_path / "grown", rungs=["trainability"]).checks[0]
    assert found.status == "fail"
    assert "experts.1.w" in found.reason


def test_a_record_that_says_something_else_is_no_record(tiny, tmp_path):
    grow.upcycle(tiny("llama"), 4, out=tmp_path / "grown", verify=False)
    assert read_record(tmp_path / "grown").change.upcycling.target == "mixtral"
    path = tmp_path / "grown" / "grow.json"
    edit_json(path, lambda d: d["plan"]["upcycling"].update(granularity=0))
    with pytest.raises(grow.BadInput, match="upcycling"):
        read_record(tmp_path / "grown")
    edit_json(path, lambda d: d["plan"]["upcycling"].update(granularity=1, target="qwen2_moe"))
    with pytest.raises(grow.BadInput, match="no known pair"):
        grow.verify(tiny("llama"), tmp_path / "grown", rungs=["certificate"])


# In memory


@pytest.mark.parametrize("variant", ["llama", "mixtral", "granitemoe"])
def test_a_model_in_memory(variant, tmp_path):
    model = make(variant).double()
    if variant == "llama":
        grown = grow.upcycle(model, 4, verify=False).model
        assert type(grown).__name__ == "MixtralForCausalLM"
    else:
        assert grow.plan(model, {"experts": 8}).new_sizes["experts"] == 8
        grown = grow.widen(model, {"experts": 8}, verify=False).model
        assert type(grown) is type(model)
    assert grown.dtype == torch.float64
    model.save_pretrained(tmp_path / "source")
    grown.save_pretrained(tmp_path / "grown")
    assert apart(tmp_path / "source", tmp_path / "grown") <= EXACT


# What is refused

REFUSED = {
    "experts-already": (
        "mixtral",
        dict(experts=4),
        "has experts already",
        'grow.widen(…, to={"num_local_experts": 8})',
    ),
    "no-pair": ("gpt2", dict(experts=4), "no family with experts", "a source of llama"),
    "biases": ("llama-biases", dict(experts=4), "attention_bias", "a source without it"),
    "granite-biases": ("granite-biases", dict(experts=4), "mlp_bias", "a source without it"),
    "slices": (
        "llama",
        dict(experts=6, granularity=3),
        "28 units are no 3 slices",
        "granularity=2 or granularity=4",
    ),
    "groups": ("llama", dict(experts=5, granularity=2), "5 experts", "experts=4 or experts=6"),
    "one": ("llama", dict(experts=1), "one expert", "experts=2"),
    "half-a-group": ("llama", dict(experts=8, granularity=2, top_k=3), "top_k=3", "top_k=2 or top_k=4"),
    "too-many": ("llama", dict(experts=4, top_k=5), "top_k=5", "top_k=4"),
    "idle-router": ("llama", dict(experts=4, top_k=1), "never learns", "top_k=2"),
    "shared": ("llama", dict(experts=4, route="shared"), "no shared expert", 'route="routed"'),
    "route": ("llama", dict(experts=4, route="middle"), "no such route", 'route="routed"'),
    "every": ("llama", dict(experts=4, every=2), "experts in every layer", "every=1"),
    "never": ("qwen2", dict(experts=4, every=3), "no layer of 2", "every=2"),
    "number": ("llama", dict(experts=4, granularity=-1), "out of range", "granularity=2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_or_would_not_train_is_refused(case, tiny, tmp_path):
    variant, how, what, fix = REFUSED[case]
    with pytest.raises(grow.GrowError) as caught:
        grow.upcycle(tiny(variant), out=tmp_path / "grown", **how)
    assert what in str(caught.value)
    assert fix in str(caught.value)
    assert not (tmp_path / "grown").exists()


def test_a_head_that_the_target_lacks_is_refused(tmp_path):
    config = transformers.Olmo2Config(**LLAMA, pad_token_id=0)
    transformers.Olmo2ForSequenceClassification(config).save_pretrained(tmp_path / "source")
    with pytest.raises(grow.Refused, match="there is no FlexOlmoForSequenceClassification"):
        grow.upcycle(tmp_path / "source", 4)


def test_a_number_of_experts_that_is_no_multiple_is_refused_with_the_nearest(tiny):
    with pytest.raises(grow.Refused) as caught:
        grow.plan(tiny("mixtral"), {"num_local_experts": 6})
    assert "num_local_experts=4 or 8" in str(caught.value)
    assert "Σ p/c" in str(caught.value)


@pytest.mark.parametrize("variant", ["olmo2", "flex_olmo"])
def test_a_norm_over_all_heads_wants_whole_copies(variant, tiny):
    for to in ({"heads": 8}, {"heads": 8, "kv_heads": 4}):
        with pytest.raises(grow.Refused) as caught:
            grow.plan(tiny(variant), to)
        assert "nearest exact targets: num_" in str(caught.value)
    with pytest.raises(grow.Refused, match="heads grow by copies"):
        grow.plan(tiny(variant), {"heads": 12}, operators={"heads": "unread"})
    with pytest.raises(grow.Refused, match="not a whole multiple"):
        grow.plan(tiny(variant), {"hidden": 20})


def test_widen_to_a_folder_with_experts_names_upcycle(tiny):
    with pytest.raises(grow.Refused) as caught:
        grow.plan(tiny("llama"), str(tiny("mixtral")))
    assert 'grow.upcycle(…, experts=4, to="' in str(caught.value)
    plan = grow.plan(tiny("mixtral"), str(tiny("mixtral") / "config.json"))
    assert plan.new_sizes == plan.sizes


# The command line


def test_the_command_upcycles_and_verifies(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "grown"
    arguments = ["upcycle", "--from", tiny("qwen2"), "--experts", 4, "--every", 2, "--to", "layers=3", "--out", out]
    code, _, err = command(monkeypatch, capsys, *arguments, "--dry-run")
    assert code == 0, err
    assert not out.exists()
    code, text, err = command(monkeypatch, capsys, *arguments, "--json")
    assert code == 0, err
    document = json.loads(text)
    assert document["plan"]["axes"]["experts"] == {"old": 1, "new": 4, "how": "copies × 4"}
    assert document["verification"]["verdict"] == "lossless"
    code, _, _ = command(monkeypatch, capsys, "verify", tiny("qwen2"), out, "--rung", "certificate")
    assert code == 0
    code, _, err = command(monkeypatch, capsys, "upcycle", "--from", tiny("gpt2"), "--experts", 4, "--out", out)
    assert code == 2
    assert "a source of llama" in err


def test_the_cost_counts_the_experts_that_a_token_uses(tiny):
    from grow.costs.of_a_model import cost_of

    with opened(tiny("llama")) as (_, family, matched):
        plan = plan_for(family, matched, None, GrowthOptions(upcycling=UpcyclingOptions(8, top_k=2)))
    old, new = cost_of(plan)
    assert old.parameters == sum(t.numel() for t in load_file(tiny("llama") / "model.safetensors").values())
    router = 2 * 2.0 * 8 * LLAMA["hidden_size"]
    assert new.flops["ffn"] == 2 * old.flops["ffn"] + router


def test_the_families_with_experts_name_their_rows():
    for family in FAMILIES.values():
        if (facts := family.experts) is not None:
            rows = {row.name for row in family.rows}
            assert {facts.router, *facts.parts, *facts.shared} <= rows
            assert facts.width in family.axes


# Methods of the literature that make experts


def redrawn_units(source: Path, grown: Path, expert: int, slices: int) -> dict[str, np.ndarray]:
    """Per matrix of one expert of layer 1: which of its units are not those of its slice of the old FFN."""
    old, new = tiny.read_tensors(source), tiny.read_tensors(grown)
    dense, moe = "model.layers.1.mlp.{}_proj.weight", "model.layers.1.block_sparse_moe.experts.{}.{}.weight"
    found = {}
    for name, stored in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        mine, w = new[moe.format(expert, stored)].raw, old[dense.format(name)].raw
        mine, w = (mine.T, w.T * slices) if name == "down" else (mine, w)
        part = w[expert % slices * len(mine) :][: len(mine)]
        assert part.std() / 1.3 < mine.std() < part.std() * 1.3
        changed = mine != part
        assert np.array_equal(changed.any(1), changed.all(1))
        found[name] = changed.any(1)
    return found


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("method", ["drop-upcycling", "random-expert"])
def test_lossy_methods_draw_what_their_papers_draw(tmp_path, method, slices):
    source = save("llama-mha", tmp_path / "source")
    with pytest.raises(grow.Refused, match="allow_lossy=True"):
        grow.upcycle(source, 4, granularity=slices, method=method, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    grown = grow.upcycle(source, 4, granularity=slices, method=method, allow_lossy=True, out=tmp_path / "grown")
    assert grown.status == "lossy"
    assert grown.damage["max_abs_std"] > 0.1
    masks = [redrawn_units(source, grown.path, e, slices) for e in range(4)]
    for mask in masks:  # gate, up and down lose the same units
        assert np.array_equal(mask["gate"], mask["up"])
        assert np.array_equal(mask["gate"], mask["down"])
    shares = [float(mask["gate"].mean()) for mask in masks]
    if method == "drop-upcycling":
        assert shares == [0.5] * 4
        assert len({mask["gate"].tobytes() for mask in masks}) == 4
    else:
        assert shares == [0.0] * slices + [1.0] * (4 - slices)
    found = grow.verify(source, grown.path)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert any(method in note for note in found.notes)


def test_granite_experts_are_redrawn_in_their_stacks(tmp_path):
    source = save("granite", tmp_path / "source")
    grown = grow.upcycle(source, 4, method="drop-upcycling", allow_lossy=True, out=tmp_path / "grown")
    old, new = tiny.read_tensors(source), tiny.read_tensors(grown.path)
    stack = new["model.layers.0.block_sparse_moe.input_linear.weight"].raw
    down = new["model.layers.0.block_sparse_moe.output_linear.weight"].raw
    units = stack.shape[1] // 2
    gate, up, out = (old[f"model.layers.0.mlp.{n}_proj.weight"].raw for n in ("gate", "up", "down"))
    for e in range(4):
        changed = (stack[e, :units] != gate).any(1)
        assert changed.sum() == units // 2
        assert np.array_equal(changed, (stack[e, units:] != up).any(1))
        assert np.array_equal(changed, (down[e] != out).any(0))


def test_upcycle_by_name_is_ours_and_wants_a_dense_source(tmp_path):
    source = save("llama-mha", tmp_path / "source")
    named, ours = (
        grow.upcycle(source, 4, method=method, out=tmp_path / method, verify=False).path
        for method in ("upcycle", "default")
    )
    assert (named / tiny.WEIGHTS).read_bytes() == (ours / tiny.WEIGHTS).read_bytes()
    for method in ("upcycle", "drop-upcycling"):
        with pytest.raises(grow.Refused, match="makes experts of a dense model"):
            grow.widen(source, "2x", method=method, allow_lossy=True, out=tmp_path / "x")


def test_a_record_with_a_senseless_redraw_is_refused(tmp_path):
    source = save("llama-mha", tmp_path / "source")
    grown = grow.upcycle(
        source, 4, method="drop-upcycling", allow_lossy=True, out=tmp_path / "grown", verify=False
    ).path
    for damage in ({"share": 2.0, "first": True}, {"share": 0.5}, {"share": 0.5, "first": 1}, "half"):
        tiny.edit_json(grown / "grow.json", lambda r, damage=damage: r["plan"].update(redraw=damage))
        with pytest.raises(grow.BadInput, match="no record of a growth"):
            grow.verify(source, grown)
