"""Refusals of sizes that no model of the family can have, or that are smaller than the source's."""

from __future__ import annotations

from collections.abc import Mapping

from grow.architectures.architecture import Architecture
from grow.architectures.family import WIDTHS
from grow.errors import Refused
from grow.planning.nearest_sizes import nearest, reachable
from grow.spelling import option


def check_sizes(source: Architecture, new: Mapping[str, int]) -> None:
    family, old = source.family, source.sizes

    def field(axis: str) -> str:
        return family.axes.get(axis, axis)

    given = {axis: new[axis] for axis in (*family.growable, *family.follows) if axis in new}
    family.check_caps(given, lambda name, size: option(to={name: size}))
    fewer = [axis for axis in family.growable if axis in new and axis not in WIDTHS and new[axis] < old[axis]]
    if fewer:  # before the widths: what is suggested for them would be refused for these
        raise Refused(
            option(to={field(a): new[a] for a in fewer}),
            what=", ".join(f"{a} {old[a]} -> {new[a]}" for a in fewer),
            why="a smaller axis loses information",
            fix="at least " + ",".join(f"{field(a)}={old[a]}" for a in fewer),
        )
    for stack in source.stacks:
        if stack.within and new[stack.layers] > new[stack.within] and old[stack.layers] <= old[stack.within]:
            deeper, within = field(stack.layers), field(stack.within)
            raise Refused(
                option(to={deeper: new[stack.layers]}),
                what=f"{new[stack.layers]} {stack.layers} and {new[stack.within]} {stack.within}",
                why=f"the stock {family.model_type} makes the cache of the one as long as the other, so a model with "
                "more of them could not generate",
                fix=f"{deeper}={new[stack.layers]},{within}={new[stack.layers]}",
            )
    if new["heads"] % new["kv_heads"]:
        raise Refused(
            option(to={field("heads"): new["heads"]}),
            what=f"{new['kv_heads']} kv heads do not divide {new['heads']} heads",
            why="each kv head serves heads / kv_heads query heads",
            fix=nearest(source, new),
        )
    if (family.divides or family.derived_head_dim) and new["hidden"] % new["heads"]:
        raise Refused(
            option(to={field("hidden"): new["hidden"]}),
            what=f"{new['heads']} heads do not divide hidden {new['hidden']}",
            why=f"the stock {family.model_type} config refuses hidden % heads != 0 when it is loaded",
            fix=nearest(source, new),
        )
    if family.derived_head_dim and new["head_dim"] * new["heads"] != new["hidden"]:
        wide = {**new, "hidden": new["heads"] * new["head_dim"]}
        raise Refused(
            option(to={"head_dim": new["head_dim"]}),
            what=f"{new['heads']} heads × {new['head_dim']} != hidden {new['hidden']}",
            why=f"{family.model_type} computes head_dim = hidden / heads",
            fix=f"{field('hidden')}={wide['hidden']}" if reachable(source, wide) else "leave head_dim out",
        )
    shrunk = [axis for axis in family.growable if axis in new and new[axis] < old[axis]]
    if shrunk:
        derived = family.derived_head_dim and shrunk == ["head_dim"]
        raised = {**new, **{axis: old[axis] for axis in shrunk}}
        raise Refused(
            option(to={field(a): new[a] for a in shrunk}),
            what=", ".join(f"{a} {old[a]} -> {new[a]}" for a in shrunk),
            why="a smaller axis loses information" + ("; here head_dim = hidden / heads" if derived else ""),
            fix="at least " + ",".join(f"{field(a)}={old[a]}" for a in shrunk)
            if not derived and reachable(source, raised)
            else nearest(source, new),
        )
