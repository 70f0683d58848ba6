"""Experts: a dense model becomes one with experts, experts become more, and every output stays.

Measured as in `test_lossless`: stock checkpoints with random parameters, in their own dtype, through files, in true
float64 by a mode that shares no code with `grow.verify`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from expert_models import EXACT, apart
from models import VARIANTS, make
from safetensors.torch import load_file

import grow
from grow.architectures import FAMILIES
from grow.architectures.upcycling_pairs import PAIRS
from grow.notation.numbers import Noise, mean_share

DENSE = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "granite")
CLASSES = dict(zip(DENSE, ("Mixtral", "Mixtral", "Qwen2Moe", "Qwen3Moe", "FlexOlmo", "GraniteMoe")))


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


@pytest.mark.parametrize("variant", ["llama", "granite"])
def test_new_layers_of_slices_can_be_drawn(variant, tiny, tmp_path):
    """Also where slices of two dense matrices are stacked in one tensor: each is drawn at the scale of its own."""
    how = {"granularity": 2, "fill": "fresh", "to": {"layers": 3}}
    grow.upcycle(tiny(variant), 4, out=tmp_path / "grown", verify=False, **how)
    assert apart(tiny(variant), tmp_path / "grown") <= EXACT
    assert grow.verify(tiny(variant), tmp_path / "grown", rungs=["certificate"]).verdict == "certified"
    new = "input_linear.weight" if variant == "granite" else "experts.1.w1.weight"
    stored = load_file(tmp_path / "grown" / "model.safetensors")
    rows = stored[f"model.layers.1.block_sparse_moe.{new}"].flatten(end_dim=-2)
    assert rows.std() > 0.1
    assert len(rows.unique(dim=0)) == len(rows)


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
        assert (
            len({hasattr(transformers, FAMILIES[kind].class_begins + head) for kind in (pair.source, pair.target)}) == 1
        ), head


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
