"""Trial growths: one axis of a tiny random model, under one value of a fact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.match import match
from grow.deriving.tiny_models import NotBuilt, TinyModel
from grow.errors import GrowError
from grow.growth.built_model import grow_state
from grow.planning.growth_options import GrowthOptions
from grow.planning.plan import plan_for

EXACT = 1e-9
"""Outputs of a wrong fact are off by 1e-3 of their std and more, those of a right one by 1e-13."""

FLOAT64 = GrowthOptions(dtype="float64")


@dataclass(frozen=True)
class Trial:
    """What a growth came to: how far the outputs are off, or why it was refused; and what it wrote."""

    to: Mapping[str, int]
    off: float | None = None
    refused: str = ""
    state: Mapping[str, torch.Tensor] | None = None

    @property
    def exact(self) -> bool:
        return self.off is not None and self.off < EXACT

    @property
    def words(self) -> str:
        return self.refused if self.off is None else f"{self.off:.0e}"


def tried(tiny: TinyModel, family: Family, to: Mapping[str, int]) -> Trial:
    """The growth of a tiny model as the family says it."""
    try:
        matched = match(Architecture(family, tiny.config), tiny.tensors, family.model_type)
        plan = plan_for(matched, dict(to), FLOAT64)
        state = grow_state(plan, tiny)
        return Trial(to, tiny.off(plan.new_config, state), state=state)
    except GrowError as error:
        return Trial(to, refused=f"refused: {error.where}: {error.what}")
    except NotBuilt as error:
        return Trial(to, refused=f"stock code: {error}")
    except (ValueError, AssertionError, KeyError, IndexError, RuntimeError, TypeError) as error:
        # a table that contradicts itself: what follows from it is not defined
        return Trial(to, refused=f"no growth follows from it: {type(error).__name__}: {str(error)[:80]}")


def same(a: Trial, b: Trial) -> bool:
    """Whether two trials wrote the same numbers: then the fact makes no difference to this growth."""
    if a.state is None or b.state is None or a.state.keys() != b.state.keys():
        return False
    return all(torch.equal(tensor, b.state[name]) for name, tensor in a.state.items())


def failing(tiny: TinyModel, family: Family, exact: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The axes whose growth is not exact on another model. What has no axis in common is tried in one growth.

    exact  axis -> the sizes to which it grew exactly
    """
    groups: list[tuple[list[str], dict[str, int]]] = []
    for axis, to in exact.items():
        group = next((group for group in groups if not group[1].keys() & to.keys()), None)
        if group is None:
            groups.append(([axis], dict(to)))
        else:
            group[0].append(axis)
            group[1].update(to)
    found = []
    for axes, to in groups:
        if not tried(tiny, family, to).exact:
            found += [axis for axis in axes if not tried(tiny, family, exact[axis]).exact]
    return found


def targets(family: Family, sizes: Mapping[str, int], axis: str) -> list[dict[str, int]]:
    """The sizes that an axis is grown to, the freest first: what is exact for it is exact for those behind it too."""
    return [to for to in _targets(family, sizes, axis) if to]


def _targets(family: Family, sizes: Mapping[str, int], axis: str) -> Iterator[dict[str, int]]:
    n, h, k = sizes.get("hidden", 0), sizes.get("heads", 1), sizes.get("kv_heads", 1)
    grouped = "kv_heads" in family.axes

    def heads(factor: float) -> dict[str, int]:
        more = {"heads": round(h * factor)}
        return {**more, "kv_heads": round(k * factor)} if grouped else more

    if axis == "hidden":
        wide = heads(1.5) if family.derived_head_dim else {}
        yield {"hidden": n * 3 // 2 if wide else n + 2 * h, **wide}
        yield {"hidden": 2 * n, **(heads(2) if wide else {})}
    elif axis == "heads":
        if family.derived_head_dim:
            yield {"hidden": 2 * n, **heads(2)}
        else:
            yield heads(1.5)
            yield heads(2)
    elif axis == "kv_heads" and grouped:
        yield {"kv_heads": h}
    elif axis == "head_dim":
        if family.derived_head_dim:
            yield {"hidden": n * 3 // 2}
            yield {"hidden": 2 * n}
        else:
            yield {"head_dim": sizes["head_dim"] + 4}
            yield {"head_dim": 2 * sizes["head_dim"]}
    elif axis in family.units:
        yield {axis: sizes[axis] + 5}
        yield {axis: 2 * sizes[axis]}
    elif axis == "layers":
        yield {"layers": sizes["layers"] + 3}
    elif axis == "experts":
        yield {"experts": 2 * sizes["experts"]}
    elif axis in ("vocab", "positions"):
        yield {axis: sizes[axis] + 7}
