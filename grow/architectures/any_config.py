"""What every config.json must be, whatever its family."""

from __future__ import annotations

from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.common_fields import SIZES
from grow.errors import BadInput, Refused, did_you_mean, listing
from grow.files.header import show
from grow.files.json_floats import FLOAT

FLOATS = ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")


# Fields with which a checkpoint is not a plain one, unless they are null -> what that means, and what to do.
NOT_PLAIN = {
    "quantization_config": ("weights are quantised", "use the unquantised checkpoint, or dequantise first"),
    "auto_map": (
        "needs Python code from the folder, which grow never runs",
        "when transformers has the class built in, remove auto_map from a copy of config.json",
    ),
    "transformers_weights": ("names another weight file", "rename it to model.safetensors, remove the field"),
}

READ_THOUGH_PRIVATE = frozenset(name for family in FAMILIES.values() for name in family.defaults if name[0] == "_")
"""Fields with the name of a private one that stock code of some family reads all the same."""


def check_config(raw: Any, where: str, notes: list[str]) -> dict[str, Any]:
    """A copy without private fields, in which model_type, sizes and dtype are possible in any family."""
    if not isinstance(raw, dict):
        what = f"is a {type(raw).__name__}; wanted an object"
        fix = "use the config.json of a transformers checkpoint"
        raise BadInput(where, what=what, why="a config is fields with names", fix=fix)
    private: list[str] = []
    config: dict[str, Any] = _public(raw, "", private)
    if private:
        notes.append(f"config.json: private fields do not come along: {listing(map(show, private))}")
    faults: list[tuple[str, str, str]] = []
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        named = f" of {show(config['architectures'], 80)}" if config.get("architectures") else ""
        fix = f"add the model_type{named} to config.json, as the model that it was made from has it"
        faults.append(("model_type", f"{value_and_type(kind)}; wanted the name of a family", fix))
    classes = config.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(type(n) is str and n for n in classes)):
        fix = "correct architectures in config.json to the class that wrote it, in a list"
        faults.append(("architectures", f"{value_and_type(classes)}; wanted a list with the name of the class", fix))
    for name in filter(SIZES.fullmatch, config):
        value = config[name]
        each = value if isinstance(value, list) and len(value) > 1 else [value]  # Swin has some for every stage
        if value is not None and not all(type(n) is int and 1 <= n < 2**31 for n in each):
            fix = f"correct {name} in config.json to the size that the weights have"
            faults.append((name, f"{value_and_type(value)}; wanted an integer from 1 to {2**31 - 1}", fix))
    for name in ("dtype", "torch_dtype"):
        value = config.get(name)
        if value is not None and value not in (*FLOATS, "auto"):
            what = f"{value_and_type(value)}; wanted one of {', '.join(FLOATS)}"
            hint = did_you_mean(str(value)[:40], FLOATS)
            faults.append((name, f"{what}; {hint}" if hint else what, f"{name}=float32, say"))
    if faults:
        (name, what, fix), *more = faults
        details = [("also", f"{field}: {fault}") for field, fault, _ in more]
        why = "every model of every family is built from these"
        raise BadInput(f"{where}: {name}", what=what, why=why, fix=fix, details=details)
    for name, (what, fix) in NOT_PLAIN.items():
        if config.get(name) not in (None, {}):
            why = "growth is exact only for plain weights of a stock class"
            raise Refused(f"{where}: {name}", what=what, why=why, fix=fix)
    return config


def is_public(name: str) -> bool:
    """Whether a field is one that somebody else may read."""
    return not name.startswith("_") or name in READ_THOUGH_PRIVATE


def _public(value: Any, prefix: str, private: list[str]) -> Any:
    """`value` without keys that begin with an underscore, at any depth: stock loading obeys some of them."""
    if isinstance(value, list):
        return [_public(item, prefix, private) for item in value]
    if not isinstance(value, dict) or value.keys() == {FLOAT}:  # such an object is a number
        return value
    hidden = [name for name in value if not is_public(name)]
    private += [prefix + name for name in hidden]
    public = [(name, item) for name, item in value.items() if name not in hidden]
    return {name: _public(item, f"{prefix}{name}.", private) for name, item in public}


def value_and_type(value: Any) -> str:
    """`-64 (int)`, or `missing` for null: what a message says of a field."""
    return "missing" if value is None else f"{show(repr(value), 60)} ({type(value).__name__})"
