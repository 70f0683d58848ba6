"""A plan tried: the stock class asked for its shapes, and a tiny model of the same pattern grown the same way."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grow.errors import GrowError
from grow.growth.file_options import FileOptions
from grow.growth.from_files import widen_files
from grow.growth.stock_check import check_stock
from grow.growth.written_and_verified import Different
from grow.planning.growth_options import USUAL, GrowthOptions
from grow.planning.plan import Plan

HEAD = 8  # head_dim of the tiny model, about
UNITS = 12
ROWS = 64  # of its tables
LAYERS = 4  # at most
RUNGS = ("certificate", "true_float64")


@dataclass(frozen=True)
class Trial:
    """What was tried.

    tensors   how many have the shape that the stock class gives them
    grown     axis -> (old, new) of the tiny model; empty where none of this pattern could be grown
    relative  the largest difference of its outputs in true float64, relative to their spread
    reason    why no tiny model was grown
    """

    tensors: int
    grown: Mapping[str, tuple[int, int]]
    relative: float | None = None
    reason: str = ""

    @property
    def note(self) -> str:
        """In words."""
        shapes = f"tried: the stock class builds the result, with the shapes of all {self.tensors} tensors as planned"
        if not self.grown:
            return f"{shapes}; no tiny model of this pattern was grown: {self.reason}"
        sizes = ", ".join(f"{axis} {old} -> {new}" for axis, (old, new) in self.grown.items())
        return f"{shapes}; a tiny random model ({sizes}) grown alike differs by {self.relative:.1e} in true float64"


def try_plan(plan: Plan, options: GrowthOptions = USUAL) -> Trial:
    """Refused where the stock class builds something else, Different where the tiny model computes something else."""
    tensors = check_stock(plan)
    if plan.change.upcycling is not None or plan.lossy:
        return Trial(tensors, {}, reason="experts are made of a dense model, or the method is not exact")
    sizes = _tiny_sizes(plan)
    with tempfile.TemporaryDirectory(prefix="grow-try-") as folder:
        try:
            source = _written(Path(folder) / "source", plan, {axis: old for axis, (old, _) in sizes.items()})
            to = {axis: new for axis, (old, new) in sizes.items() if new != old}
            files = FileOptions(out=Path(folder) / "grown", verify=False)
            place = options.place if options.place in ("spread", "top") else "spread"
            widen_files(source, to, replace(options, place=place, deepen=False, dtype="auto"), files)
        except (GrowError, ValueError, TypeError, RuntimeError, IndexError) as error:
            reason = error.what if isinstance(error, GrowError) else (str(error).splitlines() or [""])[0]
            return Trial(tensors, {}, reason=reason)
        relative = _difference(source, Path(folder) / "grown")
    changed = {axis: pair for axis, pair in sizes.items() if pair[0] != pair[1]}
    return Trial(tensors, changed, relative)


def _difference(source: Path, grown: Path) -> float:
    """The largest difference in true float64, relative to the outputs' spread; Different where it is one."""
    from grow.checkpoint.reader import open_checkpoint
    from grow.verification.ladder import verify_folders

    with open_checkpoint(source) as a, open_checkpoint(grown) as b:
        found = verify_folders(a, b, rungs=RUNGS)
    if not found.sound:
        failed = [f"{check.name}: {check.reason}" for check in found.checks if check.status == "fail"]
        raise Different(
            "a tiny model of the same pattern",
            what="computes something else once it has grown",
            why="; ".join(failed)[:400],
            fix="do not grow by this plan, and report it: the family's table is wrong",
            verification=found,
        )
    check = found.check("true_float64")
    return float(check.measured.get("relative", 0.0)) if check else 0.0


def _tiny_sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Axis -> (old, new): heads as they are, heads and units small, every ratio whole where the plan's is."""
    old, new, family = plan.sizes, plan.new_sizes, plan.family
    sizes = {axis: (old[axis], new[axis]) for axis in old}
    factor = max(1, old.get("head_dim", HEAD) // HEAD)
    while factor > 1 and any(n[axis] % factor for n in (old, new) for axis in ("hidden", "head_dim") if axis in n):
        factor -= 1
    for axis in ("hidden", "head_dim"):
        if axis in sizes:
            sizes[axis] = (old[axis] // factor, new[axis] // factor)
    for axis in plan.source.units:
        sizes[axis] = _units(old[axis], new[axis])
    for axis in family.depths:
        layers = min(old[axis], LAYERS)
        sizes[axis] = (layers, layers + min(2, new[axis] - old[axis]))
    for axis in ("vocab", "positions"):
        if axis in sizes and not (axis == "positions" and family.attention.rope):
            sizes[axis] = (ROWS, ROWS + (5 if new[axis] > old[axis] else 0))
    for axis, law in plan.source.followed.items():
        before, after = (law.value({a: pair[k] for a, pair in sizes.items()}) for k in (0, 1))
        if before and after:
            sizes[axis] = (before, after)
    return sizes


def _units(n: int, m: int) -> tuple[int, int]:
    if m == n:
        return UNITS, UNITS
    return (UNITS, UNITS * min(4, m // n)) if m % n == 0 else (UNITS, UNITS + 5)


def _written(folder: Path, plan: Plan, sizes: Mapping[str, int]) -> Path:
    """A checkpoint of the plan's stock class with these sizes, every parameter drawn."""
    import torch
    import transformers

    from grow.files.json_floats import plain
    from grow.models.true_float64 import quiet

    family = plan.family
    counted = {one.field: one.layers for one in family.layer_lists}  # other lists: of the first stack
    config = {
        name: _cut(name, value, *(n[counted.get(name, family.depths[0])] for n in (plan.sizes, sizes)))
        for name, value in plain(plan.config).items()
    }
    config |= {field: sizes[axis] for axis, field in family.axes.items() if config.get(field) is not None}
    cls = getattr(transformers, str(config["architectures"][0]))
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(cls.config_class.from_dict(config)).double().eval()  # wide: a growth that rounds is exact here
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn(p.shape)
                if p.ndim < 2:
                    p.copy_(0.3 * noise + name.endswith("weight"))
                else:
                    p.copy_(noise if "embed" in name else noise * (2 / min(p.shape[-2:])) ** 0.5)
        model.save_pretrained(folder)
    return folder


def _cut(name: str, value: Any, layers: int, fewer: int) -> Any:
    """Lists that are as long as the layers are cut, and ids of tokens that are not there become 1."""
    if isinstance(value, list) and len(value) == layers and name != "architectures":
        return value[:fewer]
    if name.endswith("token_id") and isinstance(value, int) and value >= ROWS:
        return 1
    return 1 if name.endswith("token_id") and isinstance(value, list) else value
