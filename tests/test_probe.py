"""Every family's table agrees with what the stock model does when one width of its config changes, both ways."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys

import pytest
from models import FOUND, VARIANTS

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.family import STILL, Family
from grow.architectures.match import match, numberless
from grow.models.shapes_by_config import SIZES, axes_of, following, probe, shapes
from grow.notation.axes import Row

CLASSES = {
    "AutoModel": "Model",
    "AutoModelForCausalLM": "ForCausalLM",
    "AutoModelForMaskedLM": "ForMaskedLM",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
    "AutoModelForPreTraining": "ForPreTraining",
    "AutoModelForSeq2SeqLM": "ForConditionalGeneration",
    "AutoModelForTextEncoding": "EncoderModel",
    "AutoModelForImageClassification": "ForImageClassification",
    "AutoModelForMaskedImageModeling": "ForMaskedImageModeling",
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A stock class with what the variant changes besides sizes; sizes are the probe's."""

    model_type: str
    auto: str
    fields: str  # JSON, so that it can be a key

    @property
    def axes(self) -> dict[str, str]:
        axes = axes_of(self.model_type)
        if "word_embed_proj_dim" not in self.fields:
            axes.pop("embed", None)
        return axes

    @property
    def extra(self) -> dict:
        return {k: v for k, v in json.loads(self.fields).items() if k != "word_embed_proj_dim"}

    def config(self, family: Family) -> dict:
        suffix = CLASSES.get(self.auto, self.auto)
        if (self.model_type, suffix) == ("gpt2", "ForCausalLM"):
            suffix = "LMHeadModel"
        sizes = {field: SIZES[axis] for axis, field in self.axes.items()}
        named = {"model_type": self.model_type, "architectures": [suffix], "tie_word_embeddings": False}
        return named | sizes | self.extra | following(self.model_type, {**sizes, **self.extra})


def subject_of(variant: str) -> Subject:
    kind, auto, fields, _ = VARIANTS[variant]
    lists = FAMILIES[kind].layer_lists
    sized = {*FAMILIES[kind].axes.values(), *(name for one in lists for name in (one.field, *one.said_too))}
    sized |= {"sliding_window", "rope_parameters", "tie_word_embeddings", "label2id"}
    extra = {k: v for k, v in fields.items() if k not in sized and "token_id" not in k and k != "decoder_sparse_step"}
    if "mlp_only_layers" in extra:  # one layer is probed: a dense one
        extra["mlp_only_layers"] = [0, 1]
    where = FAMILIES[kind].experts and FAMILIES[kind].experts.layers
    if where and where.first:  # or one with experts
        extra[where.first] = 0 if Architecture(FAMILIES[kind], fields).sparse(0) else 2
    elif where and where.listed:
        extra[where.listed] = [fields[where.listed][0]] * 2
    if fields.get("word_embed_proj_dim", fields.get("hidden_size")) != fields.get("hidden_size"):
        extra["word_embed_proj_dim"] = True
    return Subject(kind, auto, json.dumps(extra, sort_keys=True))


SUBJECTS = {subject_of(v): v for v in reversed(VARIANTS)}


@functools.cache
def probed(subject: Subject) -> dict[str, tuple[frozenset[str], ...]]:
    return probe(subject.model_type, axes=subject.axes, auto=subject.auto, **subject.extra)


@functools.cache
def canonical(subject: Subject) -> dict[str, str]:
    """Module name -> the table's name, by the family as it is."""
    family = FAMILIES[subject.model_type]
    fields = {**subject.config(family)}
    fields.pop("model_type"), fields.pop("architectures")
    stock = shapes(subject.model_type, subject.auto, {**fields, "pad_token_id": 0})

    class Info:
        dtype = "F32"

        def __init__(self, shape):
            self.shape = shape

    found = match(Architecture(family, subject.config(family)), {k: Info(s) for k, s in stock.items()}, "stock")
    return {numberless(t.name, family): t.row.name for t in found.tensors}


def labelled(family: Family, row: Row, config: dict, axes: dict[str, str]) -> tuple[frozenset[str] | None, ...]:
    """The axes that move each dim according to its labels; None for labels, which no width moves."""
    old = Architecture(family, config).sizes
    moved: list[set[str]] = [set() for _ in row.signature.stored]
    for axis, field in axes.items():
        doubled = {**config, field: 2 * config[field]}
        new = Architecture(family, doubled | following(family.model_type, doubled)).sizes
        for at, dim in enumerate(row.signature.stored):
            if dim.size({**FOUND, **old}) != dim.size({**FOUND, **new}):
                moved[at].add(axis)
    return tuple(map(frozenset, moved))


def disagreements(family: Family, subject: Subject) -> list[str]:
    """Where table and stock model differ: a dim, a row without tensor, a tensor without row."""
    config, names = subject.config(family), canonical(subject)
    rows = {row.name: row for row in Architecture(family, config).tensors.values()}
    stock = {names[name]: moves for name, moves in probed(subject).items()}
    faults = [f"{name}: no row" for name in stock if name not in rows]
    for name, row in rows.items():
        if name not in stock:
            faults += [] if row.optional else [f"{name}: no tensor"]
        elif (wanted := labelled(family, row, config, subject.axes)) != stock[name]:
            faults.append(f"{name}: the table says {wanted}, the stock model {stock[name]}")
    return faults


@pytest.mark.parametrize("subject", SUBJECTS, ids=SUBJECTS.values())
def test_the_table_agrees_with_the_stock_model(subject):
    assert disagreements(FAMILIES[subject.model_type], subject) == []


@pytest.mark.parametrize("subject", SUBJECTS, ids=SUBJECTS.values())
def test_an_axis_that_moves_no_tensor_is_no_width(subject):
    """Heads move nothing where head_dim = hidden / heads, each has a kv head of its own and no table has a row or a
    column for them, positions nothing under RoPE without a table; all else moves something."""
    family = FAMILIES[subject.model_type]
    moved = {axis for dims in probed(subject).values() for dim in dims for axis in dim}
    source = Architecture(family, subject.config(family))
    followed = source.followed
    dims = [dim for row in source.tensors.values() for dim in row.signature.dims]
    alone = any(dim.has("heads") != dim.has("head_dim") for dim in dims)  # of a bias on scores, of a table of angles
    own_kv = "kv_heads" in followed and followed["kv_heads"].repeats
    together = family.derived_head_dim and own_kv and not alone
    idle = {*family.depths, "layer_groups"} | ({"heads"} if together else set())
    there = {label.axis for dim in dims for label in dim.labels}
    there |= {axis for laws in family.size_laws.values() for law in laws for axis in law.factors}  # sizes follow
    idle |= {*STILL, "positions"} - there
    idle |= followed.keys() & subject.axes.keys() - {"head_dim"}
    idle |= set() if any("kv_heads" in row.signature.axes for row in family.rows) else {"kv_heads"} & set(subject.axes)
    if family.experts and family.experts.layers:
        dense = not source.sparse(0)
        idle |= {"expert_ffn", "shared_ffn", "shared_experts", "experts"} & set(subject.axes) if dense else {"ffn"}
    assert moved == set(subject.axes) - idle


# A wrong table is caught


def replaced(family: Family, row: Row, line: str) -> Family:
    """The family with one line of its table written anew."""
    lines = [" ".join(text.split()) for text in family.table.splitlines()]
    old = f"{row.name} {row.signature.text}" + (f" ? {row.when}" if row.when else "")
    assert lines.count(old) == 1
    return dataclasses.replace(family, table="\n".join(line if text == old else text for text in lines))


ROUTED = "model.layers.{layers}.mlp"
# One class of each kind of family, all of whose rows are there.
WHOLE = ("llama-biases", "gpt2", "gpt_neox", "opt-projected", "bert-mlm", "distilbert-mlm", "mixtral", "qwen2_moe")
LANGUAGE = {s.model_type: s for s in map(subject_of, WHOLE)}


@pytest.mark.parametrize("subject", LANGUAGE.values(), ids=LANGUAGE)
def test_swapped_dims_are_caught_in_every_row_that_is_not_square(subject):
    family = FAMILIES[subject.model_type]
    caught = square = 0
    for row in {row.name: row for row in Architecture(family, subject.config(family)).tensors.values()}.values():
        if len(row.signature.dims) != 2 or row.optional:
            continue
        left, arrow, right = row.signature.text.partition("<-" if "<-" in row.signature.text else "->")
        broken = replaced(family, row, f"{row.name} {right} {arrow} {left} ? {row.when or 'always'}")
        wanted = labelled(family, row, subject.config(family), subject.axes)
        if wanted[0] == wanted[1]:
            square += 1
            continue
        faults = disagreements(broken, subject)
        assert len(faults) == 1, row
        assert faults[0].startswith(row.name)
        caught += 1
    assert caught > square or family.derived_head_dim
    assert caught >= 4


@pytest.mark.parametrize(
    ("model_type", "name", "line", "fault"),
    [
        ("llama", "model.layers.{layers}.mlp.up_proj.weight", "{name} vocab <- hidden", "the table says"),
        (
            "llama",
            "model.layers.{layers}.self_attn.k_proj.weight",
            "{name} (kv_heads q_per_kv head_dim.k) <- hidden",
            "the table says",
        ),
        ("llama", "model.norm.weight", "", "no row"),
        ("llama", "model.norm.weight", "{name} hidden * \n model.norm.bias hidden +", "model.norm.bias: no tensor"),
        ("llama", "model.layers.{layers}.mlp.gate_proj.bias", "{name} ffn <- ? not mlp_bias", "no row"),
        (
            "qwen2_moe",
            f"{ROUTED}.experts.{{experts}}.up_proj.weight",
            "{name} ffn <- hidden ? sparse",
            "the table says",
        ),
        ("qwen2_moe", f"{ROUTED}.gate.weight", "{name} 1 <- hidden ? sparse", "the table says"),
        ("gpt2", "transformer.h.{layers}.attn.c_attn.weight", "{name} hidden -> ffn", "the table says"),
        ("gpt2", "transformer.wpe.weight", "{name} vocab -> hidden", "the table says"),
        ("opt", "model.decoder.project_in.weight", "{name} embed <- hidden", "the table says"),
        ("bert", "bert.embeddings.token_type_embeddings.weight", "{name} positions -> hidden", "the table says"),
    ],
)
def test_a_wrong_row_is_caught(model_type, name, line, fault):
    subject, family = LANGUAGE[model_type], FAMILIES[model_type]
    row = Architecture(family, subject.config(family)).tensors[name.replace("{layers}", "0").replace("{experts}", "0")]
    faults = disagreements(replaced(family, row, line.replace("{name}", name)), subject)
    assert len(faults) == 1
    assert fault in faults[0]


def test_importing_the_probe_imports_no_torch():
    code = "import grow.models.shapes_by_config, sys; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
