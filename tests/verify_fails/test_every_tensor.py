"""Damaging any one tensor of a grown checkpoint is found and names that tensor; nothing else does.

The certificate runs alone (no torch, milliseconds) on every tensor of every family.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tiny
from damaged_pairs import CASES, ONLY, Case, Pair, Spot, Weights, certificate, faults, make

import grow
from grow.notation.maps import MEAN, SILENT, UNREAD, AxisMap, axis_map

# Damage to a rounded tensor may hide in the rounding: its sha256 shows it all the same.
ROUNDED = {
    "llama ×3 even", "llama silent", "llama silent float64", "llama silent as float16", "llama uneven copies",
    "qwen3 head_dim", "gpt2 mean", "gpt2 mean as bfloat16", "gpt_neox mean", "opt mean",
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory) -> Pair:
    return make(CASES[request.param], tmp_path_factory.mktemp("pair"))


# No false alarm


def test_an_undamaged_growth_passes(pair):
    found = certificate(pair)
    assert (found.verdict, found.exit_code) == ("certified", 0), found.checks[0].reason
    assert found.checks[0].measured["tensors"] == len(pair.plan.tensors)


@pytest.mark.parametrize("name", CASES)
def test_only_the_listed_cases_are_rounded(name, tmp_path):
    # what a rounded one proves is weaker, so no case may move there unseen
    source = tiny.checkpoint(tmp_path / "source", CASES[name].family, **CASES[name].source)
    plan = grow.plan(source, CASES[name].to, **CASES[name].options)
    assert plan.storage == ("rounded" if name in ROUNDED else "bit-exact")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("seed", range(2))
def test_rounding_each_number_once_is_no_fault(family, seed, tmp_path):
    # a share that is rounded, scaled and rounded again would miss the tolerance in one run of a few
    field = "n_embd" if family == "gpt2" else "hidden_size"
    for i, dtype in enumerate(("float32", "bfloat16", "float16")):
        for split in ("exact", "even"):
            source = tiny.checkpoint(tmp_path / f"{i}{split}", family, seed=seed, dtype="F64" if i == 0 else "F32")
            to = f"{field}=54,heads=6,ffn=40"
            options = {"operators": {"ffn": "copies", "heads": "copies"}, "dtype": dtype, "split": split}
            if family == "llama":
                to, options["operators"] = "hidden_size=60,heads=12,ffn=60", {"ffn": "copies", "heads": "copies"}
            grown = tmp_path / f"{i}{split}-grown"
            grow.widen(source, to, out=grown, verify=False, seed=seed, **options)
            found = grow.verify(source, grown, rungs=ONLY)
            assert found.verdict == "certified", f"{dtype} {split}: {found.checks[0].reason}"


# Every tensor


def reverse(t: Spot) -> None:
    t.raw[...] = t.raw.ravel()[::-1].reshape(t.raw.shape).copy()


def zero(t: Spot) -> None:
    t.raw[...] = 0


def two_ulp(t: Spot) -> None:
    """Away from zero: the bits of a float, read as an integer, are in the order of its size."""
    t.bits.ravel()[t.at] += 2


DAMAGES = (reverse, zero, two_ulp)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_tensor_is_found_and_only_that_tensor_is_named(pair, damage, request):
    """Two of the three for each tensor of a case; all three meet a tensor in the cases of its family."""
    turn = [*CASES].index(request.node.callspec.params["pair"]) + DAMAGES.index(damage)
    weights = Weights(pair)
    missed = {}
    for name in (name for k, name in enumerate(weights.header) if (turn + k) % 3):
        found = weights.damaged(name, damage)
        if len(found) != 1 or not found[0].startswith((f"{name}[", f"{name}: sha256 ")):
            missed[name] = found
    assert missed == {}
    assert certificate(pair).verdict == "certified"  # every repair was complete


@pytest.mark.parametrize("pair", sorted(set(CASES) - ROUNDED), indirect=True)
def test_two_ulp_anywhere_in_a_bit_exact_growth_breaks_the_equation_or_are_in_an_entry_that_nothing_reads(pair):
    """Which of the two is known from the maps alone, and the fault says it."""
    weights, wrong = Weights(pair), []
    for t in pair.plan.tensors:
        unseen = unread_entries(t)
        for kind in (True, False):
            where = np.flatnonzero(unseen == kind)
            if len(where):
                at = int(where[weights.draw.integers(len(where))])
                fault = weights.damaged(t.name, two_ulp, at)[0]
                if ("entries that no output reads" in fault) != kind:
                    wrong.append((t.name, at, kind, fault))
    assert wrong == []


def unread_entries(t) -> np.ndarray:
    """Where a tensor's value is free: producers of unread, consumers of silent and mean, gains of fresh coordinates.

    An entry that one fresh coordinate frees and another closes is closed: it must stay 0.
    """
    rows, cols = (*t.maps, None)[:2]
    roles = (*t.roles, "write")[:2]
    shape = (*t.new_shape, 1)[:2]
    free, closed = np.zeros(shape, bool), np.zeros(shape, bool)
    for axis, (m, role) in enumerate(zip((rows, cols), roles)):
        if m is None:
            continue
        opens = {"read": (SILENT, MEAN), "write": (UNREAD,), "gain": (SILENT, UNREAD, MEAN), "shift": ()}[role]
        closes = {"read": (UNREAD,), "write": (SILENT, MEAN), "gain": (), "shift": (SILENT, UNREAD, MEAN)}[role]
        for kinds, into in ((opens, free), (closes, closed)):
            at = np.isin(m.source, kinds)
            into |= at[:, None] if axis == 0 else at[None, :]
    return (free & ~closed).ravel()


def test_an_entry_that_nothing_reads_is_known_for_every_kind_of_map():
    # the helper above is checked on maps small enough to see
    class T(NamedTuple):
        maps: tuple[AxisMap | None, ...]
        roles: tuple[str, ...]
        new_shape: tuple[int, ...]

    fresh = {kind: axis_map(2, [0, 1, kind]) for kind in (SILENT, UNREAD, MEAN)}
    wrote = T((fresh[UNREAD], None), ("write", "read"), (3, 2))
    assert unread_entries(wrote).tolist() == [False] * 4 + [True] * 2
    read = T((None, fresh[UNREAD]), ("write", "read"), (2, 3))
    assert unread_entries(read).tolist() == [False] * 6
    both = T((fresh[UNREAD], fresh[SILENT]), ("write", "write"), (3, 3))
    assert unread_entries(both).tolist() == [False] * 6 + [True, True, False]


RULES = [
    # case, tensor, element, what the certificate calls it
    ("llama silent", "model.layers.0.input_layernorm.weight", (2,), "old gain × gain"),
    ("llama silent", "model.norm.weight", (2,), "shares of the head's norm sum to the old one"),
    ("llama silent", "model.embed_tokens.weight", (3, 2), "old weight × write"),
    ("llama silent", "model.embed_tokens.weight", (3, 30), "a silent coordinate is not written"),
    ("llama silent", "model.layers.1.self_attn.o_proj.weight", (30, 4), "a silent coordinate is not written"),
    ("llama silent", "model.layers.1.mlp.down_proj.weight", (3, 4), "the copies' shares sum to the old weight"),
    ("llama silent", "model.layers.1.mlp.down_proj.weight", (3, 25), "an unread coordinate has weight 0"),
    ("qwen3 head_dim", "model.layers.0.self_attn.k_norm.weight", (9,), "old gain × gain"),
    ("qwen3 head_dim", "model.layers.0.mlp.down_proj.weight", (3, 4), "E_out · W"),
    ("gpt2 ×2", "transformer.h.0.mlp.c_proj.weight", (25, 3), "an unread coordinate has weight 0"),
    ("gpt2 mean", "transformer.h.0.ln_1.bias", (2,), "copied"),
    ("gpt2 mean", "transformer.h.0.ln_1.bias", (30,), "a fresh coordinate has bias 0"),
    ("gpt2 mean", "transformer.ln_f.bias", (30,), "a fresh coordinate has bias 0"),
    ("gpt2 mean", "transformer.h.0.attn.c_proj.weight", (3, 30), "the mean of the row"),
    ("gpt_neox mean", "gpt_neox.layers.0.attention.dense.weight", (30, 3), "the copies' shares sum to the old weight"),
    ("opt mean", "model.decoder.layers.0.fc2.bias", (30,), "E_out · W"),
    ("bert ×2", "bert.encoder.layer.0.output.LayerNorm.bias", (30,), "copied"),
    ("bert ×2", "cls.predictions.bias", (3,), "E_out · W"),
]


@pytest.mark.parametrize(("case", "tensor", "at", "rule"), RULES)
def test_each_rule_names_the_element_that_breaks_it(case, tensor, at, rule, tmp_path):
    pair = make(CASES[case], tmp_path)
    tiny.edit_tensor(pair.grown, tensor, lambda raw: raw.__setitem__(at, raw[at] + 1))
    found = faults(pair)
    assert len(found) == 1
    assert found[0].startswith(f"{tensor}[")
    assert f": {rule}: found " in found[0]


@pytest.mark.parametrize("tensor", ["model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.mlp.down_proj.weight"])
def test_swapped_layers_are_both_named(copied, tensor):
    names = [tensor.format(i) for i in (0, 1)]
    tensors = tiny.read_tensors(copied.grown)
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    tiny.write_tensors(copied.grown, tensors)
    found = faults(copied)
    assert len(found) == 2
    assert all(any(fault.startswith(name) for fault in found) for name in names)


@pytest.mark.parametrize("name", ["llama ×2", "llama silent"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_breaks_the_equation(name, value, tmp_path):
    # in a rounded growth the tolerance is a share of the terms, and a share of Inf is Inf
    pair, tensor = make(CASES[name], tmp_path), "model.layers.1.mlp.up_proj.weight"

    def spoil(raw: np.ndarray) -> None:
        raw[3, 5] = value

    tiny.edit_tensor(pair.grown, tensor, spoil)
    assert faults(pair)[0].startswith(f"{tensor}[3, 5]")


def test_nan_on_both_sides_is_never_equal(copied):
    # rows 0 .. 23 of the grown table are those of the source
    for folder in (copied.source, copied.grown):
        tiny.edit_tensor(folder, "model.embed_tokens.weight", lambda raw: raw.__setitem__((0, 0), np.nan))
    assert faults(copied)[0].startswith("model.embed_tokens.weight[0, 0]")


# What surrounds the tensors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rms_norm_eps", 1e-6),
        ("hidden_act", "gelu"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 500000.0}),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 8),
        ("head_dim", 12),
        ("tie_word_embeddings", False),
        ("max_position_embeddings", 65),
        ("architectures", ["LlamaModel"]),
        ("model_type", "mistral"),
        ("dtype", "float16"),
        ("pad_token_id", 0),
        ("attention_bias", True),
        ("banana", 1),
    ],
)
def test_a_changed_config_field_is_named(copied, field, value):
    tiny.edit_json(copied.grown / "config.json", lambda config: config.update({field: value}))
    assert any(fault.startswith(f"config.json: {field}: found {value!r}, wanted ") for fault in faults(copied))


def test_a_field_that_changes_no_output_is_no_fault(copied):
    free = {"use_cache": False, "transformers_version": "9.9", "temperature": 0.5, "attention_bias": False}
    tiny.edit_json(copied.grown / "config.json", lambda config: config.update(free))
    assert certificate(copied).verdict == "certified"


def test_a_causal_mask_on_one_side_only_is_found(tmp_path):
    pair = make(CASES["bert ×2"], tmp_path)
    tiny.edit_json(pair.grown / "config.json", lambda config: config.update(is_decoder=True))
    assert faults(pair) == ["config.json: is_decoder: found True, wanted None"]


def test_the_older_name_of_dtype_is_the_same_field(tmp_path):
    pair = make(Case("llama", "hidden_size=36", {"dtype": "BF16"}), tmp_path)
    tiny.edit_json(pair.grown / "config.json", lambda config: config.update(torch_dtype=config.pop("dtype")))
    assert certificate(pair).verdict == "certified"


def test_a_missing_tensor_is_named(copied):
    tensors = tiny.read_tensors(copied.grown)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tiny.write_tensors(copied.grown, tensors)
    assert faults(copied) == ["model.layers.0.mlp.up_proj.weight: missing"]


def test_an_extra_tensor_is_named(copied):
    tensors = tiny.read_tensors(copied.grown)
    tensors["model.layers.0.mlp.up_proj.bias"] = tensors["model.norm.weight"]
    tiny.write_tensors(copied.grown, tensors)
    assert faults(copied) == ["model.layers.0.mlp.up_proj.bias: not written by grow"]


def test_a_tensor_of_another_shape_is_named_with_both_shapes(copied):
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = tiny.read_tensors(copied.grown)
    tensors[name].raw = tensors[name].raw.T.copy()
    tiny.write_tensors(copied.grown, tensors)
    assert faults(copied) == [f"{name}: has shape (48, 40), wanted (40, 48)"]


def test_a_tensor_of_another_dtype_is_named(copied):
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors = tiny.read_tensors(copied.grown)
    tensors[name] = tiny.Tensor("F16", tensors[name].raw.astype("<f2"))
    tiny.write_tensors(copied.grown, tensors)
    assert faults(copied)[0].startswith(name)
