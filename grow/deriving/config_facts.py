"""Facts that a stock config class shows: defaults, what null means, lists with an entry per layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grow.architectures.layer_lists import LayerList
from grow.deriving.integer_fields import EPS_FIELD, Moves
from grow.deriving.tiny_models import NotBuilt, stock_config


def eps_of(said: Mapping[str, Any], model: Any) -> str | float:
    fields = [k for k, v in said.items() if EPS_FIELD.fullmatch(k) and isinstance(v, float)]
    if fields:
        return fields[0]
    for module in model.modules():
        for name in ("variance_epsilon", "eps", "epsilon"):
            if isinstance(getattr(module, name, None), float):
                return float(getattr(module, name))
    return 1e-5


def theta_of(said: Mapping[str, Any]) -> float:
    parameters = said.get("rope_parameters")
    theta = (parameters or {}).get("rope_theta") if isinstance(parameters, dict) else None
    return float(theta or said.get("rope_theta") or 1e4)


def turned_part(said: Mapping[str, Any]) -> float:
    parameters = said.get("rope_parameters") or {}
    return float(parameters.get("partial_rotary_factor") or said.get("partial_rotary_factor") or 1.0)


def defaults_of(model_type: str, moves: Moves, said: Mapping[str, Any], switches: Mapping[str, bool]) -> dict[str, Any]:
    """What stock code takes where config.json leaves a field out."""
    found: dict[str, Any] = {"tie_word_embeddings": bool(said.get("tie_word_embeddings", False)), **switches}
    for axis in ("kv_heads", "head_dim", "positions", "types", "ffn", "embed"):
        name = moves.axes.get(axis)
        if name is None:
            continue
        value = _left_out(model_type, moves, name)
        if axis == "kv_heads" and value == moves.fields[moves.axes["heads"]]:
            found[name] = f"={moves.axes['heads']}"
        elif axis == "head_dim" and value in (
            None,
            moves.fields[moves.axes["hidden"]] // moves.fields[moves.axes["heads"]],
        ):
            continue
        elif value is not None:
            found[name] = value
    return found


def _left_out(model_type: str, moves: Moves, name: str) -> Any:
    rest = {k: v for k, v in moves.fields.items() if k != name}
    try:
        return stock_config(model_type, rest).to_dict().get(name)
    except NotBuilt:
        return None


def nulls_of(model_type: str, moves: Moves) -> dict[str, str]:
    name = moves.axes.get("kv_heads")
    if name is None:
        return {}
    try:
        value = stock_config(model_type, {**moves.fields, name: None}).to_dict().get(name)
    except NotBuilt:
        return {}
    return {name: f"={moves.axes['heads']}"} if value == moves.fields[moves.axes["heads"]] else {}


def divides(model_type: str, moves: Moves) -> bool:
    """Whether the stock config refuses hidden % heads != 0."""
    if "head_dim" not in moves.axes:
        return True
    hidden = moves.axes["hidden"]
    try:
        stock_config(model_type, {**moves.fields, hidden: moves.fields[hidden] + 2})
    except NotBuilt:
        return True
    return False


def layer_lists_of(model_type: str, moves: Moves) -> tuple[LayerList, ...]:
    """The lists with one entry per layer. Words may be those that a deep model has, anything else what it likes."""
    deep = stock_config(model_type, {**moves.fields, moves.axes["layers"]: 24}).to_dict()
    found = []
    for name in moves.lists:
        words = all(isinstance(entry, str) for entry in deep[name])
        usual = LayerList().entries
        entries = tuple(dict.fromkeys((*deep[name], *(usual if deep[name][0] in usual else ())))) if words else ()
        found.append(LayerList(name, entries, needed=True))
    return tuple(found) or (LayerList(),)


def class_prefix_of(cls: type, main: str, model_type: str) -> str:
    begins = cls.__name__.removesuffix(main)
    return "" if begins == model_type.capitalize() else begins
