"""Every way to write a target means what it says; a plan says whether it rounds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from target_configs import BERT, GPT2, LLAMA, MHA, OPT, QWEN3, plan

from grow.architectures import FAMILIES, architecture_of
from grow.architectures.architecture import Architecture
from grow.errors import Refused
from grow.models.shapes_by_config import layer_lists
from grow.planning.target import resolve

pytestmark = pytest.mark.quick


def sizes(config: dict, to, **options) -> dict[str, int]:
    """The axes that change."""
    source = architecture_of(config)
    old, new = source.sizes, resolve(source, to, **options).sizes
    return {axis: new[axis] for axis in new if new[axis] != old[axis]}


# What may be written


@pytest.mark.parametrize(
    ("config", "to", "expected"),
    [
        (LLAMA, "2x", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 56}),
        (LLAMA, "1.5X", {"hidden": 27, "heads": 9, "kv_heads": 3, "ffn": 42}),
        (LLAMA, "3/2x", {"hidden": 27, "heads": 9, "kv_heads": 3, "ffn": 42}),
        (LLAMA, "1x", {}),
        (LLAMA, "1024x", {"hidden": 18432, "heads": 6144, "kv_heads": 2048, "ffn": 28672}),
        (GPT2, "2x", {"hidden": 24, "heads": 6, "kv_heads": 6, "ffn": 96}),
        (LLAMA, "hidden_size=36,num_attention_heads=12", {"hidden": 36, "heads": 12}),
        (LLAMA, "hidden=36, heads=12 , kv_heads=4", {"hidden": 36, "heads": 12, "kv_heads": 4}),
        (LLAMA, "head_dim=12", {"head_dim": 12}),
        (LLAMA, "ffn=29", {"ffn": 29}),
        (LLAMA, "vocab_size=41,num_hidden_layers=2,ffn=30", {"ffn": 30}),
        (LLAMA, {"intermediate_size": 30}, {"ffn": 30}),
        (LLAMA, {"hidden": 36, "heads": 6}, {"hidden": 36}),
        (MHA, {"heads": 6}, {"heads": 6, "kv_heads": 6}),
        (MHA, {"heads": 6, "kv_heads": 3}, {"heads": 6}),
        (GPT2, {"n_embd": 24}, {"hidden": 24, "head_dim": 8}),
        (GPT2, {"n_embd": 20, "n_head": 5}, {"hidden": 20, "heads": 5, "kv_heads": 5}),
        (GPT2, {"n_embd": 20, "n_head": 4, "head_dim": 5}, {"hidden": 20, "heads": 4, "kv_heads": 4, "head_dim": 5}),
        (OPT, {"hidden": 24}, {"hidden": 24, "head_dim": 8, "embed": 24}),
        ({**OPT, "word_embed_proj_dim": 10}, {"hidden": 24}, {"hidden": 24, "head_dim": 8}),
        ({**LLAMA, **LLAMA, "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32}, "base",
         {"hidden": 256, "heads": 8, "kv_heads": 4, "ffn": 768}),
        (BERT, "bert-base", {"hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 3072, "head_dim": 64}),
        (LLAMA, "num_hidden_layers=4", {"layers": 4}),
        (LLAMA, {"layers": 4}, {"layers": 4}),
        (GPT2, "n_layer=3,hidden=24", {"layers": 3, "hidden": 24, "head_dim": 8}),
        (LLAMA, "vocab_size=50", {"vocab": 50}),
        (GPT2, "n_positions=65,vocab=42", {"positions": 65, "vocab": 42}),
        (LLAMA, "2x,layers=8", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 56, "layers": 8}),
        (LLAMA, "2x, intermediate_size=28 ,layers=3", {"hidden": 36, "heads": 12, "kv_heads": 4, "layers": 3}),
        (BERT, "bert-base,hidden_size=24,heads=6,layers=3",
         {"hidden": 24, "heads": 6, "kv_heads": 6, "ffn": 3072, "layers": 3}),
        (LLAMA, "1x,vocab=42", {"vocab": 42}),
    ],
)  # fmt: skip
def test_a_target_is_the_axes_it_changes(config, to, expected):
    assert sizes(config, to) == expected


def test_the_depth_of_a_size_is_taken_with_deepen_only():
    widths = {"hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 3072, "head_dim": 64}
    assert sizes(BERT, "bert-base", deepen=True) == {**widths, "layers": 12}
    assert sizes(BERT, "bert-base,layers=5", deepen=True) == {**widths, "layers": 5}  # a field has the last word
    assert sizes(LLAMA, "2x", deepen=True) == sizes(LLAMA, "2x")
    assert sizes(LLAMA, {"layers": 4}, deepen=True) == {"layers": 4}
    shallow = resolve(architecture_of({**BERT, "num_hidden_layers": 24}), "bert-base")
    assert shallow.sizes["layers"] == 24
    assert shallow.notes == ("layers stay 24 (bert-base has 12), and nothing shrinks",)


def test_the_config_of_another_checkpoint(tmp_path):
    other = {**LLAMA, "hidden_size": 36, "num_attention_heads": 12, "num_hidden_layers": 5, "vocab_size": 99}
    other["max_position_embeddings"] = 32
    (tmp_path / "config.json").write_text(json.dumps(other))
    expected = {"hidden": 36, "heads": 12, "vocab": 99}
    for to in (tmp_path, str(tmp_path), tmp_path / "config.json", other, SimpleNamespace(to_dict=lambda: other)):
        assert sizes(LLAMA, to) == expected
        assert sizes(LLAMA, to, deepen=True) == {**expected, "layers": 5}
    assert sizes(LLAMA, f"{tmp_path},layers=3,vocab_size=41") == {"hidden": 36, "heads": 12, "layers": 3}
    assert resolve(architecture_of(LLAMA), tmp_path).notes == (
        f"layers stay 2 ({tmp_path / 'config.json'} has 5); deepen=True takes its depth too",
        f"positions stay 64 ({tmp_path / 'config.json'} has 32), and nothing shrinks",
    )
    with pytest.raises(Refused, match="layers 5 -> 2"):
        sizes(other, LLAMA, deepen=True)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_named_size_is_a_model_of_its_family(family):
    import transformers

    assert family.sizes
    for name, fields in family.sizes.items():
        config = {"vocab_size": 41, "model_type": family.model_type, **fields}
        found = Architecture(family, config).sizes
        assert found.get("heads", 0) % found.get("kv_heads", 1) == 0, name
        assert sizes(config, name) == {}
        deep = layer_lists(family.model_type, {}, found["layers"])
        transformers.AutoConfig.for_model(family.model_type, **fields, **deep)
    named = sorted(family.sizes.values(), key=lambda f: f[family.axes["hidden"]])
    smallest, largest = ({**f, "vocab_size": 41, "model_type": family.model_type} for f in (named[0], named[-1]))
    if len(named) > 1:
        with pytest.raises(Refused, match="smaller axis"):
            sizes(largest, next(n for n, f in family.sizes.items() if f is named[0]))
    assert smallest


def test_the_stock_config_class_reads_the_grown_config():
    """A grown size is written where stock code reads it, also when it had followed from another field."""
    import transformers

    grown = plan(GPT2, {"hidden": 24, "heads": 6}).new_config
    assert grown["n_inner"] == 48  # 4 · 12: None would now mean 96
    config = {k: v for k, v in QWEN3.items() if k != "head_dim"}
    assert plan({**config, "head_dim": 8}, {"hidden": 36}).new_config["head_dim"] == 8
    bare = {k: v for k, v in LLAMA.items() if k != "head_dim"}
    grown = plan(bare, {"hidden": 36}).new_config
    assert transformers.LlamaConfig(**grown).head_dim == 3


@pytest.mark.parametrize("config", [LLAMA, GPT2, OPT, BERT], ids=lambda c: c["model_type"])
@pytest.mark.parametrize("to", ["1x", "same"])
def test_the_size_it_has_changes_nothing(config, to):
    found = plan(config, config if to == "same" else to)
    assert found.storage == "bit-exact"
    assert all(t.unchanged for t in found.tensors)
    assert found.new_sizes == found.sizes


# What a plan says


@pytest.mark.parametrize(
    ("config", "to", "options", "storage"),
    [
        (LLAMA, "2x", {}, "bit-exact"),
        (LLAMA, "3x", {}, "bit-exact"),
        (LLAMA, "3x", {"split": "even"}, "rounded"),
        (LLAMA, "2x", {"split": "even"}, "bit-exact"),
        (LLAMA, "hidden=24", {}, "rounded"),
        (LLAMA, "hidden=72", {"operators": {"hidden": "silent"}}, "bit-exact"),
        (LLAMA, "head_dim=16", {}, "rounded"),
        (LLAMA, "head_dim=32", {}, "bit-exact"),
        (LLAMA, "ffn=29", {}, "bit-exact"),
        (LLAMA, "2x", {"dtype": "bfloat16"}, "rounded"),
        (GPT2, "2x", {}, "bit-exact"),
        (GPT2, "n_embd=24", {}, "rounded"),
        ({**GPT2, "scale_attn_weights": False}, "n_embd=24", {}, "bit-exact"),
        (GPT2, "n_embd=24,n_head=6", {"operators": {"hidden": "mean"}}, "rounded"),
    ],
)
def test_a_plan_says_whether_it_rounds_and_why(config, to, options, storage):
    found = plan(config, to, **options)
    assert found.storage == storage
    assert bool(found.rounded) == (storage == "rounded")


def test_a_tied_head_without_a_norm_to_absorb_the_growth_parts_from_its_table():
    found = plan({**OPT, "layer_norm_elementwise_affine": False}, "2x")
    assert found.new_config["tie_word_embeddings"] is False
    assert "lm_head.weight" in {t.name for t in found.tensors}
    assert any("lm_head.weight" in note for note in found.notes)
    found = plan(OPT, "2x")
    assert "lm_head.weight" not in {t.name for t in found.tensors}
    assert found.new_config.get("tie_word_embeddings", True)
