"""Nothing that is broken passes: a damaged tensor of every row of every family, swapped layers, a changed field, token
or dtype is found and named, with `grow.json` and without it.

What no output can see is listed in `INVISIBLE` with the reason, and nothing else may go unseen.
"""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import models
import numpy as np
import pytest
import tiny
import torch

import grow
from grow.errors import GrowError
from grow.families import FAMILIES, config_values
from grow.families.architecture import Architecture
from grow.notation.axes import GAIN, READ, SHIFT, WRITE
from grow.notation.maps import MEAN
from grow.notation.numbers import narrow, widen
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan
from grow.verification.result import Verification
from grow.zoo import bundled_path

CERTIFICATE = ("certificate",)
BOTH = ("certificate", "true_float64")
WITH_HEAD = {models.VARIANTS[variant].model_type: variant for variant in models.ONE_EACH}
Raw = np.ndarray
Change = Callable[[Raw], object]


class Pair(NamedTuple):
    source: Path
    grown: Path
    plan: Plan | None = None


@pytest.fixture(autouse=True)
def _old_objects_are_not_walked_again():
    """Closing a pair of models collects garbage, which takes 0.2 s when it walks all that torch made at import."""
    gc.collect()
    gc.freeze()


@contextmanager
def damaged(folder: Path, changes: Mapping[str, Change]) -> Iterator[None]:
    """Inside, tensors of the folder are changed; afterwards the file is what it was."""
    before, tensors = (folder / tiny.WEIGHTS).read_bytes(), tiny.read_tensors(folder)
    for name, change in changes.items():
        change(tensors[name].raw)
    tiny.write_tensors(folder, tensors)
    try:
        yield
    finally:
        (folder / tiny.WEIGHTS).write_bytes(before)


def reversed_(raw: Raw) -> None:
    raw[...] = raw.ravel()[::-1].reshape(raw.shape).copy()


def zeroed(raw: Raw) -> None:
    raw[...] = 0


def two_ulp_at(place: tuple[int, ...]) -> Change:
    """Away from zero: the bits of a float, read as an integer, are in the order of its size."""

    def two_ulp(raw: Raw) -> None:
        raw.view("<u4")[place] += 2

    return two_ulp


def copy(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.parent / name))


def forget(grown: Path) -> Path:
    """A grown checkpoint about which nobody says how it was grown."""
    (grown / "grow.json").unlink()
    return grown


# With grow.json: the certificate alone, on every row of every table


FLAGS = {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}


class Table(NamedTuple):
    """A config, and of the tensors that it has those that stand for rows of the table: one layer of each."""

    config: dict[str, Any]
    tensors: tuple[str, ...]


def tables(family: str) -> Iterator[tuple[str, Table]]:
    """Configs that together have every row of a family, each with the rows that it adds; then the tied head."""
    facts, seen = FAMILIES[family], set()
    fields = {"model_type": family, "dtype": "float32", **models.VARIANTS[WITH_HEAD[family]].fields}
    untied = {name: value for name, value in FLAGS.items() if name in facts.defaults}
    if facts.experts and facts.experts.only:
        fields[facts.experts.only] = [0]  # a dense layer beside one with experts
    for suffix in dict.fromkeys(w for row in facts.rows for part in row.when.split() for w in part.split("|")):
        for embed in ({}, {"word_embed_proj_dim": 10}) if "embed" in facts.axes else ({},):
            config = {**fields, **untied, **embed, "architectures": [f"Stock{suffix}"]}
            # of every row the tensor of the last layer, and expert, that has it
            last = {(row.name, row.when): name for name, row in Architecture(facts, config).tensors.items()}
            rows = {name: key for key, name in last.items()}
            new = tuple(name for name, key in rows.items() if key not in seen)
            if suffix[0].isupper() and new:
                seen.update(rows.values())
                yield f"{family} {suffix}{' projected' * bool(embed)}", Table(config, new)
    head = next(word for word in facts.tie.when.split() if word[0].isupper()).split("|")[0]
    tied = {**fields, "tie_word_embeddings": True, "architectures": [f"Stock{head}"]}
    yield f"{family} tied", Table(tied, (facts.tie.table, *facts.tie.norms))


@pytest.fixture(autouse=True, scope="module")
def any_class():
    """Here a table has a class for each of its conditions, whether or not stock code has one of that name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_values, "_architectures", lambda *_: iter(()))
        yield


TABLES = dict(item for family in FAMILIES for item in tables(family))
GROWTHS = ("2x", "rounded")
DAMAGES = ("reversed", "2 ulp", "zeroed")


def biases(name: str) -> list[str]:
    """The tensors of a table that are added to something."""
    rows = Architecture(FAMILIES[TABLES[name].config["model_type"]], TABLES[name].config).tensors
    dims = {tensor: rows[tensor].signature.dims for tensor in TABLES[name].tensors}
    return [tensor for tensor, (dim, *more) in dims.items() if not more and dim.role in (WRITE, SHIFT)]


CERTIFIED = [
    (name, growth, tensor, damage)
    for name, table in TABLES.items()
    for growth in GROWTHS
    for damage in DAMAGES
    for tensor in (biases(name) if damage == "zeroed" else table.tensors)
    if growth == "2x" or damage != "zeroed"
]


def target(name: str, growth: str) -> Any:
    """What a table grows to: twice everything, or a size at which weights are rounded."""
    if growth == "2x":
        return "2x"
    config = TABLES[name].config
    facts = FAMILIES[config["model_type"]]
    old = Architecture(facts, config).sizes
    if facts.norm.writes_stream == "always":  # whole multiples only; a head twice as wide scales its scores by √2
        return {"hidden": 2 * old["hidden"]}
    if facts.derived_head_dim:
        return {"hidden": old["hidden"] + 2 * old["head_dim"], "heads": old["heads"] + 2}
    if facts.attention.whole_norm:
        return {"head_dim": old["head_dim"] + 2}
    return {"hidden": old["hidden"] + old["heads"]}


def from_table(name: str, folder: Path) -> Path:
    """A checkpoint with all the tensors that a table's config allows, N(0, 1): the certificate runs no model."""
    config = TABLES[name].config
    facts = FAMILIES[config["model_type"]]
    sizes, draw = {**Architecture(facts, config).sizes, "labels": 3}, np.random.default_rng(0)
    shapes = {tensor: row.signature.shape(sizes) for tensor, row in Architecture(facts, config).tensors.items()}
    folder.mkdir(parents=True)
    tiny.write_json(folder / "config.json", config)
    tensors = {n: tiny.Tensor("F32", narrow(draw.standard_normal(shape), "F32")) for n, shape in shapes.items()}
    tiny.write_tensors(folder, tensors)
    return folder


def grow_table(name: str, growth: str, folder: Path) -> Pair:
    source = from_table(name, folder / "source")
    grown = folder / "grown"
    return Pair(source, grown, grow.widen(source, target(name, growth), out=grown, verify=False).plan)


def last_copied(t: TensorPlan) -> tuple[int, ...]:
    """The last place of a grown tensor that comes from the old one."""
    return tuple(n - 1 if m is None else int(np.flatnonzero(m.source >= 0)[-1]) for m, n in zip(t.maps, t.new_shape))


def both_sides(t: TensorPlan, old: Raw, new: Raw) -> tuple[Raw, Raw]:
    """What W̃·E_in = E_out·W says at every place of the grown tensor: (found, wanted), by dense products.

    Along an axis that is read, or shared in front of a tied head, copies are summed, and the sum stands at each.
    """
    found, wanted = new.astype(np.float64), old.astype(np.float64)
    for axis, (m, role) in enumerate(zip(t.maps, t.roles)):
        if m is None:
            continue
        found, wanted = np.moveaxis(found, axis, -1), np.moveaxis(wanted, axis, -1)
        copied = m.source >= 0
        spread = np.zeros((*wanted.shape[:-1], m.m))
        spread[..., copied] = wanted[..., m.source[copied]]
        if role == READ or t.tied:
            factor = {GAIN: m.write**2, SHIFT: m.write}.get(role, m.gain * m.write)
            embedding = np.zeros((m.m, m.n))
            embedding[copied, m.source[copied]] = factor[copied]
            found = np.where(copied, (found @ embedding)[..., np.maximum(m.source, 0)], found)
        else:
            spread[..., m.source == MEAN] = wanted.mean(-1, keepdims=True)
            spread *= {GAIN: m.gain, SHIFT: np.ones(m.m)}.get(role, m.write)
        found, wanted = np.moveaxis(found, -1, axis), np.moveaxis(spread, -1, axis)
    return found, wanted


def certify(pair: Pair, tensor: str, damage: str) -> tuple[Verification | None, tuple[float, float]]:
    """The certificate of the pair with one tensor damaged (None where that changes nothing), and what the equation says
    at the damaged place: found and wanted."""
    t = next(t for t in pair.plan.tensors if t.name == tensor)
    place = last_copied(t) if damage == "2 ulp" else (0,) * len(t.new_shape)
    change = {"2 ulp": two_ulp_at(place), "reversed": reversed_, "zeroed": zeroed}[damage]
    old, before = tiny.read_tensors(pair.source)[t.source].raw, tiny.read_tensors(pair.grown)[tensor].raw
    with damaged(pair.grown, {tensor: change}):
        after = tiny.read_tensors(pair.grown)[tensor].raw
        if after.tobytes() == before.tobytes():
            return None, (0.0, 0.0)
        found, wanted = both_sides(t, old, after)
        return grow.verify(pair.source, pair.grown, rungs=CERTIFICATE), (found[place], wanted[place])


def test_the_tables_below_have_every_row_of_every_family():
    for family, facts in FAMILIES.items():
        rows = {(row.name, row.when) for row in facts.rows}
        seen = set()
        for table in (table for name, table in TABLES.items() if name.split()[0] == family):
            found = Architecture(facts, table.config).tensors
            seen |= {(found[tensor].name, found[tensor].when) for tensor in table.tensors}
        # a second name of a tied bias, which stock classes no longer write: tests/test_layouts.py stores it alone
        twins = facts.tie.biases[1:] if facts.tie else ()
        assert rows - seen <= {(name, when) for name, when in rows if name in twins and when.endswith("optional")}
        assert seen <= rows


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("name", TABLES)
def test_the_certificate_names_a_damaged_tensor_of_every_row_with_both_numbers(name, growth, tmp_path):
    pair = grow_table(name, growth, tmp_path)
    assert pair.plan.storage == ("bit-exact" if growth == "2x" else "rounded")
    assert grow.verify(pair.source, pair.grown, rungs=CERTIFICATE).verdict == "certified"
    wrong = {}
    for _, _, tensor, damage in (fault for fault in CERTIFIED if fault[:2] == (name, growth)):
        found, sides = certify(pair, tensor, damage)
        if found is None or (found.verdict, found.exit_code) != ("different", 1):
            wrong[tensor, damage] = found and found.verdict
        elif found.first["tensor"] != tensor:
            wrong[tensor, damage] = found.first
        elif growth == "rounded" and damage == "2 ulp" and found.first["index"] is None:
            # less than the rounding of a sum: the equation cannot tell, the hash does
            if not found.first["rule"].startswith("sha256 is not grow.json's"):
                wrong[tensor, damage] = found.first
        elif not np.allclose((found.first["found"], found.first["wanted"]), sides, rtol=1e-12, atol=0):
            wrong[tensor, damage] = found.first, sides
    assert wrong == {}
    assert grow.verify(pair.source, pair.grown, rungs=CERTIFICATE).verdict == "certified"  # every repair was complete


@pytest.mark.parametrize("family", FAMILIES)
def test_the_certificate_points_at_the_place_or_at_another_copy_of_it(family, tmp_path):
    name = next(iter(name for name in TABLES if name.split()[0] == family))
    pair, wrong = grow_table(name, "2x", tmp_path), {}
    for t in (t for t in pair.plan.tensors if t.name in TABLES[name].tensors):
        found, place = certify(pair, t.name, "2 ulp")[0].first["index"], last_copied(t)
        for m, role, i, j in zip(t.maps, t.roles, found, place):
            same = i == j if m is None or role in (WRITE, GAIN, SHIFT) else m.source[i] == m.source[j]
            if not same:
                wrong[t.name] = found, place
    assert wrong == {}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[..., Path]:
    """`made("gpt2", "float64")`: a stock checkpoint whose parameters are all random; with `to`, what grows from it.

    Made once, and not to be changed.
    """
    found: dict[tuple, Path] = {}

    def get(variant: str, dtype: str = "float64", to: str = "") -> Path:
        if (variant, dtype, to) not in found:
            folder = tmp_path_factory.mktemp("made") / variant
            if to:
                grow.widen(get(variant, dtype), to, out=folder, verify=False)
            else:
                models.save(variant, folder, dtype)
            found[variant, dtype, to] = folder
        return found[variant, dtype, to]

    return get


def swap_layers(folder: Path) -> list[str]:
    """The names of all tensors of layer 0, after each has changed place with that of the next layer of its kind."""
    tensors = tiny.read_tensors(folder)
    layer = re.compile(r"^(\D*)\.0\.")  # the first index; experts have a second one
    names = [name for name in tensors if layer.match(name)]
    twin = next(k for k in (1, 2) if all(layer.sub(rf"\1.{k}.", name) in tensors for name in names))
    for name in names:
        other = layer.sub(rf"\1.{twin}.", name)
        tensors[name], tensors[other] = tensors[other], tensors[name]
    tiny.write_tensors(folder, tensors)
    return names


SWAPPED = [(variant, way) for variant in models.ONE_EACH for way in ("grow.json", "same shapes", "outputs alone")]


@pytest.mark.parametrize(("variant", "way"), SWAPPED)
def test_swapped_layers_are_found(variant, way, made, tmp_path):
    source = made(variant)
    folder = Path(shutil.copytree(source if way == "same shapes" else made(variant, to="2x"), tmp_path / "swapped"))
    names = swap_layers(folder)
    if way == "outputs alone":
        forget(folder)
    found = grow.verify(source, folder, rungs=CERTIFICATE if way == "grow.json" else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert ".0." in found.first["module"]
    if way != "outputs alone":
        assert found.first["tensor"] in names
        assert found.checks[0].measured["faulty"] == 2 * len(names)


ROPE = {"rope_type": "default", "rope_theta": 20000.0}
DECODER = {"rms_norm_eps": 0.06, "hidden_act": "gelu", "rope_parameters": ROPE}
ENCODER = {"layer_norm_eps": 0.06, "hidden_act": "relu", "is_decoder": True}
FIELDS: dict[str, dict[str, Any]] = {
    "llama": {**DECODER, "attention_bias": True},
    "mistral": {**DECODER, "sliding_window": 8},
    "qwen2": DECODER,
    "qwen2-window": {"sliding_window": 6, "layer_types": ["sliding_attention"] * 2},
    "qwen3": DECODER,
    "gpt2": {
        "layer_norm_epsilon": 0.06,
        "activation_function": "relu",
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "gpt_neox": {"layer_norm_eps": 0.06, "hidden_act": "relu", "use_parallel_residual": False},
    "gpt_neox-full": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
    "opt": {
        "activation_function": "gelu",
        "do_layer_norm_before": False,
        "enable_bias": False,
        "_remove_final_layer_norm": True,
    },
    "bert-mlm": ENCODER,
    "roberta-mlm": {**ENCODER, "pad_token_id": 3},
    "distilbert-mlm": {"activation": "relu"},
}
CONFIGURED = [(variant, field, way) for variant in FIELDS for field in FIELDS[variant] for way in ("2x", "")]


@pytest.mark.parametrize(("variant", "field", "to"), CONFIGURED)
def test_a_changed_field_is_named(variant, field, to, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, to=to), tmp_path / "changed"))
    tiny.edit_json(folder / "config.json", lambda config: config.update({field: FIELDS[variant][field]}))
    found = grow.verify(made(variant), folder, rungs=CERTIFICATE if to else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert (found.first["field"], found.first["found"]) == (field, FIELDS[variant][field])


TIED = {variant: not models.VARIANTS[variant].fields.get("tie_word_embeddings") for variant in ("llama", "llama-tied")}


@pytest.mark.parametrize("variant", TIED)
def test_with_grow_json_a_changed_tie_is_named(variant, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, to="2x"), tmp_path / "changed"))
    tiny.edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=TIED[variant]))
    found = grow.verify(made(variant), folder, rungs=CERTIFICATE)
    assert (found.verdict, found.first["field"]) == ("different", "tie_word_embeddings")


@pytest.mark.parametrize("variant", TIED)
def test_without_grow_json_a_changed_tie_is_no_identical_config(variant, made, tmp_path):
    folder = Path(shutil.copytree(made(variant), tmp_path / "changed"))
    tiny.edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=TIED[variant]))
    found = grow.verify(made(variant), folder, rungs=CERTIFICATE)
    assert found.verdict != "lossless"  # without its head the tied one does not even load
    assert "tie_word_embeddings" in found.checks[0].reason


# Without grow.json: the outputs decide


SOFTMAX = "adds one number to all scores of a query, which softmax does not see"
INVISIBLE = {
    ("opt", "model.decoder.layers.1.self_attn.k_proj.bias"): SOFTMAX,
    ("bert-mlm", "bert.encoder.layer.1.attention.self.key.bias"): SOFTMAX,
    ("roberta-mlm", "roberta.encoder.layer.1.attention.self.key.bias"): SOFTMAX,
    ("distilbert-mlm", "distilbert.transformer.layer.1.attention.k_lin.bias"): SOFTMAX,
}
"""With RoPE the score q·R(b) depends on the distance, so a key bias of those families is visible."""

STORED_IN = {
    "llama-biases": "float64", "mistral": "float32", "qwen2": "float64", "qwen3-biases": "float64", "gpt2": "float64",
    "gpt_neox": "float64", "opt": "float32", "bert-mlm": "float64", "roberta-mlm": "float64",
    "distilbert-mlm": "float64",
}  # fmt: skip


def stored_names(variant: str) -> list[str]:
    """The tensors of a stock checkpoint that stand for the rows of its table, without making it."""
    kind, _, fields, _ = models.VARIANTS[variant]
    facts = FAMILIES[kind]
    suffix = next(s for s in ("ForMaskedLM", "LMHeadModel", "ForCausalLM") if s in facts.tie.when)
    config = {**fields, "architectures": [f"Stock{suffix}"]}
    last = str(Architecture(facts, config).sizes["layers"] - 1)
    rows = Architecture(facts, config).tensors
    return [n for n, row in rows.items() if not row.optional and n == row.name.replace("{layers}", last)]


# Modules that show a tensor's damage in its place: stock code names or calls them otherwise.
ELSEWHERE = {
    "embed_out.weight": "lm_head",
    "cls.predictions.bias": "cls.predictions.decoder",
    "lm_head.bias": "lm_head.decoder",
}
# A norm of heads gives an output per head, and there are more heads: the damage shows where they are read.
READERS = {"self_attn.q_norm.weight": "self_attn.o_proj", "self_attn.k_norm.weight": "self_attn.o_proj"}
ROWS = [(variant, tensor) for variant in STORED_IN for tensor in stored_names(variant)]


def home(tensor: str) -> str:
    """The module that computes with a tensor."""
    return ELSEWHERE.get(tensor, tensor.rpartition(".")[0])


def readers(tensor: str) -> str:
    return next((module for end, module in READERS.items() if tensor.endswith(end)), home(tensor))


@pytest.fixture(scope="module")
def spare(made, tmp_path_factory) -> Callable[..., Path]:
    """A copy of a checkpoint, to be damaged and repaired; of a grown one without its grow.json."""
    found: dict[tuple, Path] = {}

    def get(variant: str, to: str = "") -> Path:
        if (variant, to) not in found:
            folder = tmp_path_factory.mktemp("spare") / variant
            found[variant, to] = Path(shutil.copytree(made(variant, STORED_IN[variant], to), folder))
            if to:
                forget(found[variant, to])
        return found[variant, to]

    return get


@pytest.mark.parametrize(("variant", "tensor"), ROWS)
def test_in_a_copy_of_the_source_every_row_is_seen_and_named_or_has_a_reason(variant, tensor, made, spare):
    source, folder = made(variant, STORED_IN[variant]), spare(variant)
    with damaged(folder, {tensor: reversed_}):
        found = grow.verify(source, folder, rungs=BOTH)
    if (variant, tensor) in INVISIBLE:
        assert (found.verdict, found.exit_code) == ("lossless", 0)
        assert any(note.startswith(f"{tensor}[0] and") and INVISIBLE[variant, tensor] in note for note in found.notes)
        return
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert {check.name: check.status for check in found.checks} == {"certificate": "skip", "true_float64": "fail"}
    assert found.first["tensor"] == tensor
    assert found.first["module"].endswith(home(tensor))


@pytest.mark.parametrize(("variant", "tensor"), ROWS)
def test_in_a_growth_without_grow_json_every_row_is_seen_and_named(variant, tensor, made, spare):
    source, folder = made(variant, STORED_IN[variant]), spare(variant, "2x")
    with damaged(folder, {tensor: reversed_}):
        found = grow.verify(source, folder, rungs=BOTH)
    if (variant, tensor) in INVISIBLE:
        assert (found.verdict, found.exit_code) == ("lossless", 0)
        return
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["tensor"] == tensor  # all the others say what its numbers should be
    assert found.first["module"].endswith((home(tensor), readers(tensor)))
    assert "as in most other tensors" in found.first["rule"]


@pytest.mark.parametrize("tensor", ["cls.seq_relationship.weight", "bert.pooler.dense.bias"])
def test_a_tensor_that_the_class_leaves_out_is_told_of_and_no_difference(tensor, made, tmp_path):
    source = Path(shutil.copytree(made("bert-pretraining"), tmp_path / "source"))
    tiny.edit_json(source / "config.json", lambda config: config.update(architectures=["BertForMaskedLM"]))
    folder = copy(source, "damaged")
    tiny.edit_tensor(folder, tensor, reversed_)
    found = grow.verify(source, folder, rungs=BOTH)
    assert found.verdict in ("lossless", "unproved")
    assert any(note.startswith(f"{tensor}[") for note in found.notes)


def test_every_invisible_row_is_among_the_rows_that_are_tried():
    assert set(INVISIBLE) <= set(ROWS)


def test_the_key_part_of_a_fused_bias_is_told(made, tmp_path):
    source = made("gpt2")
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    tiny.edit_tensor(folder, "transformer.h.1.attn.c_attn.bias", lambda raw: reversed_(raw[12:24]))
    found = grow.verify(source, folder, rungs=BOTH)
    assert any(note.startswith("transformer.h.1.attn.c_attn.bias[12] and 11 more") for note in found.notes)


def test_a_unit_that_no_probe_switches_on_proves_nothing(made, tmp_path):
    folder = Path(shutil.copytree(made("opt"), tmp_path / "source"))
    tiny.edit_tensor(folder, "model.decoder.layers.1.fc1.bias", lambda raw: raw.__setitem__(3, -300))
    other = copy(folder, "damaged")
    tiny.edit_tensor(other, "model.decoder.layers.1.fc1.weight", lambda raw: reversed_(raw[3]))
    found = grow.verify(folder, other, rungs=BOTH)
    assert found.verdict == "unproved"
    assert any(note.startswith("model.decoder.layers.1.fc1.weight[3, 0]") for note in found.notes)


@pytest.mark.parametrize(
    ("variant", "to", "tensor"),
    [
        ("llama", "2x", "model.layers.1.mlp.down_proj.weight"),
        ("llama", "hidden=24", "lm_head.weight"),
        ("gpt2", "hidden=20,heads=5", "transformer.h.1.attn.c_attn.weight"),
        ("gpt_neox", "2x", "embed_out.weight"),
        ("opt-post", "2x", "model.decoder.embed_tokens.weight"),
        ("bert-mlm", "2x", "bert.encoder.layer.1.output.dense.weight"),
        ("distilbert-mlm", "2x", "distilbert.transformer.layer.1.ffn.lin2.bias"),
    ],
)
def test_with_grow_json_the_models_part_at_the_damaged_module(variant, to, tensor, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, to=to), tmp_path / "damaged"))
    tiny.edit_tensor(folder, tensor, reversed_)
    found = grow.verify(made(variant), folder, rungs=BOTH)
    assert (found.verdict, found.first["tensor"]) == ("different", tensor)
    assert found.first["module"].endswith(home(tensor))


# Layers that were inserted, and tables that became longer


class Deep(NamedTuple):
    """A growth of depth and vocabulary, and a tensor of each kind that the inserted layer 1 and the kept ones have."""

    variant: str
    zero: str
    kept: str
    swap: tuple[str, str]
    table: str


DEEP = {
    "llama": Deep(
        "llama", "model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.up_proj.weight",
        (".2.", ".4."), "model.embed_tokens.weight",
    ),
    "bert-mlm": Deep(
        "bert-mlm", "bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.2.intermediate.dense.weight",
        (".2.", ".4."), "bert.embeddings.word_embeddings.weight",
    ),
}  # fmt: skip
"""Three layers become five: old ones at 0, 2 and 4, inserted ones at 1 and 3."""


@pytest.fixture(scope="module")
def deepened(tmp_path_factory) -> Callable[[str, Path], Pair]:
    """`deepened("llama", folder)`: a source in float64 and a copy of what grows from it, to be damaged."""
    found: dict[str, Pair] = {}

    def get(variant: str, folder: Path) -> Pair:
        if variant not in found:
            place = tmp_path_factory.mktemp("deepened")
            source = models.save(variant, place / "source", "float64", num_hidden_layers=3)
            to, grown = {"layers": 5, "vocab": 50}, place / "grown"
            found[variant] = Pair(source, grown, grow.widen(source, to, out=grown, place="0,1", verify=False).plan)
        pair = found[variant]
        return pair._replace(grown=Path(shutil.copytree(pair.grown, folder / "damaged")))

    return get


def swapped(folder: Path, a: str, b: str) -> list[str]:
    """The names of all tensors of two layers, after each has changed place with the other's."""
    tensors = tiny.read_tensors(folder)
    names = [name for name in tensors if a in name]
    for name in names:
        other = name.replace(a, b)
        tensors[name], tensors[other] = tensors[other], tensors[name]
    tiny.write_tensors(folder, tensors)
    return [*names, *(name.replace(a, b) for name in names)]


def damage_deep(pair: Pair, deep: Deep, kind: str) -> list[str]:
    """Damages the grown folder; the names of the tensors that were."""
    if kind == "a zero":
        tiny.edit_tensor(pair.grown, deep.zero, lambda raw: raw.__setitem__((3, 2), 0.25))
        return [deep.zero]
    if kind == "an old layer":
        tiny.edit_tensor(pair.grown, deep.kept, reversed_)
        return [deep.kept]
    if kind == "an old token":
        tiny.edit_tensor(pair.grown, deep.table, lambda raw: reversed_(raw[7]))
        return [deep.table]
    if kind == "old layers swapped":
        return swapped(pair.grown, *deep.swap)
    assert kind == "an inserted layer swapped with an old one"
    return swapped(pair.grown, ".1.", ".4.")  # with its neighbour it would be the same function, see below


KINDS = ("a zero", "an old layer", "an old token", "old layers swapped", "an inserted layer swapped with an old one")
DEEP_FAULTS = [
    (variant, kind, way) for variant in DEEP for kind in KINDS for way in ("grow.json", "outputs too", "outputs alone")
]


@pytest.mark.parametrize(("variant", "kind", "way"), DEEP_FAULTS)
def test_a_fault_in_a_deepened_pair_is_found_and_with_grow_json_its_tensor_named(
    variant, kind, way, deepened, tmp_path
):
    pair = deepened(variant, tmp_path)
    names = damage_deep(pair, DEEP[variant], kind)
    if way == "outputs alone":
        forget(pair.grown)
    found = grow.verify(pair.source, pair.grown, rungs=CERTIFICATE if way == "grow.json" else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    if way != "outputs alone":
        assert found.first["tensor"] in names
    if way == "grow.json":
        assert found.first["index"] is not None


def test_a_deepened_pair_without_a_fault_is_lossless(deepened, tmp_path):
    for variant in DEEP:
        pair = deepened(variant, tmp_path / variant)
        assert grow.verify(pair.source, pair.grown, rungs=BOTH).verdict == "lossless"
        forget(pair.grown)
        assert grow.verify(pair.source, pair.grown, rungs=BOTH).verdict == "lossless"


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
def test_an_inserted_layer_that_changed_places_with_its_neighbour_computes_the_same(way, deepened, tmp_path):
    pair = deepened("llama", tmp_path)
    names = swapped(pair.grown, ".1.", ".2.")
    if way == "grow.json":
        found = grow.verify(pair.source, pair.grown, rungs=BOTH)
        assert (found.verdict, found.check("true_float64").status) == ("unrecorded", "pass")
        assert found.first["tensor"] in names
    else:
        assert grow.verify(pair.source, forget(pair.grown), rungs=BOTH).verdict == "lossless"


CHAIN = [
    f"bert.encoder.layer.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias", "intermediate.dense.weight",
        "intermediate.dense.bias", "output.dense.weight", "output.dense.bias", "output.LayerNorm.weight",
        "output.LayerNorm.bias",
    )
]  # fmt: skip


@pytest.mark.parametrize("tensor", CHAIN)
def test_a_number_of_the_chain_that_is_off_by_2_ulp_is_named(tensor, deepened, tmp_path):
    """In float64 that moves no output by 1e-12: the equation or the hash has to tell."""
    pair = deepened("bert-mlm", tmp_path)

    def two_ulp(raw: Raw) -> None:
        raw.reshape(-1)[5:6].view("<u8")[0] += 2

    tiny.edit_tensor(pair.grown, tensor, two_ulp)
    found = grow.verify(pair.source, pair.grown, rungs=CERTIFICATE)
    assert (found.verdict, found.first["tensor"]) == ("different", tensor)


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
def test_a_changed_layer_type_of_a_deepened_pair_is_found(way, tmp_path):
    source = models.save("qwen2-window", tmp_path / "source", "float64", num_hidden_layers=3)
    grown = grow.deepen(source, 5, out=tmp_path / "grown", place="0,1", verify=False).path
    tiny.edit_json(grown / "config.json", lambda c: c["layer_types"].__setitem__(2, "full_attention"))
    if way == "outputs alone":
        forget(grown)
    found = grow.verify(source, grown, rungs=CERTIFICATE if way == "grow.json" else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["field"] == "layer_types" or way == "outputs alone"


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm", "opt"])
def test_an_old_position_or_token_that_changed_in_a_longer_table_is_found(variant, way, made, tmp_path):
    plan = grow.widen(made(variant), "vocab=50,positions=80", out=tmp_path / "grown", verify=False).plan
    wrong = {}
    if way == "outputs alone":
        forget(tmp_path / "grown")
    for t in plan.tensors:
        if {"vocab", "positions"} & set(t.signature.axes):
            with damaged(tmp_path / "grown", {t.name: lambda raw: raw.__setitem__(11, raw[12])}):
                found = grow.verify(
                    made(variant), tmp_path / "grown", rungs=CERTIFICATE if way == "grow.json" else BOTH
                )
            if found.verdict != "different" or (way == "grow.json" and found.first["tensor"] != t.name):
                wrong[t.name] = found.verdict, found.first
            if way == "grow.json" and found.first["index"][0] != 11:
                wrong[t.name] = found.first
    assert wrong == {}


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
def test_a_new_token_that_is_the_most_likely_one_is_no_difference_of_the_old_ones(way, made, tmp_path):
    """What is compared are the old tokens: the row of a new one is new. With grow.json its hash is known."""
    grown = grow.widen(made("llama"), "vocab=50", out=tmp_path / "grown", verify=False).path
    tiny.edit_tensor(grown, "lm_head.weight", lambda raw: raw.__setitem__(45, 3 * raw[7]))
    if way == "outputs alone":
        forget(grown)
    found = grow.verify(made("llama"), grown, rungs=BOTH)
    assert found.check("true_float64").status == "pass"
    if way == "grow.json":
        assert (found.verdict, found.first["tensor"]) == ("unrecorded", "lm_head.weight")
    else:
        assert found.verdict == "lossless"


# What the probes do not reach


class Reach(NamedTuple):
    """A table too long for the probes, and a row that none of them holds."""

    variant: str
    fields: dict[str, Any]
    table: str
    row: int


REACHES = {
    "tokens": Reach("llama", {"vocab_size": 20_000}, "model.embed_tokens.weight", 19_997),
    "positions": Reach("gpt2", {"n_positions": 2_000}, "transformer.wpe.weight", 1_501),
}


@pytest.fixture(scope="module")
def reached(tmp_path_factory, module_monkeypatch) -> Callable[[str, str], Path]:
    """`reached("tokens", "2x")`: a checkpoint with a long table, or what grows from it."""
    folder = tmp_path_factory.mktemp("reach")

    def get(name: str, to: str = "") -> Path:
        if not (folder / name).exists():
            kind, auto, fields, _ = models.VARIANTS[REACHES[name].variant]
            module_monkeypatch.setitem(models.VARIANTS, name, models.Variant(kind, auto, fields | REACHES[name].fields))
            models.save(name, folder / name, "float64")
        if to and not (folder / f"{name}-{to}").exists():
            grow.widen(folder / name, to, out=folder / f"{name}-{to}", verify=False)
        return folder / (f"{name}-{to}" if to else name)

    return get


@pytest.fixture(scope="module")
def module_monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


UNREACHED = [(name, way) for name in REACHES for way in ("grow.json", "same shapes", "outputs alone")]


@pytest.mark.parametrize(("name", "way"), UNREACHED)
def test_a_damaged_row_that_no_probe_holds_is_named(name, way, reached, tmp_path):
    _, _, table, row = REACHES[name]
    folder = Path(shutil.copytree(reached(name, "" if way == "same shapes" else "2x"), tmp_path / "damaged"))
    tiny.edit_tensor(folder, table, lambda raw: reversed_(raw[row]))
    if way == "outputs alone":
        forget(folder)
    found = grow.verify(reached(name), folder, rungs=BOTH)
    shown = name == "tokens"  # such a token is asked
    assert {check.name: check.status for check in found.checks}["true_float64"] == ("fail" if shown else "pass")
    if way == "grow.json" or shown:
        assert (found.verdict, found.first["tensor"], found.first["index"][0]) == ("different", table, row)
        return
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    place = f"{table}[{row}, 0]" if way == "same shapes" else f"row {row} of {table.removesuffix('.weight')}"
    assert any(note.startswith(place) and "no probe looked there" in note for note in found.notes)


@pytest.mark.parametrize("to", ["", "2x"])
def test_a_window_beyond_the_probes_proves_nothing(to, tmp_path, module_monkeypatch):
    kind, auto, fields, _ = models.VARIANTS["mistral"]
    wide = fields | {"sliding_window": 1_500, "max_position_embeddings": 4_096}
    module_monkeypatch.setitem(models.VARIANTS, "window", models.Variant(kind, auto, wide))
    source = models.save("window", tmp_path / "source", "float64")
    folder = forget(grow.widen(source, to, out=tmp_path / "grown", verify=False).path) if to else copy(source, "same")
    tiny.edit_json(folder / "config.json", lambda config: config.update(sliding_window=None))
    found = grow.verify(source, folder, rungs=BOTH)
    assert found.verdict != "lossless"
    assert any("sliding_window" in note for note in found.notes)


# The tokenizer


def tokenizer(change: Callable[[dict], object], folder: Path, file: str = "tokenizer.json") -> Verification:
    """What verifying a copy of `small` finds after a change to one of the tokenizer's files."""
    source = bundled_path("small")
    other = Path(shutil.copytree(source, folder / "other"))
    tiny.edit_json(other / file, change)
    return grow.verify(source, other, rungs=("tokenizer",))


def shift(t: dict) -> None:
    t["model"]["vocab"]["ils"] += 1


def swap(t: dict) -> None:
    vocab = t["model"]["vocab"]
    vocab["ice"], vocab["ie"] = vocab["ie"], vocab["ice"]


def without_merge(*pair: str) -> Callable[[dict], None]:
    return lambda t: t["model"]["merges"].remove(list(pair))


TOKENS = {
    "a shifted id": ("tokenizer.json", shift, "token 'ils' has id 2048, wanted 2047"),
    "two ids swapped": ("tokenizer.json", swap, "token 'ice' has id"),
    "another end": ("tokenizer_config.json", lambda c: c.update(eos_token="[PAD]"), "eos_token is '[PAD]', wanted"),
    "another padding": ("tokenizer_config.json", lambda c: c.update(pad_token="the"), "pad_token is 'the', wanted"),
    "a merge gone": ("tokenizer.json", without_merge("Ġ", "t"), "the held-out text reads differently from token 9"),
    "lower case": ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"}), "the held-out text reads"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_changed_tokenizer_is_found_and_the_token_named(name, tmp_path):
    file, change, reason = TOKENS[name]
    found = tokenizer(change, tmp_path, file)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.checks[0].reason.startswith(reason)
    assert reason in found.first["text"]


RULES = {
    "a merge that the text lacks": without_merge("r", "u"),
    "no decoder": lambda t: t.update(decoder=None),
    "another normal form": lambda t: t.update(normalizer={"type": "NFKC"}),
}
MODEL_RULES = {
    "bytes for unknown characters": lambda t: t["model"].update(byte_fallback=True),
    "merges left out at random": lambda t: t["model"].update(dropout=1e-4),
}


@pytest.mark.parametrize("name", [*RULES, *MODEL_RULES])
def test_a_tokenizer_that_differs_beyond_the_text_is_found(name, tmp_path):
    assert tokenizer({**RULES, **MODEL_RULES}[name], tmp_path).verdict == "different"


def test_a_score_of_a_unigram_that_the_text_does_not_need_is_compared(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    scores = {"<unk>": 0, "▁": -2, "a": -3, "b": -3, "e": -3, "t": -3, "ab": -4}
    for folder, score in (("one", -4.0), ("two", -4.5)):
        unigram = Tokenizer(models.Unigram([*({**scores, "ab": score}.items())], 0))
        unigram.pre_tokenizer = pre_tokenizers.Metaspace()
        shutil.copytree(bundled_path("small"), tmp_path / folder)
        unigram.save(str(tmp_path / folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
        tiny.write_json(tmp_path / folder / "tokenizer_config.json", settings)
    assert grow.verify(tmp_path / "one", tmp_path / "two", rungs=("tokenizer",)).verdict == "different"


def test_a_tokenizer_that_panics_is_a_fault_and_no_crash(tmp_path, capfd):
    """The library cuts off a prefix that is longer than the merge it reads."""
    try:
        found = tokenizer(lambda t: t["model"].update(continuing_subword_prefix="##"), tmp_path)
    except BaseException as error:
        pytest.fail(type(error).__name__)
    assert (found.verdict, found.exit_code) == ("different", 1)


def test_a_growth_that_lost_its_tokenizer_is_found(tmp_path):
    grown = grow.widen(bundled_path("small"), "2x", out=tmp_path / "grown", verify=False).path
    for path in grown.glob("tokenizer*"):
        path.unlink()
    found = grow.verify(bundled_path("small"), grown, rungs=("tokenizer",))
    assert (found.verdict, found.exit_code) == ("different", 1)


# Whole checkpoints


def stored_as(source: Path, folder: Path, dtype: str) -> Path:
    """The same numbers in another dtype, rounded where it is narrower."""
    code = next(code for code, name in tiny.DTYPES.items() if name == dtype)
    tensors = tiny.read_tensors(source)
    wide = {name: widen(t.raw, t.dtype, np.dtype(np.float64)) for name, t in tensors.items()}
    shutil.copytree(source, folder)
    tiny.write_tensors(folder, {name: tiny.Tensor(code, narrow(raw, code)) for name, raw in wide.items()})
    tiny.edit_json(folder / "config.json", lambda config: config.update(dtype=dtype))
    return folder


def pruned(raw: Raw) -> None:
    """The smallest 30 % of a matrix are zero."""
    if raw.ndim > 1:
        raw[np.abs(raw) < np.quantile(np.abs(raw), 0.3)] = 0


def quantised(raw: Raw) -> None:
    """Each row of a matrix on 255 levels, stored as floats."""
    if raw.ndim > 1:
        scale = np.abs(raw).max(1, keepdims=True) / 127
        raw[...] = np.round(raw / np.where(scale, scale, 1)) * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_is_another_model(family, made, tmp_path):
    variant = WITH_HEAD[family]
    models.make(variant, seed=2).to(torch.float64).save_pretrained(tmp_path / "other")
    found = grow.verify(made(variant), tmp_path / "other", rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["tensor"] in tiny.read_header(tmp_path / "other")[0]


@pytest.mark.parametrize(
    ("variant", "other"),
    [("llama", "mistral"), ("gpt2", "opt"), ("qwen2", "gpt_neox"), ("bert-mlm", "roberta-mlm"), ("gpt2", "bert-mlm")],
)
def test_another_family_with_the_same_vocabulary_is_another_model(variant, other, made):
    found = grow.verify(made(variant), made(other), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert any(field["field"] == "model_type" for field in found.config)


@pytest.mark.parametrize("change", [pruned, quantised])
@pytest.mark.parametrize("to", ["", "2x"])
@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm"])
def test_a_pruned_and_a_quantised_copy_are_different(variant, to, change, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, "float32", to), tmp_path / "changed"))
    names = list(tiny.read_header(folder)[0])
    with damaged(folder, dict.fromkeys(names, change)):
        found = grow.verify(made(variant, "float32"), folder, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["tensor"] in names


@pytest.mark.parametrize("variant", models.ONE_EACH)
def test_a_checkpoint_is_itself(variant, made):
    found = grow.verify(made(variant, "float32"), made(variant, "float32"), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("lossless", 0)
    assert {check.name: check.status for check in found.checks} == {"certificate": "pass", "true_float64": "pass"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wider_dtype_is_lossless(dtype, made, tmp_path):
    source = made("llama", "bfloat16")
    found = grow.verify(source, stored_as(source, tmp_path / "wider", dtype), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("lossless", 0)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_dtype_is_unproved_because_rounding_explains_it(variant, dtype, made, tmp_path):
    """Neither lossless nor different: nobody says whether a rounding was meant."""
    source = made(variant, "float32")
    found = grow.verify(source, stored_as(source, tmp_path / "narrower", dtype), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert "as far as rounding the stored weights explains" in found.notes[-1]


@pytest.mark.parametrize("way", ["quantization_config", "int8 tensors"])
def test_a_really_quantised_checkpoint_is_bad_input_or_different(way, made, tmp_path):
    folder = Path(shutil.copytree(made("llama", "float32"), tmp_path / "quantised"))
    if way == "quantization_config":
        tiny.edit_json(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"}))
        with pytest.raises(GrowError, match="weights are quantised") as error:
            grow.verify(made("llama", "float32"), folder, rungs=BOTH)
        assert error.value.exit_code == 2
        assert error.value.fix == "use the unquantised checkpoint, or dequantise first"
        return
    int8_tensor(folder, "model.layers.0.mlp.up_proj.weight")
    found = grow.verify(made("llama", "float32"), folder, rungs=BOTH)
    assert (found.verdict, found.first["module"]) == ("different", "model.layers.0.mlp.up_proj")


def int8_tensor(folder: Path, name: str) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / tiny.WEIGHTS)
    tensors[name] = np.round(20 * tensors[name]).astype(np.int8)
    save_file(tensors, folder / tiny.WEIGHTS, metadata={"format": "pt"})


def without_last_layer(folder: Path) -> None:
    tensors = tiny.read_tensors(folder)
    tiny.write_tensors(folder, {name: t for name, t in tensors.items() if ".1." not in name})


@pytest.mark.parametrize("to", ["", "2x"])
@pytest.mark.parametrize("told", [True, False])
def test_fewer_layers_are_different(told, to, made, tmp_path):
    folder = Path(shutil.copytree(made("llama", to=to), tmp_path / "shallow"))
    without_last_layer(folder)
    if told:
        tiny.edit_json(folder / "config.json", lambda config: config.update(num_hidden_layers=1))
    found = grow.verify(made("llama"), folder, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "model.layers.1." in " ".join(check.reason for check in found.checks) or told


def test_without_grow_json_the_number_of_layers_is_named(made, tmp_path):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "shallow"))
    without_last_layer(folder)
    tiny.edit_json(folder / "config.json", lambda config: config.update(num_hidden_layers=1))
    assert grow.verify(made("llama"), folder, rungs=BOTH).first["field"] == "num_hidden_layers"


def test_without_grow_json_a_width_is_not_what_explains_a_growth_that_does_not_load(made, tmp_path):
    folder = forget(Path(shutil.copytree(made("opt", to="2x"), tmp_path / "grown")))
    tiny.edit_json(folder / "config.json", lambda config: config.update(pad_token_id=-1, tie_word_embeddings=False))
    assert grow.verify(made("opt"), folder, rungs=BOTH).first["field"] in ("pad_token_id", "tie_word_embeddings")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("tensor", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_that_is_no_number_is_different_and_never_equal_to_itself(tensor, value, made, tmp_path):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "broken"))
    tiny.edit_tensor(folder, tensor, lambda raw: raw.__setitem__((3,) * raw.ndim, value))
    found = grow.verify(made("llama"), folder, rungs=BOTH)
    assert (found.verdict, found.first["tensor"], found.first["index"][0]) == ("different", tensor, 3)
    assert grow.verify(folder, folder, rungs=BOTH).verdict == "different"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_stored_numbers_that_are_none_are_no_proof_of_equality(value, made, tmp_path):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "broken"))
    tiny.edit_tensor(folder, "model.norm.weight", lambda raw: raw.__setitem__(3, value))
    assert grow.verify(folder, folder, rungs=CERTIFICATE).verdict != "lossless"


# How many


def test_at_least_300_faults_are_tried():
    assert all(len(set(faults)) == len(faults) for faults in (CERTIFIED, SWAPPED, CONFIGURED, ROWS, UNREACHED))
    without_grow_json = len(SWAPPED) + len(CONFIGURED) + 2 * len(ROWS) + len(UNREACHED) + len(DEEP_FAULTS)
    assert min(len(CERTIFIED), without_grow_json) >= 300
