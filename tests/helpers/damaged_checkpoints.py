"""Damage to a checkpoint, and the tables of what is damaged: every row of every family, fields and layers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import models
import numpy as np
import tiny

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.notation.axes import SHIFT, WRITE
from grow.planning.plan import Plan

CERTIFICATE = ("certificate",)
BOTH = ("certificate", "true_float64")
WITH_HEAD = {models.VARIANTS[variant].model_type: variant for variant in models.ONE_EACH}
Raw = np.ndarray
Change = Callable[[Raw], object]


class Pair(NamedTuple):
    source: Path
    grown: Path
    plan: Plan | None = None


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
    raw[...] = -raw if raw.size == 1 and raw.dtype.kind == "f" else raw.ravel()[::-1].reshape(raw.shape).copy()


def copy(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.parent / name))


def forget(grown: Path) -> Path:
    """A grown checkpoint about which nobody says how it was grown."""
    (grown / "grow.json").unlink()
    return grown


FLAGS = {"tie_word_embeddings": False}
FLAGS |= dict.fromkeys(
    ("attention_bias", "mlp_bias", "attention_out_bias", "use_bias", "use_qkv_bias", "norm_bias"), True
)
FLAGS |= dict.fromkeys(
    ("classifier_bias", "use_task_id", "lm_head_bias", "use_qk_norm", "bias", "qkv_bias", "decoder_bias"), True
)


class Table(NamedTuple):
    """A config, and of the tensors that it has those that stand for rows of the table: one layer of each."""

    config: dict[str, Any]
    tensors: tuple[str, ...]


def of_two_names(facts: Family) -> set[str]:
    """Rows that base models have under a name that a class with a head has for another row."""
    names = {row.name for row in facts.rows}
    return {name for name in names if facts.prefix and name.removeprefix(facts.prefix) in names - {name}}


def tables(family: str) -> Iterator[tuple[str, Table]]:
    """Configs that together have every row of a family, each with the rows that it adds; then the tied head."""
    facts, seen = FAMILIES[family], set()
    fields = {"model_type": family, "dtype": "float32", **models.VARIANTS[WITH_HEAD[family]].fields}
    untied = {name: value for name, value in FLAGS.items() if name in facts.defaults}
    if facts.experts and facts.experts.layers and facts.experts.layers.only:
        fields[facts.experts.layers.only] = [0]  # a dense layer beside one with experts
    suffixes = dict.fromkeys(w for row in facts.rows for part in row.when.split() for w in part.split("|"))
    named = {"model_type": family, "dtype": "float32"}
    of_family = {name: v for name, v in models.VARIANTS.items() if v.model_type == family}
    others = [(f" {name}", {**named, **v.fields}) for name, v in of_family.items() if v.auto != "AutoModel"]
    bare = [(f" {name}", {**named, **v.fields}) for name, v in of_family.items() if v.auto == "AutoModel"]
    narrow = [(" projected", {**fields, facts.axes["embed"]: 10})] if "embed" in facts.axes else []
    narrow += [(" pooled", {**fields, facts.axes["pooler"]: 9})] if "pooler" in facts.axes else []
    suffixes = [suffix for suffix in suffixes if suffix[0].isupper()]
    for suffix in [*suffixes, "Model"]:
        for also, config in [("", fields), *narrow, *others] if suffix in suffixes else bare or [("", fields)]:
            config = {**config, **untied, "architectures": [f"Stock{suffix}"]}
            # of every row the tensor of the last layer, and expert, that has it
            there = Architecture(facts, config).tensors
            if any(facts.prefix + name in there for name in there if facts.prefix):
                continue  # what one class calls its own the other has in front of it: no class has both
            last = {(row.name, row.when): name for name, row in there.items()}
            rows = {name: key for key, name in last.items()}
            new = tuple(name for name, key in rows.items() if key not in seen and key[0] not in of_two_names(facts))
            if new:
                seen.update(rows.values())
                yield f"{family} {suffix}{also}", Table(config, new)
    if facts.tie is None:
        return
    head = next(word for word in facts.tie.when.split() if word[0].isupper()).split("|")[0]
    tied = {**fields, "tie_word_embeddings": True, "architectures": [f"Stock{head}"]}
    there = Architecture(facts, tied).tensors
    yield f"{family} tied", Table(tied, (facts.tie.table, *(n for n in facts.tie.norms if n in there)))


TABLES = dict(item for family in FAMILIES for item in tables(family))
GROWTHS = ("2x", "rounded")
DAMAGES = ("reversed", "2 ulp", "zeroed")


def biases(name: str) -> list[str]:
    """The tensors of a table that are added to something."""
    rows = Architecture(FAMILIES[TABLES[name].config["model_type"]], TABLES[name].config).tensors
    dims = {tensor: rows[tensor].signature.dims for tensor in TABLES[name].tensors}
    return [tensor for tensor, (dim, *more) in dims.items() if not more and dim.role in (WRITE, SHIFT)]


ANY = ("reversed", "2 ulp")
"""Damage to any tensor: each of the two growths of a tensor has one of them, its neighbours the other."""

CERTIFIED = [
    (name, growth, tensor, damage)
    for name, table in TABLES.items()
    for j, growth in enumerate(GROWTHS)
    for damage in DAMAGES
    for k, tensor in enumerate(table.tensors)
    if damage == ANY[(j + k) % 2] or (damage == "zeroed" and growth == "2x" and tensor in biases(name))
]

SWAPPED = [
    (variant, way)
    for variant in models.LONG
    for way in ("grow.json", "same shapes", "outputs alone")
    if way != "outputs alone"
    or "For" in models.VARIANTS[variant].auto  # nobody knows how wider states are the old ones
]

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


ROWS = [(variant, tensor) for variant in STORED_IN for tensor in stored_names(variant)]


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

KINDS = ("a zero", "an old layer", "an old token", "old layers swapped", "an inserted layer swapped with an old one")
DEEP_FAULTS = [
    (variant, kind, way) for variant in DEEP for kind in KINDS for way in ("grow.json", "outputs too", "outputs alone")
]


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

UNREACHED = [(name, way) for name in REACHES for way in ("grow.json", "same shapes", "outputs alone")]
