"""The outline of a checkpoint that is not there yet: config, names, dtypes, shapes.

What every stage of a recipe would leave follows from its options and the outline in front of it; no weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grow.architectures import FAMILIES, architecture_of
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.match import match
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, Refused, did_you_mean
from grow.files.locate import locate
from grow.notation.dtypes import CODES, ITEMSIZE
from grow.planning.change import Change
from grow.planning.growth_options import GrowthOptions
from grow.planning.plan import Plan, plan_for
from grow.planning.record import assumed, read_record
from grow.spelling import left_out, option


@dataclass(frozen=True)
class Slot:
    """What `grow.architectures.match` has to know of a tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Outline:
    """A checkpoint without weights. `path` is for messages and the tokenizer; `change` is the growth that made it."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, Slot]
    change: Change | None = None

    @property
    def parameters(self) -> int:
        return sum(math.prod(t.shape) for t in self.tensors.values())

    @property
    def disk_bytes(self) -> int:
        return sum(math.prod(t.shape) * ITEMSIZE.get(t.dtype, 8) for t in self.tensors.values())


def outline_of(src: str, revision: str | None = None) -> Outline:
    """The outline of a checkpoint that exists: folder, hub id or bundled name."""
    with open_checkpoint(locate(src, revision=revision)) as checkpoint:
        tensors = {name: Slot(info.dtype, info.shape) for name, info in checkpoint.tensors.items()}
        record = read_record(checkpoint.path)
        return Outline(checkpoint.path, dict(checkpoint.config), tensors, record.change if record else None)


def random_outline(
    src: str, sizes: str | Mapping[str, int], dtype: str, revision: str | None, harmless: Sequence[str]
) -> Outline:
    """The outline of random weights with the config of `src` in other sizes."""
    given = outline_of(src, revision)
    source = architecture_of(given.config)
    check_fields(source, {*harmless, *assumed(given.path, given.config)})
    config = sized(match(source, given.tensors, str(given.path)).architecture, sizes)
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    made, code = source.with_config(config), CODES[dtype]
    rows = {name: row for name, row in made.tensors.items() if not row.optional}
    tensors = {name: Slot(code, row.signature.shape(made.sizes)) for name, row in rows.items()}
    return Outline(given.path, config, tensors)


def sized(source: Architecture, sizes: str | Mapping[str, int]) -> dict[str, Any]:
    """The config in other sizes, larger or smaller; BadInput when the family has no model of these sizes."""
    family = source.family
    if isinstance(sizes, str):
        if sizes not in family.sizes:
            hint = did_you_mean(sizes, family.sizes)
            why = f"sizes of {family.model_type}: {', '.join(family.sizes)}"
            what = f"no such size; {hint}".rstrip("; ")
            raise BadInput(option(sizes=sizes[:120]), what=what, why=why, fix="a table of fields")
        sizes = family.sizes[sizes]
    by_field = {field: axis for axis, field in family.axes.items()}
    by_field |= {other: by_field[name] for name, other in family.synonyms.items() if name in by_field}
    old, fields = source.sizes, {}
    for name, size in sizes.items():
        axis = by_field.get(name, name)
        if axis not in family.axes:
            known = [*family.axes, *family.axes.values()]
            hint = did_you_mean(name, known)
            why = f"axes: {', '.join(family.axes)}"
            what = f"no such size; {hint}".rstrip("; ")
            raise BadInput(option(sizes={name: size}), what=what, why=why, fix="leave it out")
        fields[family.axes[axis]] = size
    for axis, law in source.followed.items():
        follows = law.value({**old, **{by_field[name]: n for name, n in fields.items()}})
        if axis in family.axes and follows:
            fields.setdefault(family.axes[axis], follows)
    made = {**source.config, **fields}
    new = source.with_config(made).sizes
    if new["layers"] != old["layers"]:
        for listed in family.layer_lists:
            made.pop(listed.field, None)  # the stock config fills them in anew
            if kinds := source.layer_entries.get(listed.field) if listed.said_too else None:
                made |= listed.otherwise([kinds[i % len(kinds)] for i in range(new["layers"])])
    if family.divides and new["hidden"] % new["heads"]:
        what = f"{new['heads']} heads do not divide hidden {new['hidden']}"
        why = f"the stock {family.model_type} config refuses it"
        hidden = new["heads"] * max(1, new["hidden"] // new["heads"])
        raise BadInput(option(sizes=dict(sizes)), what=what, why=why, fix=f"hidden = {hidden}")
    return made


def grown_outline(source: Outline, to: Any, options: GrowthOptions, harmless: Sequence[str]) -> tuple[Outline, Plan]:
    """(what a growth makes of `source`, its plan); raises Refused and BadInput as the growth itself does."""
    known = architecture_of(source.config)
    check_fields(known, {*harmless, *assumed(source.path, source.config)})
    plan = plan_for(match(known, source.tensors, str(source.path)), to, options)
    tensors = {t.name: Slot(t.dtype, t.new_shape) for t in plan.tensors}
    return Outline(source.path, dict(plan.new_config), tensors, plan.change), plan


def check_new_entries(outline: Outline, name: str) -> None:
    """BadInput or Refused where `name` needs to know what is new in the model, and nothing will say it."""
    if outline.change is None:
        what, why = "nothing has grown before it", "there is no grow.json that says what is new"
        raise BadInput(option(name), what=what, why=why, fix=left_out(name))
    if outline.change.redraw is not None:
        what, why = "the growth before it draws units of experts anew", "the sizes do not say which they are"
        raise Refused(option(name), what=what, why=why, fix=left_out(name))
    if name == "rates" and outline.change.makes_experts:
        what, why = "the growth before it makes experts", "their gradients are not multiples of the old ones"
        raise Refused(option(name), what=what, why=why, fix=left_out(name))


def at(outline: Outline, path: Path) -> Outline:
    return replace(outline, path=path)


def is_known(outline: Outline) -> bool:
    return outline.config["model_type"] in FAMILIES
