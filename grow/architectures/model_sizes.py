"""The size of every axis of a model, from its config fields or from what stock code takes where they say none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from grow.architectures.family import Family
from grow.architectures.size_laws import SizeLaw
from grow.errors import BadInput

UNSAID = (None, "auto")


class Model(Protocol):
    """What is asked of a model."""

    @property
    def family(self) -> Family: ...

    def get(self, name: str) -> Any: ...

    def law_of(self, axis: str) -> SizeLaw | None: ...


def sizes_of(model: Model) -> Mapping[str, int]:
    """BadInput when the fields contradict each other."""
    family = model.family
    sizes: dict[str, int] = {}
    for axis, name in family.axes.items():
        if axis in family.computed and model.law_of(axis):
            continue
        value = model.get(name)
        if value in UNSAID and axis in family.default_sizes:
            value = family.default_sizes[axis].read_with(family.axes, model.get).value(sizes)
        if axis == "head_dim" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(
                f"config.json: {name}",
                what=f"{value!r}, wanted a positive integer",
                why=f"{name} is the size of the axis {axis}",
                fix=f"set {name} to the size that the weights have",
            )
        sizes[axis] = value
    for axis in family.computed:
        if law := model.law_of(axis):
            sizes[axis] = law.value(sizes) or 0
    if not family.attends:
        family.check_caps(sizes)
        return sizes
    sizes.setdefault("kv_heads", sizes["heads"])
    family.check_caps(sizes)
    if "head_dim" not in sizes:
        if sizes["hidden"] % sizes["heads"]:
            raise BadInput(
                f"config.json: {family.axes['heads']}",
                what=f"{sizes['heads']} heads do not divide hidden {sizes['hidden']}",
                why="head_dim = hidden / heads",
                fix=divisor_hint(family.axes["heads"], sizes["hidden"], sizes["heads"]),
            )
        sizes["head_dim"] = sizes["hidden"] // sizes["heads"]
        family.check_caps(sizes)
    if sizes["heads"] % sizes["kv_heads"]:
        raise BadInput(
            f"config.json: {family.axes['kv_heads']}",
            what=f"{sizes['kv_heads']} kv heads do not divide {sizes['heads']} heads",
            why="each kv head serves heads / kv_heads query heads",
            fix=divisor_hint(family.axes["kv_heads"], sizes["heads"], sizes["kv_heads"]),
        )
    return sizes


def divisor_hint(field: str, whole: int, part: int) -> str:
    """The divisors of `whole` that are nearest to `part`, as values of a field."""
    divisors = [k for k in range(1, whole + 1) if whole % k == 0]
    near = sorted(sorted(divisors, key=lambda k: abs(k - part))[:3])
    return f"{field} = " + " or ".join(map(str, near))
