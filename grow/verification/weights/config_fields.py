"""Two configs compared field by field, as stock code reads them.

A field that one of them leaves out has the default of the installed config class, if it has one there. `False` and no
such field are two things to code that asks `getattr(config, name, True)`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.common_fields import COMMON_FIELDS, TRAINS
from grow.architectures.layer_lists import expanded
from grow.architectures.stock_source import stock_of

# Written beside a model and read by no forward pass, no loss and no head.
BOOKKEEPING = frozenset(
    """
    transformers_version _name_or_path _commit_hash use_cache return_dict output_attentions output_hidden_states
    initializer_range gradient_checkpointing finetuning_task task_specific_params tokenizer_class prefix torchscript
    use_bfloat16 output_past tie_weights_ license language tags transformers.js_config max_length min_length do_sample
    num_beams temperature top_k top_p repetition_penalty bad_words_ids
    """.split()
)


def differing(
    wanted: Mapping[str, Any], found: Mapping[str, Any], older: Collection[str] = (), *, load: bool = True
) -> list[str]:
    """The fields in which `found` is not `wanted`, bookkeeping apart.

    older  names under which a value may stand that stock code keeps under another
    load   ask the config class; its sizes must be possible ones
    """
    wanted, found = one_dtype(wanted), one_dtype(found)
    names = _apart(wanted, found)
    if names and load and (a := _as_loaded(wanted)) is not None and (b := _as_loaded(found)) is not None:
        # what leaves no trace counts by the name that it is kept under
        names = sorted({*_apart(a, b)} | {n for n in names if n not in a and n not in b and n not in older})
    return names


def read_by_stock(model_type: str, names: list[str]) -> list[str]:
    """Those of these fields that stock code declares or reads somewhere; a note to oneself changes nothing."""
    stock = stock_of(model_type)
    readings = stock.readings([name for name in names if name not in stock.fields])
    return [name for name in names if name in stock.fields or readings[name].at_all]


def alike(a: Any, b: Any) -> bool:
    """Whether two values are the same or written alike: NaN is not equal to itself, and it may stand deep inside."""
    return bool(a == b) or json.dumps(a, default=str, sort_keys=True) == json.dumps(b, default=str, sort_keys=True)


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    names = (n for n in {*a, *b} - BOOKKEEPING if not TRAINS.fullmatch(n))
    return sorted(n for n in names if (n in a) != (n in b) or not alike(a.get(n), b.get(n)))


def _as_loaded(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Every field as the installed config class has it; None where it does not take this config."""
    import transformers

    try:
        return dict(transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).to_dict())
    except Exception:  # a class that refuses it has no defaults for it
        return None


def one_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its dtype under one name, whatever its generation called it."""
    fields = dict(config)
    older = fields.pop("torch_dtype", None)
    dtype = fields.pop("dtype", None) or older
    return fields if dtype is None else {**fields, "dtype": dtype}


# Fields that change no output; the others are compared although some families read them nowhere.
NEUTRAL = COMMON_FIELDS - {
    *("architectures", "model_type", "is_decoder", "is_encoder_decoder", "dtype", "torch_dtype", "pruned_heads"),
    *("pad_token_id", "eos_token_id", "decoder_start_token_id", "problem_type"),  # what a loss or a pooled state reads
}


def config_differences(source: Mapping[str, Any], grown: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields that differ between two configs, bookkeeping apart."""
    a, b = one_dtype(source), one_dtype(grown)
    for name in sorted((a.keys() | b.keys()) - {"transformers_version", "_name_or_path"}):
        if not alike(a.get(name), b.get(name)):
            yield {"field": name, "source": a.get(name), "grown": b.get(name)}


def unlike(source: Mapping[str, Any], grown: Mapping[str, Any], widths_of: str | None = None) -> list[dict[str, Any]]:
    """The fields in which two configs say another thing to stock code, `significant` ones; with defaults filled in."""
    names = read_by_stock(str(source.get("model_type")), differing(source, grown))
    a, b = one_dtype(source), one_dtype(grown)
    return significant(({"field": n, "source": a.get(n), "grown": b.get(n)} for n in names), widths_of)


def significant(
    differences: Iterable[dict[str, Any]], widths_of: str | None = None, *, neutral: Collection[str] = NEUTRAL
) -> list[dict[str, Any]]:
    """The differences that can change an output, without sizes of a family that became larger, as in a growth."""
    family = FAMILIES.get(widths_of or "")
    widths = (
        {family.axes[axis] for axis in (*family.growable, *family.mirrors) if axis in family.axes} if family else set()
    )
    widths |= {family.synonyms[name] for name in widths & family.synonyms.keys()} if family else set()
    lists = {name for one in family.layer_lists for name in (one.field, *one.said_too)} if family else set()
    ignored = {*neutral, "dtype", "torch_dtype"}
    return [
        d
        for d in differences
        if d["field"] not in ignored
        and not (d["field"] in widths and not _less(d["grown"], d["source"]))
        and not (d["field"] in lists and _longer(d["grown"], d["source"]))
        and not TRAINS.fullmatch(d["field"])
        and not (d["source"] is None and d["grown"] is None)
    ]


def _less(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a < b


def _longer(a: Any, b: Any) -> bool:
    """Whether one list is of more layers than another; of runs, whether they make more."""
    if (longer := expanded(a)) is not None and (shorter := expanded(b)) is not None:
        a, b = longer, shorter
    return isinstance(a, list) and isinstance(b, list) and len(a) > len(b)
