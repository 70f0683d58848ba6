"""Refusals of sizes that no model of the family can have, or that are smaller than the source's."""

from __future__ import annotations

from collections.abc import Mapping

from grow.architectures.architecture import Architecture
from grow.architectures.family import COUNTS
from grow.architectures.size_laws import SizeLaw
from grow.errors import Refused
from grow.planning.nearest_sizes import nearest, reachable
from grow.spelling import option


def check_sizes(source: Architecture, new: Mapping[str, int]) -> None:
    family, old = source.family, source.sizes

    def field(axis: str) -> str:
        return family.axes.get(axis, axis)

    given = {axis: new[axis] for axis in (*family.growable, *family.mirrors) if axis in new}
    family.check_caps(given, lambda name, size: option(to={name: size}))
    for refusal in source.refusals:
        axis = refusal.axis
        if refusal.forbids(old[axis], new[axis]):
            near = sorted({new[axis] // old[axis], -(-new[axis] // old[axis])} - {0, 1})
            wholes = " or ".join(f"{field(axis)}={k * old[axis]}" for k in near)
            raise Refused(
                option(to={field(axis): new[axis]}),
                what=f"would change {axis} {old[axis]} -> {new[axis]}"
                + (", which is not a whole multiple" if refusal.multiples else ""),
                why=refusal.why,
                fix=wholes if refusal.multiples else f"leave {field(axis)} at {old[axis]}",
            )
    fewer = [axis for axis in COUNTS if axis in new and new[axis] < old[axis]]
    if fewer:  # before the widths: what is suggested for them would be refused for these
        raise Refused(
            option(to={field(a): new[a] for a in fewer}),
            what=", ".join(f"{a} {old[a]} -> {new[a]}" for a in fewer),
            why="a smaller axis loses information",
            fix="at least " + ",".join(f"{field(a)}={old[a]}" for a in fewer),
        )
    if family.attends and "kv_heads" not in source.followed and new["heads"] % new["kv_heads"]:
        raise Refused(
            option(to={field("heads"): new["heads"]}),
            what=f"{new['kv_heads']} kv heads do not divide {new['heads']} heads",
            why="each kv head serves heads / kv_heads query heads",
            fix=nearest(source, new),
        )
    if family.divides and new["hidden"] % new["heads"]:
        raise Refused(
            option(to={field("hidden"): new["hidden"]}),
            what=f"{new['heads']} heads do not divide hidden {new['hidden']}",
            why=f"the stock {family.model_type} config refuses hidden % heads != 0 when it is loaded",
            fix=nearest(source, new),
        )
    for axis, law in source.followed.items():
        _check_law(source, new, axis, law)
    shrunk = [axis for axis in family.growable if axis in new and new[axis] < old[axis]]
    if shrunk:
        derived = all(axis in source.followed for axis in shrunk)
        laws = ", ".join(f"{axis} = {source.followed[axis]}" for axis in shrunk if derived)
        raised = {**new, **{axis: old[axis] for axis in shrunk}}
        raise Refused(
            option(to={field(a): new[a] for a in shrunk}),
            what=", ".join(f"{a} {old[a]} -> {new[a]}" for a in shrunk),
            why="a smaller axis loses information" + (f"; here {laws}" if derived else ""),
            fix="at least " + ",".join(f"{field(a)}={old[a]}" for a in shrunk)
            if not derived and reachable(source, raised)
            else nearest(source, new),
        )


def _check_law(source: Architecture, new: Mapping[str, int], axis: str, law: SizeLaw) -> None:
    """Refused where the size of `axis` is not the one that follows from the others."""
    family, wanted = source.family, law.value(new)
    first, solved = law.solved(new[axis], new)
    why = f"{family.model_type} computes {axis} = {law}"
    if axis in family.axes:
        why = f"stock {family.model_type} is built for {axis} = {law} only"
    if wanted is None:
        raise Refused(
            option(to={family.axes.get(first, first): new[first]}),
            what=law.uneven(new),
            why=why,
            fix=nearest(source, new),
        )
    if wanted != new[axis]:
        wide = {**new, first: solved or 0}
        raise Refused(
            option(to={family.axes.get(axis, axis): new[axis]}),
            what=law.unequal(axis, new[axis], new),
            why=why,
            fix=f"{family.axes[first]}={solved}" if reachable(source, wide) else f"leave {axis} out",
        )
