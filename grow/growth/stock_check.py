"""What stock code makes of a planned result, asked before a weight is written.

Plans are made from a family's table. The stock class has checks of its own config and shapes of its own; where the two
disagree the table is wrong or says too little, and nobody should have to write a large checkpoint to find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grow.architectures.match import match
from grow.architectures.match_faults import Info
from grow.errors import BadInput, GrowError, Refused, listing
from grow.planning.plan import Plan
from grow.spelling import option


def check_stock(plan: Plan) -> int:
    """How many tensors of the result have the shape that the stock class gives them.

    The class is built from the grown config on the meta device, where tensors have shapes and no numbers. Refused where
    it does not build, or where a tensor differs. 0 where this version of transformers has no such class.
    """
    import transformers

    name = str(plan.new_config["architectures"][0])
    cls = getattr(transformers, name, None)
    if cls is None:
        return 0
    shapes = {name: Info("F32", shape) for name, shape in _stock_shapes(cls, plan).items()}
    try:
        stock = match(plan.grown, shapes, name).tensors
    except BadInput as error:
        raise _refused(plan, f"{name} has other tensors than the plan: {error.what}") from error
    by_name = {t.canonical: t.shape for t in stock}
    planned = {t.canonical: t.new_shape for t in plan.tensors}
    if wrong := list(_differing(planned, by_name)):
        raise _refused(plan, f"{name} has other shapes than the plan: {listing(wrong, 3)}")
    return len(planned)


def _stock_shapes(cls: Any, plan: Plan) -> dict[str, tuple[int, ...]]:
    """Stored name -> shape, of the stock class with the grown config."""
    from grow.files.json_floats import plain
    from grow.models.as_configured import skeleton
    from grow.models.fused_experts import in_files

    try:
        model = skeleton(cls, cls.config_class.from_dict(plain(dict(plan.new_config))))
    except GrowError:
        raise
    except Exception as error:  # whatever stock code raises, in code that is not ours
        first = (str(error).strip().splitlines() or [""])[-1].strip()
        raise _refused(plan, f"{cls.__name__} builds no model of the grown config: {first}") from error
    return {name: tuple(t.shape) for name, t in in_files(model, model.state_dict()).items()}


def _differing(planned: dict[str, tuple[int, ...]], stock: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for name, shape in planned.items():
        if name in stock and stock[name] != shape:
            yield f"{name} is {list(stock[name])}, planned {list(shape)}"


def _refused(plan: Plan, what: str) -> Refused:
    grown = {axis: plan.new_sizes[axis] for axis in plan.axes if plan.new_sizes[axis] != plan.sizes[axis]}
    fields = {plan.family.axes[axis]: size for axis, size in grown.items() if axis in plan.family.axes}
    return Refused(
        option(to=fields),
        what=what,
        why="the result must load in plain transformers, and it would not",
        fix="another target; and report it: the family's table should have refused this one",
    )
