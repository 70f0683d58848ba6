"""Every way to write a target means what it says, and a refusal names a target that is accepted."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from grow.errors import BadInput, GrowError, Refused
from grow.families import FAMILIES
from grow.families.match import expected_rows, match
from grow.notation.size_limits import cap_of
from grow.planning.options import GrowthOptions
from grow.planning.plan import Plan, make_plan
from grow.planning.target import resolve
from grow.spelling import COMMAND_LINE, spelled

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 18, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 28, "num_hidden_layers": 2, "vocab_size": 41,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
MHA = {**LLAMA, "hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4}
SEVENTHS = {**LLAMA, "hidden_size": 42, "num_attention_heads": 14, "num_key_value_heads": 7}
QWEN3 = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 12, "n_head": 3, "n_layer": 2,
    "vocab_size": 41, "n_positions": 64,
}  # fmt: skip
OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 12, "num_attention_heads": 3,
    "ffn_dim": 22, "num_hidden_layers": 2, "vocab_size": 41, "max_position_embeddings": 64, "word_embed_proj_dim": 12,
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 12, "num_attention_heads": 3,
    "intermediate_size": 22, "num_hidden_layers": 2, "vocab_size": 41, "max_position_embeddings": 64,
    "type_vocab_size": 2,
}  # fmt: skip


def sizes(config: dict, to, **options) -> dict[str, int]:
    """The axes that change."""
    family = FAMILIES[config["model_type"]]
    old, new = family.sizes_of(config), resolve(family, config, to, **options).sizes
    return {axis: new[axis] for axis in new if new[axis] != old[axis]}


def plan(config: dict, to, **options) -> Plan:
    """The plan for a checkpoint of this config; headers only."""
    family = FAMILIES[config["model_type"]]
    family.check_config(config)
    old = family.sizes_of(config)
    stored = {
        name: SimpleNamespace(dtype="F32", shape=row.signature.shape({**old, "labels": 2}))
        for name, row in expected_rows(family, config).items()
    }
    found = match(family, config, stored, "here")
    with spelled(COMMAND_LINE):  # what a fix suggests is tried
        return make_plan(family, found, resolve(family, found.config, to), GrowthOptions(**options))


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
    shallow = resolve(FAMILIES["bert"], {**BERT, "num_hidden_layers": 24}, "bert-base")
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
    assert resolve(FAMILIES["llama"], LLAMA, tmp_path).notes == (
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
        found = family.sizes_of(config)
        assert found["heads"] % found["kv_heads"] == 0, name
        assert sizes(config, name) == {}
        transformers.AutoConfig.for_model(family.model_type, **fields)
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


# What is refused

# a θ so small that the upper end of yarn's range is clipped to head_dim - 1, which θ' cannot undo
YARN = {"rope_type": "yarn", "rope_theta": 6.0, "factor": 4.0, "original_max_position_embeddings": 280}
YARN = {"rope_parameters": YARN}
OWN_LENGTH = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}  # of the yarn that has none: the positions
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4, "long_factor": [1.5] * 4,
}  # fmt: skip
POST = {"do_layer_norm_before": False, "layer_norm_elementwise_affine": False}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}}
REFUSED = {
    "not-a-size": (LLAMA, "gigantic", BadInput, "no size of the family"),
    "misspelt-size": (LLAMA, "SmolLM2-360m", BadInput, "did you mean 'SmolLM2-360M'"),
    "empty": (LLAMA, "", BadInput, "is empty"),
    "missing-folder": (LLAMA, "./nowhere", BadInput, "no size of the family"),
    "nan-x": (LLAMA, "nanx", BadInput, "no size of the family"),
    "0x": (LLAMA, "0x", BadInput, "not a factor"),
    "minus": (LLAMA, "-2x", BadInput, "not a factor"),
    "half": (LLAMA, "0.5x", BadInput, "not a factor"),
    "1e9x": (LLAMA, "1e9x", BadInput, "not a factor"),
    "1e400x": (LLAMA, "1e400x", BadInput, "not a factor"),
    "1025x": (LLAMA, "1025x", BadInput, "not a factor"),
    "2xx": (LLAMA, "2xx", BadInput, "not a factor"),
    "1/0x": (LLAMA, "1/0x", BadInput, "not a factor"),
    "1.3x": (LLAMA, "1.3x", Refused, "heads 6 × 1.3 = 7.8"),
    "1.01x": (MHA, "1.01x", Refused, "every width is a whole number"),
    "1.1x-gpt2": (GPT2, "1.1x", Refused, "every width is a whole number"),
    "1.4x-sevenths": (SEVENTHS, "1.4x", Refused, "kv_heads 7 × 1.4 = 9.8"),
    "nan": (LLAMA, "hidden_size=nan", BadInput, "'nan' is not a whole number"),
    "float": (LLAMA, "hidden_size=36.5", BadInput, "'36.5' is not a whole number"),
    "no-value": (LLAMA, "hidden_size=", BadInput, "is not a whole number"),
    "trailing-comma": (LLAMA, "hidden_size=36,", BadInput, "has an empty field"),
    "float-in-dict": (LLAMA, {"hidden_size": 36.0}, BadInput, "not a whole number"),
    "text-in-dict": (LLAMA, {"hidden_size": "36"}, BadInput, "not a whole number"),
    "bool-in-dict": (LLAMA, {"hidden_size": True}, BadInput, "not a whole number"),
    "None-in-dict": (LLAMA, {"hidden_size": None}, BadInput, "not a whole number"),
    "negative": (LLAMA, "hidden_size=-36", BadInput, "out of range"),
    "zero": (LLAMA, "ffn=0", BadInput, "out of range"),
    "zero-kv": (LLAMA, "kv_heads=0", BadInput, "out of range"),
    "zero-heads": (LLAMA, "heads=0", BadInput, "out of range"),
    "too-large": (LLAMA, f"hidden_size={cap_of('hidden') + 1}", BadInput, "out of range"),
    "huge": (LLAMA, "hidden_size=" + "9" * 50, BadInput, "out of range"),
    "misspelt-field": (LLAMA, "hiden_size=36", BadInput, "did you mean 'hidden_size'"),
    "misspelt-axis": (LLAMA, "hiddn=36", BadInput, "did you mean 'hidden'"),
    "field-of-gpt2": (LLAMA, "n_embd=36", BadInput, "no such axis"),
    "types": (BERT, "type_vocab_size=3", Refused, "would change types 2 -> 3"),
    "embed": (OPT, "word_embed_proj_dim=24", Refused, "would change embed 12 -> 24"),
    "smaller-depth": (LLAMA, "num_hidden_layers=1", Refused, "layers 2 -> 1"),
    "smaller-depth-wider": (LLAMA, "2x,layers=1", Refused, "layers 2 -> 1"),
    "smaller-vocab": (LLAMA, "vocab_size=40", Refused, "vocab 41 -> 40"),
    "smaller-positions": (GPT2, "n_positions=32", Refused, "positions 64 -> 32"),
    "smaller-all": (BERT, "hidden=24,layers=1,vocab=3,positions=7", Refused, "layers 2 -> 1, vocab 41 -> 3"),
    "zero-depth": (LLAMA, "layers=0", BadInput, "out of range"),
    "negative-depth": (LLAMA, "layers=-1", BadInput, "out of range"),
    "half-a-layer": (LLAMA, "layers=2.5", BadInput, "'2.5' is not a whole number"),
    "half-a-layer-more": (LLAMA, "2x,layers=2.5", BadInput, "'2.5' is not a whole number"),
    "depth-without-bound": (LLAMA, "layers=999999999", BadInput, "out of range"),
    "depth-twice": (LLAMA, "layers=3,num_hidden_layers=4", BadInput, "given twice: 3 and 4"),
    "size-twice": (LLAMA, "2x,3x", BadInput, "not a factor"),
    "size-last": (LLAMA, "layers=3,2x", BadInput, "'' is not a whole number"),
    "no-size-first": (LLAMA, "gigantic,layers=3", BadInput, "no size of the family"),
    "post-ln-no-gain": ({**OPT, **POST}, "layers=3", Refused, "layers 2 -> 3"),
    "positions-dynamic": (
        {**LLAMA, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
        "positions=128", Refused, "64 -> 128 with rope_type='dynamic'",
    ),
    "positions-longrope": (
        {**LLAMA, "rope_parameters": LONGROPE}, "positions=128", Refused, "64 -> 128 with rope_type='longrope'",
    ),
    "positions-yarn": (
        {**LLAMA, "rope_parameters": OWN_LENGTH}, "positions=128", Refused, "64 -> 128 with rope_type='yarn'",
    ),
    "another-family": (LLAMA, GPT2, Refused, "model_type 'gpt2'"),
    "smaller": (LLAMA, "hidden_size=12", Refused, "hidden 18 -> 12"),
    "smaller-ffn": (LLAMA, "hidden_size=36,ffn=20", Refused, "ffn 28 -> 20"),
    "smaller-heads": (MHA, "heads=1", Refused, "heads 3 -> 1"),
    "kv-does-not-divide": (LLAMA, "heads=9", Refused, "2 kv heads do not divide 9 heads"),
    "kv-does-not-divide-7": (LLAMA, "heads=7", Refused, "2 kv heads do not divide 7 heads"),
    "heads-do-not-divide": (LLAMA, "hidden_size=20", Refused, "6 heads do not divide hidden 20"),
    "heads-do-not-divide-gpt2": (GPT2, "n_embd=22", Refused, "3 heads do not divide hidden 22"),
    "heads-do-not-divide-bert": (BERT, "hidden=24,heads=5", Refused, "5 heads do not divide hidden 24"),
    "head_dim-is-derived": (GPT2, "n_embd=24,head_dim=5", Refused, "3 heads × 5 != hidden 24"),
    "head_dim-alone": (GPT2, "head_dim=8", Refused, "3 heads × 8 != hidden 12"),
    "head_dim-would-shrink": (GPT2, "n_embd=12,n_head=6", Refused, "head_dim 4 -> 2"),
    "groups-do-not-fit": (LLAMA, "heads=6,kv_heads=3", Refused, "do not fit into 3 groups of 2"),
    "post-ln-no-multiple": (BERT, "hidden_size=18", Refused, "12 -> 18, which is not a whole multiple"),
    "post-ln-no-multiple-heads": (BERT, "hidden_size=20,num_attention_heads=5", Refused, "not a whole multiple"),
    "odd-rope": (LLAMA, "head_dim=9", Refused, "coordinates turn in pairs"),
    "yarn": ({**LLAMA, **YARN}, "head_dim=12", Refused, "not exact"),
    "dynamic": ({**LLAMA, **DYNAMIC}, "head_dim=12", Refused, "not exact"),
}  # fmt: skip


def suggestions(error: GrowError) -> list[str]:
    """Targets in the fix: fields, joined by commas or alternatives by `or`, and factors."""
    found = re.findall(r"[a-z_]+=\d+(?:,[a-z_]+=\d+)*|(?<![\w.=])\d+(?:\.\d+|/\d+)?x", error.fix)
    for field, other in re.findall(r"([a-z_]+)=\d+ or (\d+)(?![\w.])", error.fix):
        found.append(f"{field}={other}")
    return found


def combined(to, suggestion: str):
    """The refused target with the fix's fields in place of its own."""
    if suggestion.endswith("x"):
        return suggestion
    fields = dict(part.split("=") for part in suggestion.split(","))
    if isinstance(to, str) and "=" in to:
        given = dict(part.split("=") for part in to.split(",") if "=" in part)
        aliases = [{"hidden", "hidden_size", "n_embd"}, {"heads", "num_attention_heads", "n_head"}]
        aliases += [{"kv_heads", "num_key_value_heads"}, {"ffn", "intermediate_size", "n_inner"}]
        aliases += [{"layers", "num_hidden_layers", "n_layer"}, {"vocab", "vocab_size"}]
        aliases += [{"positions", "max_position_embeddings", "n_positions"}]
        replaced = {g for g in given for f in fields for names in aliases if {g, f} <= names}
        given = {k: v for k, v in given.items() if k not in replaced and k not in fields and v.isdigit()}
        return ",".join(f"{k}={v}" for k, v in {**given, **fields}.items())
    return suggestion


@pytest.mark.parametrize(("config", "to", "kind", "what"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_has_four_parts(config, to, kind, what):
    with pytest.raises(GrowError) as caught:
        plan(config, to)
    error = caught.value
    assert type(error) is kind
    assert what in error.what + error.why + "".join(text for _, text in error.details)
    assert all((error.where, error.what, error.why, error.fix))
    assert str(error).startswith(f"{error.where}: {error.what}")
    assert "\n  why        " in str(error)
    assert "\n  fix        " in str(error)
    assert error.exit_code == 2


WITH_FIX = [name for name, (_, _, kind, _) in REFUSED.items() if kind is Refused]


@pytest.mark.parametrize("name", WITH_FIX)
def test_every_target_that_a_refusal_suggests_is_accepted(name):
    config, to, _, _ = REFUSED[name]
    with pytest.raises(GrowError) as caught:
        plan(config, to)
    given = suggestions(caught.value)
    no_target = ("leave", "a target of the source's family", "keep head_dim")
    assert given or caught.value.fix.startswith(no_target), caught.value.fix
    for suggestion in given:
        accepted = combined(to, suggestion)
        found = plan(config, accepted)
        grows = found.new_sizes != found.sizes
        assert grows or caught.value.fix.startswith("at least") or name == "head_dim-alone", accepted


def test_suggestions_are_found_in_a_fix():
    """The test above can fail only on what this finds."""
    fix = "heads=6 or heads=12 or hidden=24,ffn=3; --to 1.5x or 7/6x, or head_dim=14 or 20"
    expected = ["heads=6", "heads=12", "hidden=24,ffn=3", "1.5x", "7/6x", "head_dim=14", "head_dim=20"]
    assert suggestions(GrowError("x", what="y", fix=fix)) == expected


def test_random_refusals_suggest_what_is_accepted():
    """The same for many targets: whatever a refusal suggests can be planned."""
    wrong = []
    for config in (LLAMA, MHA, GPT2, BERT, OPT, QWEN3):
        family = FAMILIES[config["model_type"]]
        hidden, heads = family.axes["hidden"], family.axes["heads"]
        n, h = config[hidden], config[heads]
        grid = itertools.product(range(n, 2 * n + 3, 3), range(h, 2 * h + 2))
        targets = [f"{hidden}={a},{heads}={b}" for a, b in grid]
        if "kv_heads" in family.axes:
            targets += [f"{heads}={b},kv_heads={c}" for b in range(h, 2 * h + 2) for c in range(2, 9)]
        targets += [f"{to},layers={a},vocab={b}" for to in targets[::5] for a in (2, 4) for b in (41, 60)]
        targets += [f"{1 + k / 10}x" for k in range(1, 30)]
        for to in targets:
            try:
                plan(config, to)
            except Refused as error:
                for suggestion in suggestions(error):
                    try:
                        plan(config, combined(to, suggestion))
                    except GrowError as second:
                        wrong.append(f"{config['model_type']} {to}: fix {suggestion!r} gives {second.what}")
    assert wrong == []


@pytest.mark.parametrize("to", ["hidden_size=131071,heads=16381", "heads=16381", "hidden=1000000007"])
def test_a_refusal_of_a_huge_size_is_as_quick_as_any(to):
    """A search for suggestions that went through all sizes would take long here."""
    started = time.monotonic()
    with pytest.raises(GrowError):
        plan(LLAMA, to)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "what"), [("{", "is not JSON"), ("[]", "is not a JSON object"), ("{}", "model_type None")]
)
def test_a_config_that_is_none(tmp_path: Path, text, what):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(GrowError, match=what):
        resolve(FAMILIES["llama"], LLAMA, tmp_path)


# Options beside the target


@pytest.mark.parametrize(
    ("config", "to", "options", "what"),
    [
        (LLAMA, "2x", {"operators": {"hiden": "copies"}}, "did you mean 'hidden'"),
        (LLAMA, "2x", {"operators": {"head_dim": "copies"}}, "no choice for 'head_dim'"),
        (LLAMA, "2x", {"operators": {"hidden": "copy"}}, "no such operator"),
        (LLAMA, "2x", {"operators": {"ffn": "unred"}}, "did you mean 'unread'"),
        (LLAMA, "2x", {"operators": {"heads": "silent"}}, "heads grow by unread or copies"),
        (LLAMA, "2x", {"operators": {"ffn": "silent"}}, "silent cannot grow ffn"),
        (LLAMA, "2x", {"operators": {"hidden": "mean"}}, "mean cannot grow hidden"),
        (GPT2, "2x", {"operators": {"hidden": "silent"}}, "silent cannot grow hidden"),
        (BERT, "2x", {"operators": {"hidden": "mean"}}, "mean cannot grow hidden"),
        (GPT2, "n_embd=15", {"operators": {"hidden": "copies"}}, "copies cannot grow hidden"),
        (LLAMA, "2x", {"split": "odd"}, "no such split"),
        (LLAMA, "2x", {"dtype": "int8"}, "no such dtype"),
        (LLAMA, "2x", {"seed": -1}, "out of range"),
        (LLAMA, "2x", {"seed": 2**63}, "out of range"),
        (LLAMA, "2x", {"seed": 0.5}, "out of range"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(config, to, options, what):
    with pytest.raises(GrowError) as caught:
        plan(config, to, **options)
    error = caught.value
    assert what in error.what
    assert all((error.where, error.why, error.fix))
    for axis, operator in re.findall(r"--operator (\w+)=(\w+)", error.fix):
        plan(config, to, operators={axis: operator})


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
