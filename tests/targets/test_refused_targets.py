"""A refusal names a target that is accepted."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import pytest
from target_configs import BERT, GPT2, LLAMA, MHA, OPT, QWEN3, plan

from grow.architectures import FAMILIES, architecture_of
from grow.errors import BadInput, GrowError, Refused
from grow.notation.size_limits import cap_of
from grow.planning.target import resolve

pytestmark = pytest.mark.quick

SEVENTHS = {**LLAMA, "hidden_size": 42, "num_attention_heads": 14, "num_key_value_heads": 7}


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
    "not-a-size": (LLAMA, "gigantic", BadInput, "not a size of the family"),
    "misspelt-size": (LLAMA, "SmolLM2-360m", BadInput, "did you mean 'SmolLM2-360M'"),
    "empty": (LLAMA, "", BadInput, "is empty"),
    "missing-folder": (LLAMA, "./nowhere", BadInput, "not a size of the family"),
    "nan-x": (LLAMA, "nanx", BadInput, "not a size of the family"),
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
    "no-size-first": (LLAMA, "gigantic,layers=3", BadInput, "not a size of the family"),
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
        resolve(architecture_of(LLAMA), tmp_path)


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
