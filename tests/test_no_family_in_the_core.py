"""What belongs to one family stands in `grow/architectures/` and nowhere else: the rest of `grow` is read, and searched
for model types, names of stock classes, and axes, parts of tensor names and config fields that few families have.

Comments and docstrings may give examples. `grow/zoo/` is left out: its models are of some family.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import grow
from grow.architectures import FAMILIES
from grow.architectures.common_fields import COMMON_FIELDS
from grow.architectures.stock_source import stock_of

ROOT = Path(grow.__file__).parent
OUTSIDE = [
    path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in ("architectures", "zoo")
]

EVERYDAY = {
    "activation": "English, and torch.nn.modules.activation",
    "bias": "what is added to a product, everywhere",
    "cls_token": "a way to pool, as sentence-transformers calls it",
    "conv": "torch.nn.modules.conv",
    "conv_kernel": "what models of sounds say of their layers",
    "dim": "torch's name of a dimension",
    "expand": "a method of torch's tensors",
    "eps": "what a norm adds to a variance",
    "ffn": "an axis of the notation",
    "image_size": "what a model of any type says of its images",
    "layernorm": "a kind of norm",
    "num_channels": "what a model of any type says of its images",
    "patch_size": "what a model of any type says of its images",
    "projection": "English",
    "original_max_position_embeddings": "a parameter of RoPE, which some config classes repeat as a field",
    "head": "English, and one of attention",
    "max_2d_position_embeddings": "what any model with places on a page calls their number",
    "summary": "English",
}
"""Names in few families' tables that mean something else outside."""

VOCABULARY = {"notation/axes.py", "notation/size_limits.py", "models/shapes_by_config.py"}
"""Files that name every axis of the notation, whichever families have it."""


FEW = 2
"""How many families may share what belongs to none of the others."""


def owned() -> dict[str, str]:
    """Name -> what it is, of everything that few families have."""
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for kind, family in FAMILIES.items():
        owners[kind, "the model type"].add(kind)
        for name in stock_of(kind).classes:
            owners[name, "a stock class"].add(kind)
        for field in family.known_fields - COMMON_FIELDS:
            owners[field, "a config field"].add(kind)
        names = [*(row.name for row in family.rows), *(name for pair in family.spelling for name in pair)]
        names += [*family.stale, *(family.experts.fused if family.experts else ())]
        for part in {part for name in names for part in name.split(".") if len(part) > 1 and "{" not in part}:
            owners[part, "a part of a tensor's name"].add(kind)
    return {
        name: f"{what} of {next(kind for kind in FAMILIES if kind in of)}"
        for (name, what), of in owners.items()
        if len(of) <= FEW
    }


OWNED = owned()
PUBLISHED = re.compile(r"llama[- ]?pro|progressive llama|llama_4_scaling_beta", re.IGNORECASE)
"""The name of a method and its paper, and a parameter of RoPE."""
AXES = {
    axis: kinds[0]
    for axis in {axis for f in FAMILIES.values() for axis in f.axes}
    if len(kinds := [k for k, f in FAMILIES.items() if axis in f.axes]) <= FEW
}
CLASS = re.compile(rf"(?:{'|'.join(family.class_begins for family in FAMILIES.values())})[A-Z][a-z]\w*")
SPELLED = {re.sub(r"[-_]", "", kind): kind for kind in FAMILIES if not kind.isalpha()}  # GPT-2, GPT-NeoX, Qwen2-MoE
TYPE = re.compile(rf"(?:[a-z0-9]*_)*({'|'.join(kind for kind in FAMILIES if kind != 'opt')})(?:_[a-z0-9]*)*")


def texts(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """(line, text, whether it is a literal) of every literal and identifier; docstrings are neither."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield line, node.value, True
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(text := getattr(node, field, None), str):
                yield line, text, False


def found(source: str) -> list[tuple[int, str, str]]:
    """(line, name, what it is) of everything in the source that few families have."""
    hits = []
    for line, text, literal in texts(ast.parse(source)):
        if literal and text in AXES:  # a function may be called embed
            hits.append((line, text, f"an axis of {AXES[text]}"))
        squeezed = re.sub(r"[-_ .]", "", text.lower())
        hits += [(line, kind, f"the model type {kind}") for name, kind in SPELLED.items() if name in squeezed]
        for word in re.findall(r"\w+", PUBLISHED.sub("", text)):
            if word in OWNED:
                hits.append((line, word, OWNED[word]))
            elif CLASS.fullmatch(word):
                hits.append((line, word, "a stock class"))
            elif inside := TYPE.fullmatch(word.lower()):
                hits.append((line, inside[1], f"the model type {inside[1]}"))
    return hits


@cache
def found_in(path: Path) -> list[tuple[int, str, str]]:
    return found(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_outside_the_families_belongs_to_one_of_them(path):
    name = path.relative_to(ROOT).as_posix()
    hits = [
        f"{name}:{line}: {word} is {what}"
        for line, word, what in found_in(path)
        if word not in EVERYDAY and not (name in VOCABULARY and word in AXES)
    ]
    assert not hits


def test_every_excuse_is_needed():
    hits = {(path.relative_to(ROOT).as_posix(), word) for path in OUTSIDE for _, word, _ in found_in(path)}
    assert {path for path, word in hits if word in AXES} <= VOCABULARY
    assert EVERYDAY.keys() <= {word for _, word in hits}


PLANTED = {
    'if config["model_type"] == "gpt2": pass': "the model type of gpt2",
    "if kind in ('llama', 'mistral'): pass": "the model type of llama",
    "def _bert_positions(): pass": "the model type bert",
    "NAMES = {'opt': 1}": "the model type of opt",
    "raise ValueError('as in GPT-NeoX')": "the model type gpt_neox",
    "what = 'RoBERTa counts from its padding id'": "the model type roberta",
    "BERT_LIMIT = 512": "the model type bert",
    "name = f'{prefix}LlamaForCausalLM'": "a stock class of llama",
    "from transformers import OPTConfig": "a stock class",
    "isinstance(layer, transformers.models.x.Qwen2MoeSparseMoeBlock)": "a stock class",
    "state['gpt_neox.embed_in.weight']": "a part of a tensor's name of gpt_neox",
    "FUSED = r'(^|\\.)query_key_value\\.'": "a part of a tensor's name of gpt_neox",
    "layer.block.sa_layer_norm": "a part of a tensor's name of distilbert",
    "config.get('_remove_final_layer_norm')": "a config field of opt",
    "config.rotary_pct": "a config field of gpt_neox",
    "Config(scale_attn_weights=True)": "a config field of gpt2",
    "for axis in (*GROWABLE, 'layer_groups'): pass": "an axis of albert",
    "sizes['shared_ffn']": "an axis of qwen2_moe",
    "TABLE = 'lm_head.weight\\nproject_in.weight'": "a part of a tensor's name of opt",
}


@pytest.mark.parametrize("source", PLANTED)
def test_what_is_planted_is_found(source):
    assert any(what.startswith(PLANTED[source]) for _, _, what in found(f"x = 1\n{source}\n"))
    assert {line for line, _, _ in found(f"x = 1\n{source}\n")} == {2}


def test_comments_and_docstrings_may_give_examples():
    source = (
        '"""As gpt2 has it."""\n\ndef f():\n    """LlamaForCausalLM: rotary_pct."""\n    return 1  # transformer.wte\n'
    )
    assert found(source) == []
    assert found("options = optimizer.opt_out\nhidden_size = lm_head = 'self_attn.q_proj.weight'\n") == []
