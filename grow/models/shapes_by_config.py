"""Which config field moves which dimension of which tensor, asked of the stock model.

    probe("llama")["model.layers.{layers}.self_attn.k_proj.weight"]
    (frozenset({"kv_heads", "head_dim"}), frozenset({"hidden"}))

The model is built on the meta device, where tensors have shapes and no data, once as it is and once per axis with
that axis doubled. A dimension whose size changed depends on the axis. A test compares the answer with every family's
table, so that a wrong or missing row cannot survive. `grow.deriving` drafts the table of a new family, with its proof.

Shapes cannot show the direction of an arrow, the order inside a product, or a permutation: where head_dim is
hidden / heads, a square projection looks the same both ways. Random weights show those (see `tests/test_lossless.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.layer_lists import expanded
from grow.architectures.match import numberless

# Distinct, even, and divisible where stock configs ask for it, before and after doubling.
SIZES = {
    "hidden": 96,
    "heads": 6,
    "kv_heads": 3,
    "head_dim": 10,
    "ffn": 56,
    "layers": 1,
    "layer_groups": 1,
    "vocab": 136,
    "positions": 72,
    "types": 4,
    "buckets": 8,
    "places": 12,
    "task_types": 7,
    "head_width": 52,
    "pooler": 88,
    "embed": 44,
    "expert_ffn": 26,
    "shared_ffn": 34,
    "shared_experts": 3,
    "nope": 32,
    "v_dim": 18,
    "q_rank": 38,
    "kv_rank": 30,
    "inner": 62,
    "dt_rank": 22,
    "ssm_state": 14,
    "experts": 5,
}

EXPERT = re.compile(r"\.\d+\..*\.(\d+)\.")  # a second index

Moves = dict[str, tuple[frozenset[str], ...]]


def probe(
    model_type: str,
    *,
    axes: Mapping[str, str] | None = None,
    auto: str = "AutoModelForCausalLM",
    **fields: Any,
) -> Moves:
    """Stored name, `{layers}` and `{experts}` for indices -> for every dim the axes that move it.

    axes    axis -> config field; default: the family's, or the names other families use, where the config has them
    auto    the auto class to build; a model type without it raises transformers' own error
    fields  config fields that differ from the stock defaults; `tie_word_embeddings` is off unless given
    """
    axes = dict(axes or axes_of(model_type))
    sizes = {field: SIZES[axis] for axis, field in axes.items()}
    base = {"tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, **sizes, **fields}
    base |= following(model_type, base)
    before = shapes(model_type, auto, base)
    moved: dict[str, list[set[str]]] = {name: [set() for _ in shape] for name, shape in before.items()}
    for axis, field in axes.items():
        doubled = {**base, field: 2 * base[field]}
        after = shapes(model_type, auto, doubled | following(model_type, doubled))
        for name, shape in before.items():
            for dim, (old, new) in enumerate(zip(shape, after[name])):
                if old != new:
                    moved[name][dim].add(axis)
        if axis == "layers":
            copies = {name.replace(".0.", ".1.", 1): shape for name, shape in before.items() if ".0." in name}
            family = FAMILIES.get(model_type)
            known = {row.name.removeprefix(family.prefix) for row in family.rows} if family else set()
            lead = family.prefix if family else ""
            copies |= {name: shape for name, shape in after.items() if numberless(name.removeprefix(lead)) in known}
            if missing := set(after) - set(before) - set(copies):
                raise ValueError(f"{field} adds tensors that are not copies of layer 0's: {sorted(missing)}")
    # of the experts all are alike; the first one's names stand for them
    first = {name: dims for name, dims in moved.items() if not (hit := EXPERT.search(name)) or hit[1] == "0"}
    return {numberless(name): tuple(map(frozenset, dims)) for name, dims in first.items()}


def shapes(model_type: str, auto: str, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the stock model with these fields; a tied head is left out and experts stand one by one, as in
    its files."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **fields)
    with torch.device("meta"):
        model = getattr(transformers, auto).from_config(config)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    from grow.models.fused_experts import in_files

    stored = in_files(model, {name: t for name, t in model.state_dict().items() if name not in tied})
    return {name: tuple(t.shape) for name, t in stored.items()}


def following(model_type: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields of a known family that have to follow others, and what they are then."""
    family = FAMILIES.get(model_type)
    if family is None:
        return {}
    sizes = {axis: fields[field] for axis, field in family.axes.items() if field in fields}
    laws = {axis: law for axis, of in family.size_laws.items() for law in of if law.always and axis in family.axes}
    sized = {family.axes[axis]: size for axis, law in laws.items() if (size := law.value(sizes)) is not None}
    return sized | layer_lists(model_type, fields, sizes["layers"])


def layer_lists(model_type: str, fields: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Fields that say kinds of layers in runs, for so many layers: stock defaults are of one number of them."""
    family = FAMILIES.get(model_type)
    said: dict[str, Any] = {}
    for listed in family.layer_lists if family else ():
        for name in listed.said_too:
            kinds = expanded(fields.get(name)) or listed.entries
            said |= listed.otherwise([kinds[0]] * layers)
    return said


def axes_of(model_type: str) -> dict[str, str]:
    """Axis -> config field: the family's own, or for an unknown type the first known name that its config has."""
    if model_type in FAMILIES:
        family = FAMILIES[model_type]
        free = (axis for axis in family.axes if not any(law.always for law in family.size_laws.get(axis, ())))
        return {axis: family.axes[axis] for axis in free}
    import transformers

    config = transformers.AutoConfig.for_model(model_type).to_dict()
    axes: dict[str, str] = {}
    for family in FAMILIES.values():
        for axis, field in family.axes.items():
            if field in config:
                axes.setdefault(axis, field)
    return axes
