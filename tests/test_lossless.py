"""The law of the project: whatever grows, every output stays, in true float64 to 1e-12 of its standard deviation.

Each case goes through the files: a stock checkpoint with random parameters, `grow.widen`, stock `from_pretrained`,
and a comparison that shares no code with `grow.verify`. Targets and options are drawn per variant from a fixed seed.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_targets import (
    EXACT,
    FLOAT32,
    WHOLE,
    alibi,
    context,
    divides,
    draw,
    followed,
    free,
    grows,
    own,
    rooted,
    sizes_of,
    stays,
)  # fmt: skip
from models import LLAMA, ONE_EACH, VARIANTS, difference, load, make, outputs, seeded
from safetensors.torch import load_file, save_file

import grow
from grow.architectures.architecture import Architecture

CASES = [(v, name, *case) for v in VARIANTS for name, case in draw(v).items()]


@pytest.fixture(scope="session")
def expected(tiny):
    """The outputs of a source, computed once per worker."""
    known = {}

    def get(variant: str, dtype: str = "float32"):
        if (variant, dtype) not in known:
            known[variant, dtype] = outputs(tiny(variant, dtype), VARIANTS[variant].lengths)
        return known[variant, dtype]

    return get


def widen(source: Path, to, out: Path, **options) -> grow.Growth:
    return grow.widen(source, to, out=out, verify=False, seed=3, **options)


def comparable(variant: str, plan, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a base model returns lies in the grown space; read with D it is what the source returned."""
    wide = plan.new_sizes["hidden"]
    hidden = {
        name for name in found if name.startswith(("last_hidden_state", "encoder_last_hidden_state", "pooler_output"))
    }
    hidden = {name for name in hidden if found[name].shape[-1] == wide}
    return {name: read_back(plan, value) if name in hidden else value for name, value in found.items()}


def read_back(plan, value: torch.Tensor, *, normed: bool = True) -> torch.Tensor:
    """(…, m) -> (…, n): the sum of each coordinate's copies, weighed as a consumer does."""
    m = plan.maps["hidden"]
    back = torch.zeros(m.m, m.n, dtype=torch.float64)
    copied = np.flatnonzero(m.source >= 0)
    weight = m.read[copied] * (1.0 if normed else m.gain[copied])
    back[copied, m.source[copied]] = torch.from_numpy(weight)
    return value @ back


@pytest.mark.parametrize(("variant", "name", "to", "options"), CASES, ids=[f"{v}-{n}" for v, n, *_ in CASES])
def test_every_output_stays_in_float64(variant, name, to, options, tiny, expected, tmp_path):
    grown = widen(tiny(variant), to, tmp_path / "grown", dtype="float64", **options)
    assert grown.plan.new_sizes != grown.plan.sizes
    found = outputs(tmp_path / "grown", VARIANTS[variant].lengths)
    assert difference(expected(variant), comparable(variant, grown.plan, found)) <= EXACT


def draw_bit_exact(variant: str) -> dict:
    """A target whose factors are powers of two: hidden × c, head_dim × 4, any heads and ffn."""
    r, old = seeded(variant, "bit-exact"), sizes_of(variant)
    family = grow.families[VARIANTS[variant].model_type]
    if not family.attends:
        contexts = Architecture(family, VARIANTS[variant].fields).contexts
        more = {axis: old[axis] * (contexts.get(axis) == "rms") or r.randint(1, 9) for axis in old}
        target = {axis: old[axis] + more[axis] for axis in (*family.units, *family.scored) if grows(variant, axis)}
        return target | {"hidden": r.choice((2, 3)) * old["hidden"]}
    n, h, k, d, f = (old[a] for a in ("hidden", "heads", "kv_heads", "head_dim", "ffn"))
    if not free(variant):
        if VARIANTS[variant].fields.get("scale_attn_weights") is False:
            return {"heads": 2 * h, "hidden": 3 * 2 * n, "ffn": f + r.randint(1, f)}
        c = r.choice((2, 3))
        wider = 1 if stays(variant, "head_dim") else 4
        to = r.choice(({"heads": c * h, "hidden": c * n}, {"heads": c * h, "hidden": wider * c * n})) | {"ffn": f + 5}
        return own(variant, to)
    more = {"experts": r.choice((2, 3)) * old["experts"]} if grows(variant, "experts") else {}
    more |= {axis: old[axis] + 3 for axis in ("expert_ffn", "shared_ffn") if axis in old}
    if VARIANTS[variant].model_type in WHOLE:
        return {"hidden": 3 * n, "heads": 2 * h, "kv_heads": 2 * k, "head_dim": 4 * d, "ffn": f + 5} | more
    k2 = k + r.randint(0, 2)
    heads = k2 * (h // k + r.randint(0, 2))
    c = r.choice((2, 3))
    if rooted(VARIANTS[variant].model_type):
        c, heads, k2 = 4, 2 * h, k
    hidden = math.lcm(n * c, heads if divides(variant) else 1)
    target = {"hidden": hidden, "heads": heads, "kv_heads": k2, "ffn": f + r.randint(1, f)}
    quadruple = r.random() < 0.5 and variant not in ("llama-dynamic",)
    quadruple |= VARIANTS[variant].model_type in ("granite", "granitemoe")
    if "kv_heads" in followed(variant):
        target["heads"] = target.pop("kv_heads") + 1
        target["hidden"] = math.lcm(n * c, target["heads"] if divides(variant) else 1)
    quadruple &= not grow.families[VARIANTS[variant].model_type].attention.parts and grows(variant, "head_dim")
    return target | ({"head_dim": 4 * d} if quadruple else {}) | more


LANGUAGE = [v for v in VARIANTS if VARIANTS[v].auto in ("AutoModelForCausalLM", "AutoModelForMaskedLM")]
STORED = [
    (v, d) for i, v in enumerate(LANGUAGE) for d in ("bfloat16", "float16", "float32") if d == "bfloat16" or i % 2
]


@pytest.mark.parametrize(("variant", "dtype"), STORED, ids=[f"{v}-{d}" for v, d in STORED])
def test_a_bit_exact_plan_stays_in_the_sources_own_dtype(variant, dtype, tiny, expected, tmp_path):
    copied = "unread" if alibi(variant) else "copies"
    operators = seeded(variant, dtype).choice(({}, {"ffn": "copies"}, {"heads": copied, "ffn": "copies"}))
    grown = widen(tiny(variant, dtype), draw_bit_exact(variant), tmp_path / "grown", operators=operators)
    assert grown.plan.storage == "bit-exact", grown.plan.rounded
    stored = load_file(tmp_path / "grown" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {getattr(torch, dtype)}
    found = outputs(tmp_path / "grown", VARIANTS[variant].lengths)
    assert difference(expected(variant, dtype), comparable(variant, grown.plan, found)) <= EXACT


@pytest.mark.parametrize("variant", ONE_EACH)
def test_a_rounded_plan_is_written_in_float32(variant, tiny, expected, tmp_path):
    to = {"hidden": 2 * sizes_of(variant)["hidden"]}
    if free(variant):
        to = {"hidden": sizes_of(variant)["hidden"] * 4 // 3}
        to |= {"head_dim": 12} if grows(variant, "head_dim") else {}
        to = {"head_dim": 12} if context(variant) == "plain" else to
    elif not grow.families[VARIANTS[variant].model_type].attends:
        to = {"hidden": to["hidden"] - 5}
    elif grow.families[VARIANTS[variant].model_type].attention.scaled == "never":  # nor is q rounded
        to = {"hidden": sizes_of(variant)["hidden"] * 3 // 2}
    grown = widen(tiny(variant, "bfloat16"), to, tmp_path / "grown")
    assert grown.plan.storage == "rounded"
    assert any("float32" in note for note in grown.plan.notes)
    assert {t.dtype for t in load_file(tmp_path / "grown" / "model.safetensors").values()} == {torch.float32}
    found = comparable(variant, grown.plan, outputs(tmp_path / "grown"))
    delta = difference(expected(variant, "bfloat16"), found)
    assert EXACT < delta <= FLOAT32  # were it below, the plan would not need to be called rounded


@pytest.mark.parametrize("variant", [v for v in VARIANTS if VARIANTS[v].auto == "AutoModel"])
def test_the_residual_stream_is_read_back_after_every_layer(variant, tiny, tmp_path):
    name, (to, options) = list(draw(variant).items())[-1]
    plan = widen(tiny(variant), to, tmp_path / "grown", dtype="float64", **options).plan
    old, new = outputs(tiny(variant), states=True), outputs(tmp_path / "grown", states=True)
    inside = {k.partition(".")[0]: k for k in new if "hidden_states." in k}  # of each stack the last
    final = inside.values() if plan.source.holds(plan.family.norm.last) else ()
    wide = {k: v for k, v in new.items() if v.shape[-1] == plan.new_sizes["hidden"] and v.shape != old[k].shape}
    back = {k: read_back(plan, v, normed=k.partition(".")[0] not in inside or k in final) for k, v in wide.items()}
    back |= {k: v for k, v in new.items() if k not in wide}
    assert difference(old, back) <= EXACT, name


# The comparison itself


def constant_under_softmax(variant: str, name: str) -> bool:
    """A bias of k adds the same to every score of a query, unless RoPE turns it."""
    facts = grow.families[VARIANTS[variant].model_type].attention
    ends = ("k_proj.bias", "key.bias", "k_lin.bias", "attn.k.bias", "key_global.bias")
    return facts.rope is None and not facts.positional and name.endswith(ends)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v in ONE_EACH or v.endswith(("-base", "-biases", "-qa"))])
def test_the_comparison_sees_every_tensor(variant, tiny, expected):
    """Reverse any tensor of a source: unless no function can depend on it, the difference is far above EXACT."""
    folder = tiny(variant)
    model = load_in_float64(folder)
    before, unseen = outputs(model), []
    assert difference(expected(variant), before) == 0
    for name, p in model.named_parameters():
        kept = p.data.clone()
        p.data = -kept if kept.numel() == 1 else kept.flip(0) if len(kept) > 1 else kept.flip(-1)
        if difference(before, outputs(model)) < 1e-6:
            unseen.append(name)
        p.data = kept
    if VARIANTS[variant].auto in ("AutoModelForQuestionAnswering", "AutoModelForMaskedLM"):
        unseen = [name for name in unseen if "pooler" not in name]
    assert [name for name in unseen if not constant_under_softmax(variant, name)] == []


def load_in_float64(folder: Path):
    from models import Float64

    with Float64():
        return load(folder)


@pytest.mark.parametrize("variant", ONE_EACH)
def test_a_growth_that_breaks_the_law_is_different(variant, tiny, expected, tmp_path):
    """One copy's share of a consumer taken away, one coordinate of a producer moved."""
    n = sizes_of(variant)["hidden"]
    plan = widen(tiny(variant), {"hidden": 2 * n}, tmp_path / "grown", dtype="float64").plan
    file = tmp_path / "grown" / "model.safetensors"
    sound = load_file(file)
    for role, dims in (("read", 0), ("write", 1)):
        t = next(
            t
            for t in plan.tensors
            if role in t.roles and str(t.signature.dims[t.roles.index(role)]).startswith("hidden")
            if ".experts." not in t.name  # no token may have chosen it
        )
        at = t.roles.index(role)
        broken = sound[t.name].clone()
        broken.select(at, 1).copy_(sound[t.name].select(at, 2) if dims else 0.0)
        save_file({**sound, t.name: broken}, file, metadata={"format": "pt"})
        found = comparable(variant, plan, outputs(tmp_path / "grown"))
        assert difference(expected(variant), found) > 1e-6, (role, t.name)


# Older names and configs


def rewrite(source: Path, folder: Path, rename=lambda name: name, extra=None, config=lambda c: c) -> Path:
    """A copy of a checkpoint with other names, further tensors and another config.json."""
    shutil.copytree(source, folder)
    tensors = {rename(k): v for k, v in load_file(folder / "model.safetensors").items()} | (extra or {})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(config(json.loads(path.read_text()))))
    return folder


def without_prefix(prefix: str):
    return lambda name: name.removeprefix(prefix)


def gamma_beta(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def legacy_rope(config: dict) -> dict:
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        config["rope_scaling"] = {("type" if k == "rope_type" else k): v for k, v in rope.items()}
    return config


def legacy_neox(config: dict) -> dict:
    rope = config.pop("rope_parameters")
    return {**config, "rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": rope["rope_theta"]}


def without_architectures(config: dict) -> dict:
    return {k: v for k, v in config.items() if k != "architectures"}


CAUSAL = torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64)
OLD = {
    "bert-gamma-beta": ("bert-mlm", {"hidden": 24, "heads": 6}, dict(rename=gamma_beta)),
    "gpt2-no-prefix": ("gpt2", {"hidden": 24, "ffn": 50}, dict(rename=without_prefix("transformer."))),
    "gpt2-stale-masks": (
        "gpt2",
        {"hidden": 20, "heads": 5},
        dict(extra={"transformer.h.0.attn.bias": CAUSAL, "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}),
    ),
    "llama-stale-inv_freq": (
        "llama",
        {"head_dim": 12},
        dict(extra={"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    ),
    "llama-rope_theta": ("llama", {"head_dim": 12}, dict(config=legacy_rope)),
    "llama-rope_scaling": ("llama-linear", {"head_dim": 12, "hidden": 24}, dict(config=legacy_rope)),
    "llama-yarn-rope_scaling": ("llama-yarn", {"head_dim": 14}, dict(config=legacy_rope)),
    "llama-longrope-rope_scaling": ("llama-longrope", {"head_dim": 10}, dict(config=legacy_rope)),
    "gpt_neox-rotary_pct": ("gpt_neox", {"hidden": 48, "heads": 4}, dict(config=legacy_neox)),
    "gpt_neox-stale": (
        "gpt_neox",
        {"hidden": 30},
        dict(extra={"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(1)}),
    ),
    "llama-no-architectures": ("llama", {"hidden": 36}, dict(config=without_architectures)),
    "llama-tied-no-architectures": ("llama-tied", {"hidden": 36}, dict(config=without_architectures)),
    "gpt2-tied-no-architectures": ("gpt2", {"hidden": 21}, dict(config=without_architectures)),
    "llama-base-no-architectures": ("llama-base", {"ffn": 31}, dict(config=without_architectures)),
    "gpt_neox-no-architectures": ("gpt_neox", {"hidden": 30}, dict(config=without_architectures)),
    "roberta-position_ids": (
        "roberta-mlm",
        {"hidden": 36},
        dict(extra={"roberta.embeddings.position_ids": torch.arange(64)[None]}),
    ),
}


@pytest.mark.parametrize(("variant", "to", "old"), OLD.values(), ids=OLD)
def test_old_names_and_configs_grow_and_load_in_stock_transformers(variant, to, old, tiny, expected, tmp_path):
    source = rewrite(tiny(variant), tmp_path / "source", **old)
    widen(source, to, tmp_path / "grown", dtype="float64")
    lengths = VARIANTS[variant].lengths
    assert difference(expected(variant), outputs(tmp_path / "grown", lengths)) <= EXACT


# In memory


@pytest.mark.parametrize(
    ("variant", "to"),
    [
        ("llama-tied", {"hidden_size": 36, "head_dim": 12, "num_attention_heads": 9, "num_key_value_heads": 3}),
        ("qwen3", {"hidden": 25, "head_dim": 20}),
        ("gpt2", {"n_embd": 20, "n_head": 5, "n_inner": 61}),
        ("opt-projected", {"hidden": 15}),
        ("bert-mlm", "2x"),
    ],
)
def test_a_model_in_memory_grows_to_a_model_with_the_same_outputs(variant, to, tmp_path):
    model = make(variant).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.to_json_string()
    grown = grow.widen(model, to, verify=False).model
    assert type(grown) is type(model)
    assert model.config.to_json_string() == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in grown.parameters()} & {p.data_ptr() for p in model.parameters()}
    # the two as they are round RoPE to float32; saved and loaded in true float64 nothing does
    assert difference(outputs(model), outputs(grown)) <= FLOAT32
    model.save_pretrained(tmp_path / "source")
    grown.save_pretrained(tmp_path / "grown")
    assert difference(outputs(tmp_path / "source"), outputs(tmp_path / "grown")) <= EXACT


def test_training_mode_and_frozen_parameters_carry_over():
    model = make("llama").train()
    model.model.embed_tokens.weight.requires_grad_(False)
    grown = grow.widen(model, {"ffn": LLAMA["intermediate_size"] + 3}, verify=False).model
    assert grown.training
    assert not grown.model.embed_tokens.weight.requires_grad
    assert grown.lm_head.weight.requires_grad
