"""Damaging any one tensor of a grown checkpoint makes `grow verify` exit 1 and name that tensor; nothing else does.

The certificate runs alone (no torch, milliseconds) on every tensor of every family; the whole ladder on three pairs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny

import grow
from grow.errors import BadInput, GrowError
from grow.notation.dtypes import RAW
from grow.notation.maps import MEAN, SILENT, UNREAD, AxisMap, axis_map
from grow.planning.plan import Plan
from grow.verification.result import LADDER, Verification

ONLY = ("certificate",)


class Case(NamedTuple):
    family: str
    to: str
    source: dict[str, Any] = {}
    options: dict[str, Any] = {}


EVERY_COPY = {"operators": {"ffn": "copies", "heads": "copies"}}
CASES = {
    "llama ×2": Case("llama", "2x"),
    "llama ×2 bfloat16": Case("llama", "2x", {"dtype": "BF16"}),
    "llama ×2 float16": Case("llama", "2x", {"dtype": "F16"}),
    "llama ×2 all copies": Case("llama", "2x", {}, EVERY_COPY),
    "llama ×3 even": Case("llama", "3x", {}, {"split": "even"}),
    "llama regrouped": Case("llama", "num_attention_heads=6,num_key_value_heads=6,hidden_size=48"),
    "llama silent": Case("llama", "hidden_size=36,intermediate_size=31"),
    "llama silent float64": Case("llama", "hidden_size=36,head_dim=8", {}, {"dtype": "float64"}),
    "llama silent as float16": Case("llama", "hidden_size=36", {}, {"dtype": "float16"}),
    "llama uneven copies": Case("llama", "hidden_size=36", {}, {"operators": {"hidden": "copies"}}),
    "llama untied": Case("llama", "2x", {"tie_word_embeddings": False}),
    "qwen3 ×2": Case("qwen3", "2x"),
    "qwen3 head_dim": Case("qwen3", "head_dim=14,hidden_size=40"),
    "gpt2 ×2": Case("gpt2", "2x"),
    "gpt2 mean": Case("gpt2", "n_embd=36"),
    "gpt2 mean as bfloat16": Case("gpt2", "n_embd=36", {}, {"dtype": "bfloat16"}),
    "gpt_neox ×2": Case("gpt_neox", "2x"),
    "gpt_neox mean": Case("gpt_neox", "hidden_size=36"),
    "opt ×2": Case("opt", "2x"),
    "opt mean": Case("opt", "hidden_size=36"),
    "bert ×2": Case("bert", "2x"),
    "bert ×3 all copies": Case("bert", "3x", {}, EVERY_COPY),
}
# Damage to a rounded tensor may hide in the rounding: its sha256 shows it all the same.
ROUNDED = {
    "llama ×3 even", "llama silent", "llama silent float64", "llama silent as float16", "llama uneven copies",
    "qwen3 head_dim", "gpt2 mean", "gpt2 mean as bfloat16", "gpt_neox mean", "opt mean",
}  # fmt: skip


class Pair(NamedTuple):
    source: Path
    grown: Path
    plan: Plan


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory) -> Pair:
    return make(CASES[request.param], tmp_path_factory.mktemp("pair"))


def make(case: Case, folder: Path) -> Pair:
    source = tiny.checkpoint(folder / "source", case.family, **case.source)
    growth = grow.widen(source, case.to, out=folder / "grown", verify=False, **case.options)
    return Pair(source, folder / "grown", growth.plan)


@pytest.fixture
def copied(tmp_path) -> Pair:
    """A llama pair of one's own, to be damaged."""
    return make(CASES["llama ×2"], tmp_path)


def certificate(pair: Pair) -> Verification:
    return grow.verify(pair.source, pair.grown, rungs=ONLY)


def faults(pair: Pair) -> list[str]:
    """What the certificate says; the pair must be called different, with exit code 1."""
    found = certificate(pair)
    assert (found.verdict, found.exit_code) == ("different", 1)
    return found.checks[0].measured["faults"]


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


class Spot(NamedTuple):
    raw: np.ndarray
    bits: np.ndarray
    at: int


class Weights:
    """The grown file in memory: one tensor is damaged, looked at and repaired, without writing the others."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.draw = pair, np.random.default_rng(0)
        self.header, self.start = tiny.read_header(pair.grown)

    def damaged(self, name: str, damage: Callable[[Spot], None], at: int | None = None) -> list[str]:
        """The certificate's faults with this one tensor damaged; [] when the damage changed no byte."""
        entry = self.header[name]
        low, high = (self.start + offset for offset in entry["data_offsets"])
        with open(self.pair.grown / tiny.WEIGHTS, "r+b") as file:
            file.seek(low)
            before = file.read(high - low)
            raw = np.frombuffer(before, dtype=RAW[entry["dtype"]]).reshape(entry["shape"]).copy()
            bits = raw.view(f"<u{raw.itemsize}")
            damage(Spot(raw, bits, int(self.draw.integers(raw.size)) if at is None else at))
            if raw.tobytes() == before:
                return []
            file.seek(low)
            file.write(raw.tobytes())
            file.flush()
            try:
                return faults(self.pair)
            finally:
                file.seek(low)
                file.write(before)


@pytest.mark.parametrize("damage", [reverse, zero, two_ulp])
def test_damage_to_any_tensor_is_found_and_only_that_tensor_is_named(pair, damage):
    weights = Weights(pair)
    missed = {}
    for name in weights.header:
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


# grow.json


def edit_record(pair: Pair, change: Callable[[dict], object]) -> None:
    tiny.edit_json(pair.grown / "grow.json", change)


def test_a_changed_hash_is_found_though_every_weight_is_right(copied):
    edit_record(copied, lambda r: r["tensors"].update({"model.norm.weight": "0" * 64}))
    assert faults(copied) == ["model.norm.weight: sha256 is not grow.json's: differs in entries that no output reads"]


def test_a_hash_that_is_gone_is_found(copied):
    edit_record(copied, lambda r: r["tensors"].pop("model.norm.weight"))
    assert faults(copied)[0].startswith("model.norm.weight: sha256 ")


def move(space: str, run: int, part: int, value: float) -> Callable[[dict], object]:
    return lambda r: r["plan"]["maps"][space]["runs"][run].__setitem__(part, value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (move("hidden", 1, 1, 1), "is no record"),  # a run that points past the axis
        (move("hidden", 0, 2, 2.0), "the law fails on hidden by"),
        (move("hidden", 0, 3, 0.25), "the law fails on hidden by"),
        (move("hidden", 0, 4, 0.5), "the law fails on hidden by"),
        (lambda r: r["plan"]["maps"]["hidden"].update(runs=[[48, -2, 1.0, 0.0, 1.0]]), "the law fails on hidden by 1"),
        (lambda r: r["plan"]["maps"].pop("hidden"), "the map of hidden does not reach the size"),
        (lambda r: r["plan"]["maps"]["ffn"]["runs"].reverse(), "gate_proj.weight"),
        (lambda r: r["plan"]["config_changes"].update(rms_norm_eps=1.0), "rms_norm_eps: no growth changes it"),
        (lambda r: r["plan"]["new_sizes"].update(vocab=31), "config.json: vocab is 29, grow.json says 31"),
    ],
)
def test_a_record_that_tells_of_another_growth_is_found(copied, change, fault):
    edit_record(copied, change)
    if fault == "is no record":
        with pytest.raises(BadInput, match=fault):
            certificate(copied)
    else:
        assert fault in " ".join(faults(copied))


def test_head_count_changed_in_record_and_config_alike_is_found(copied):
    # every shape fits: only the sizes that grow.json gives tell
    edit_record(copied, lambda r: r["plan"]["config_changes"].update(num_attention_heads=16, head_dim=3))
    tiny.edit_json(copied.grown / "config.json", lambda c: c.update(num_attention_heads=16, head_dim=3))
    assert faults(copied) == [
        "grow.json: config_changes: head_dim: no growth changes it",
        "grow.json: config_changes: num_attention_heads: found 16, wanted 8",
        "config.json: head_dim: found 3, wanted 6",
        "config.json: num_attention_heads: found 16, wanted 8",
        "config.json: head_dim is 3, grow.json says 6",
        "config.json: heads is 16, grow.json says 8",
    ]


MALFORMED = {
    "schema": lambda r: r.update(schema=2),
    "no schema": lambda r: r.pop("schema"),
    "no plan": lambda r: r.pop("plan"),
    "maps a list": lambda r: r["plan"].update(maps=[]),
    "map without runs": lambda r: r["plan"]["maps"]["hidden"].pop("runs"),
    "an unknown space": lambda r: r["plan"]["maps"].update(banana=r["plan"]["maps"]["hidden"]),
    "another n": lambda r: r["plan"]["maps"]["hidden"].update(n=23),
    "runs too short": lambda r: r["plan"]["maps"]["hidden"]["runs"].pop(),
    "a run of length 0": lambda r: r["plan"]["maps"]["hidden"]["runs"].append([0, 0, 1, 1, 1]),
    "a run of length -1": move("hidden", 0, 0, -1),
    "a run of 10^12": move("hidden", 0, 0, 10**12),
    "an axis of 10^12": lambda r: (
        move("hidden", 0, 0, 10**12 - 24)(r), r["plan"]["new_sizes"].update(hidden=10**12)
    ),
    "a source of 10^30": move("hidden", 0, 1, 10**30),
    "an unknown kind": move("hidden", 0, 1, -7),
    "a text for a number": move("hidden", 0, 2, "1"),
    "a run of two": lambda r: r["plan"]["maps"]["hidden"]["runs"].__setitem__(0, [24, 0]),
    "new_sizes without ffn": lambda r: r["plan"]["new_sizes"].pop("ffn"),
    "sizes empty": lambda r: r["plan"].update(sizes={}, new_sizes={}),
    "a negative seed": lambda r: r["plan"].update(seed=-1),
    "an unknown split": lambda r: r["plan"].update(split="banana"),
    "tensors a list": lambda r: r.update(tensors=[]),
    "config_changes a number": lambda r: r["plan"].update(config_changes=3),
    "an unknown family": lambda r: r["source"].update(model_type="banana"),
    "another family": lambda r: r["source"].update(model_type="gpt2"),
    "other sizes": lambda r: r["plan"]["sizes"].update(vocab=30),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_bad_input(copied, name):
    edit_record(copied, MALFORMED[name])
    with pytest.raises(GrowError) as error:
        certificate(copied)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"schema": NaN}', '{"a": 1, "a": 2}', "[" * 5000, "\xff"]
)
def test_a_record_that_is_no_json_object_is_bad_input(copied, text):
    (copied.grown / "grow.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"grow\.json"):
        certificate(copied)


# The wrong pair


def test_a_source_of_other_sizes_is_bad_input(copied, tmp_path):
    other = tiny.checkpoint(tmp_path / "other", "llama", vocab_size=31)
    with pytest.raises(BadInput, match="is not the checkpoint that") as error:
        grow.verify(other, copied.grown, rungs=ONLY)
    assert error.value.exit_code == 2


def test_a_source_of_the_same_sizes_and_other_weights_is_different(copied, tmp_path):
    other = tiny.checkpoint(tmp_path / "other", "llama", seed=1)
    found = grow.verify(other, copied.grown, rungs=ONLY)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.checks[0].measured["faulty"] == len(copied.plan.tensors)


def test_swapped_arguments_are_told_so(copied):
    with pytest.raises(BadInput) as error:
        grow.verify(copied.grown, copied.source, rungs=ONLY)
    assert error.value.fix == "grow verify SOURCE GROWN, in this order"
    assert error.value.exit_code == 2


def test_a_grown_source_of_another_growth_is_not_taken_for_swapped(copied, tmp_path):
    again = grow.widen(copied.grown, "2x", out=tmp_path / "again", verify=False).path
    (again / "grow.json").unlink()
    assert grow.verify(copied.grown, again, rungs=ONLY).verdict == "unproved"


def test_a_checkpoint_is_not_proved_by_a_certificate_that_could_not_run(copied):
    (copied.grown / "grow.json").unlink()
    found = certificate(copied)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert found.notes == ("no grow.json in the grown checkpoint: no certificate, the outputs decide",)


def test_a_pipe_as_grow_json_does_not_hang(copied):
    import os

    (copied.grown / "grow.json").unlink()
    os.mkfifo(copied.grown / "grow.json")
    with pytest.raises(BadInput, match="no regular file"):
        certificate(copied)


# The command


def test_the_command_exits_0_1_and_2_and_names_the_tensor(copied, capsys, monkeypatch):
    line = ("verify", copied.source, copied.grown, "--rung", "certificate")
    code, out, _ = tiny.command(monkeypatch, capsys, *line)
    assert (code, out.splitlines()[-1]) == (
        0,
        f"certified: {copied.grown}: its weights follow the table from those of {copied.source}; whether it "
        "computes the same was not run",
    )  # fmt: skip
    names = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    for name in names:
        tiny.edit_tensor(copied.grown, name, lambda raw: raw.__imul__(2))
    code, out, _ = tiny.command(monkeypatch, capsys, *line)
    assert code == 1
    assert all(name in out for name in names)
    assert out.splitlines()[-1].startswith(
        f"different: {copied.grown} is not the growth of {copied.source} that grow.json records (certificate: "
    )
    code, out, _ = tiny.command(monkeypatch, capsys, *line, "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "different")
    code, out, err = tiny.command(monkeypatch, capsys, "verify", copied.source, copied.source / "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_more_faults_than_lines_are_counted(copied, tmp_path, capsys, monkeypatch):
    pair = make(Case("bert", "2x"), tmp_path / "bert")
    other = tiny.checkpoint(tmp_path / "other", "bert", seed=1)
    _, out, _ = tiny.command(monkeypatch, capsys, "verify", other, pair.grown, "--rung", "certificate")
    assert f"and {len(pair.plan.tensors) - 20} more tensors" in out


# The whole ladder


@pytest.fixture(scope="module", params=["llama ×2", "gpt2 mean", "bert ×2"])
def whole(request, tmp_path_factory) -> Pair:
    pytest.importorskip("torch")
    return make(CASES[request.param], tmp_path_factory.mktemp("whole"))


def test_every_rung_passes_on_an_undamaged_pair(whole):
    found = grow.verify(whole.source, whole.grown)
    status = {rung.name: rung.status for rung in found.checks}
    assert (found.verdict, found.exit_code) == ("lossless", 0), found.checks
    skipped = {"tokenizer"} | ({"sampling"} if whole.plan.rounded else set())
    if whole.plan.family.model_type == "bert":
        skipped |= {"cached_decoding", "generation_config", "generation", "sampling"}
    assert {name: s for name, s in status.items() if s != "pass"} == dict.fromkeys(skipped, "skip")
    assert set(found.rungs) == set(LADDER)
    assert ("proof" in status) == bool(whole.plan.rounded)


def test_outputs_and_certificate_both_find_a_damaged_tensor(whole):
    weights = Weights(whole)
    name = next(
        n for n in weights.header if n.endswith(("down_proj.weight", "mlp.c_proj.weight", "output.dense.weight"))
    )
    before = (whole.grown / tiny.WEIGHTS).read_bytes()
    tiny.edit_tensor(whole.grown, name, lambda raw: raw.__setitem__(..., raw[::-1].copy()))
    found = grow.verify(whole.source, whole.grown, rungs=("certificate", "true_float64", "runtime_dtype"))
    (whole.grown / tiny.WEIGHTS).write_bytes(before)
    assert (found.verdict, found.exit_code) == ("different", 1)
    status = {check.name: check.status for check in found.checks}
    assert status.pop("proof", "pass") == "pass"  # the growth repeated, which nobody has damaged
    assert status == dict.fromkeys(("certificate", "true_float64", "runtime_dtype"), "fail")
    assert found.checks[0].reason.startswith(f"{name}[")


def test_without_a_record_the_outputs_decide(tmp_path):
    pair = make(CASES["llama ×2"], tmp_path)
    (pair.grown / "grow.json").unlink()
    found = grow.verify(pair.source, pair.grown, rungs=("certificate", "true_float64"))
    assert [rung.status for rung in found.checks] == ["skip", "pass"]
    assert (found.verdict, found.exit_code) == ("lossless", 0)
    damaged = shutil.copytree(pair.grown, tmp_path / "damaged")
    tiny.edit_tensor(
        damaged, "model.layers.0.mlp.down_proj.weight", lambda raw: raw.__setitem__((5, 7), raw[5, 7] * 1.01)
    )
    found = grow.verify(pair.source, damaged, rungs=("certificate", "true_float64"))
    assert (found.verdict, found.exit_code) == ("different", 1)


def test_rounded_weights_without_a_record_are_not_called_proved(tmp_path):
    """Whether a rounding was meant cannot be told from the outputs: neither lossless nor different."""
    pair = make(CASES["llama silent"], tmp_path)
    (pair.grown / "grow.json").unlink()
    found = grow.verify(pair.source, pair.grown, rungs=("true_float64",))
    assert found.checks[0].status == "pass"
    assert 1e-12 < found.checks[0].measured["relative"] < 1e-5
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert "rounding" in found.notes[-1]
