"""Every integer field of a config doubled: which dimension of which tensor each of them moves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.common_fields import COMMON_FIELDS
from grow.architectures.names_of_axes import NAMES, SIZES, TOP_K_FIELDS
from grow.deriving.tiny_models import NotBuilt, shapes, stock_config

OPEN_SIZES = (10, 18, 26, 30, 34, 38, 42, 46, 50, 54)
"""Of axes that have no known name."""
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LABELS = 5
TOP_K = 2
WINDOW = 5
EPS, EPS_FIELD = 0.05, re.compile(r"\w*(eps|epsilon)")


@dataclass(frozen=True)
class Moves:
    """What the integer fields of a model type do.

    axes    axis -> config field; one without a known name is called as its field
    fields  of the tiny model's config
    base    name -> shape
    after   field -> name -> shape with that field doubled
    broken  field -> why stock code does not build with it doubled
    lists   fields with one entry per layer
    """

    axes: Mapping[str, str]
    fields: Mapping[str, Any]
    base: Mapping[str, tuple[int, ...]]
    after: Mapping[str, Mapping[str, tuple[int, ...]]]
    broken: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()

    def moving(self, name: str, dim: int) -> frozenset[str]:
        """The fields that change this dim."""
        return frozenset(
            field
            for field, moved in self.after.items()
            if name in moved and len(moved[name]) > dim and moved[name][dim] != self.base[name][dim]
        )

    def sizes(self, doubled: str = "") -> dict[str, int]:
        """Axis -> size as the stock class resolves it, with one field doubled."""
        found = {
            axis: self.fields[name] * (2 if name == doubled else 1)
            for axis, name in self.axes.items()
            if isinstance(self.fields.get(name), int)
        }
        if "heads" in found:
            found.setdefault("kv_heads", found["heads"])
            found.setdefault("head_dim", found["hidden"] // found["heads"])
        return found


@cache
def names_of_axes() -> dict[str, str]:
    """Config field -> axis, as the families that grow knows call it, and some names more."""
    found: dict[str, str] = {}
    for family in FAMILIES.values():
        for axis, name in family.axes.items():
            found.setdefault(name, axis)
    for axis, names in NAMES.items():
        for name in names:
            found.setdefault(name, axis)
    return found


def axes_in(config: Any) -> dict[str, str]:
    """Axis -> field, by the names of the fields and by what the config class says that they stand for."""
    said = config.to_dict()
    known = names_of_axes()
    found: dict[str, str] = {}
    stands_for = {own: usual for usual, own in (getattr(config, "attribute_map", None) or {}).items()}
    for name in said:
        axis = known.get(stands_for.get(name, name)) or known.get(name)
        if axis and axis in SIZES and (type(said[name]) is int or said[name] is None):
            found.setdefault(axis, name)
    return found


def usual_fields(config: Any) -> dict[str, Any]:
    """Fields of a tiny model: sizes, ids inside the vocabulary, an eps that shows, windows shorter than the text."""
    said = config.to_dict()
    fields: dict[str, Any] = {field: SIZES[axis] for axis, field in axes_in(config).items()}
    for name, value in said.items():
        if EPS_FIELD.fullmatch(name) and isinstance(value, float):
            fields[name] = EPS
        elif name in TOP_K_FIELDS and type(value) is int:
            fields[name] = TOP_K
        elif name == "sliding_window" and type(value) is int:
            fields[name] = WINDOW
        elif name.endswith("_token_id") and type(value) is int and value >= SIZES["vocab"]:
            fields[name] = 3
    return {**fields, **IDS, "num_labels": LABELS, "tie_word_embeddings": False}


def probed(model_type: str, cls: type, more: Mapping[str, Any] | None = None) -> Moves:
    """The stock class built once as it is and once for each integer field doubled, on the meta device.

    more  fields that differ from the usual ones
    """
    stock = stock_config(model_type, {})
    if getattr(stock, "sub_configs", None):
        raise NotBuilt("its config holds the configs of several models")
    fields, axes = {**usual_fields(stock), **(more or {})}, axes_in(stock)
    for missing in ("hidden", "heads", "layers", "vocab"):
        if missing not in axes:
            raise NotBuilt(f"no field of its config has a known name of the axis {missing}")
    fields, base = _buildable(model_type, cls, fields, axes)
    said = {**stock_config(model_type, fields).to_dict(), "num_labels": LABELS}
    fields = {**fields, **{axes[a]: said[axes[a]] for a in axes if axes[a] in said}}
    if axes.get("head_dim") is None and (own := _undeclared_head_dim(model_type, cls, fields, base)) is not None:
        axes["head_dim"], base = "head_dim", own
        fields["head_dim"] = said["head_dim"] = SIZES["head_dim"]
    after, broken = _doubled(model_type, cls, fields, said, axes)
    more_axes = _open_axes(base, after, axes)
    if more_axes:
        fields, base = _smaller(model_type, cls, fields, base, more_axes)
        axes |= more_axes
        said = {**stock_config(model_type, fields).to_dict(), "num_labels": LABELS}
        fields = {**fields, **{axes[a]: said[axes[a]] for a in axes if axes[a] in said}}
        after, broken = _doubled(model_type, cls, fields, said, axes)
    layers, lists = axes["layers"], []
    if layers in after:
        more = stock_config(model_type, {**fields, layers: 2 * fields[layers]}).to_dict()
        lists = [k for k, v in said.items() if isinstance(v, list) and len(more.get(k) or ()) == 2 * len(v) > 0]
    return Moves(axes, {**fields}, base, after, broken, tuple(lists))


def _doubled(
    model_type: str, cls: type, fields: Mapping[str, Any], said: Mapping[str, Any], axes: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, tuple[int, ...]]], dict[str, str]]:
    """Field -> shapes with it doubled, and field -> why stock code does not build then."""
    after: dict[str, Mapping[str, tuple[int, ...]]] = {}
    broken = {}
    for name, value in said.items():
        if type(value) is not int or value < 1 or name.endswith("_token_id") or _idle(name, axes):
            continue
        try:
            after[name] = shapes(cls, stock_config(model_type, {**fields, name: 2 * value}))
        except NotBuilt as error:
            broken[name] = str(error)
    return after, broken


def _open_axes(
    base: Mapping[str, tuple[int, ...]], after: Mapping[str, Mapping[str, tuple[int, ...]]], axes: Mapping[str, str]
) -> dict[str, str]:
    """Fields that move a tensor and have no known name of an axis, each as an axis that is called as it is."""
    found = {}
    for name, moved in after.items():
        resized = any(moved.get(tensor, shape) != shape for tensor, shape in base.items())
        if resized and name != "num_labels" and name not in axes.values():
            label = re.sub(r"[^a-z_]", "", name.lower()).strip("_")
            found[label if label not in SIZES else f"{label}_of_its_own"] = name
    return found


def _smaller(
    model_type: str,
    cls: type,
    fields: dict[str, Any],
    base: dict[str, tuple[int, ...]],
    more_axes: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The fields with small sizes of the axes that have no known name, where stock code builds with them."""
    for size, name in zip(OPEN_SIZES, more_axes.values()):
        try:
            base, fields = shapes(cls, stock_config(model_type, {**fields, name: size})), {**fields, name: size}
        except NotBuilt:
            continue
    return fields, base


def _idle(name: str, axes: Mapping[str, str]) -> bool:
    return name in COMMON_FIELDS - {"num_labels"} and name not in axes.values()


def _buildable(
    model_type: str, cls: type, fields: dict[str, Any], axes: dict[str, str]
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The fields with which stock code builds: where an axis cannot have the usual size, as the config has it."""
    try:
        return fields, shapes(cls, stock_config(model_type, fields))
    except NotBuilt as error:
        first = error
    for axis in ("head_dim", "embed", "kv_heads", "types", "positions"):
        if axis in axes:
            less = {k: v for k, v in fields.items() if k != axes[axis]}
            less |= {axes[axis]: fields[axes["heads"]]} if axis == "kv_heads" else {}
            try:
                found = shapes(cls, stock_config(model_type, less))
            except NotBuilt:
                continue
            if axis == "kv_heads":
                return less, found
            del axes[axis]
            return less, found
    raise first


def _undeclared_head_dim(
    model_type: str, cls: type, fields: Mapping[str, Any], base: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]] | None:
    """The shapes with a head_dim that the config class does not declare, where the model class reads it."""
    try:
        found = shapes(cls, stock_config(model_type, {**fields, "head_dim": SIZES["head_dim"]}))
    except NotBuilt:
        return None
    return found if found != base else None
