"""What the grown model can learn: dead parameters and locked twins after a few optimizer steps.

A *dead* parameter never gets a gradient (two zero factors on its path), a *locked* twin is a copy that is still
equal to another one. Both are capacity that was paid for and cannot be used; losslessness does not see them.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from grow.architectures.match import numberless
from grow.models.experts import asked, in_files
from grow.models.true_float64 import SMALL, TrueFloat64
from grow.notation.axes import GAIN, READ, SHIFT
from grow.planning.tensor import TensorPlan
from grow.verification.outputs.compare import RUN_ERRORS
from grow.verification.outputs.forward_passes import guard
from grow.verification.outputs.pair import Pair, Side
from grow.verification.probes import Probe
from grow.verification.verdict import Check

STEPS = 4  # a zero factor needs one step to move, what lies behind it a second one; the rest is margin
OFTEN = 3  # of these steps, in which an expert has had a token: one less, for not every step reaches every expert
RATE = 1e-3
DULL = ("single", "repeated", "constant")  # their tokens do not tell units apart
LONGEST = 64  # tokens of a probe that is trained on
LIMIT = f"after {STEPS} steps of AdamW every new parameter has had a gradient, and copies have parted"
APART = {torch.float64: 1e-7, torch.float32: 1e-4}  # of a step: above what rounding does to equal gradients
PARTED = 0.1  # of a unit's entries: a few may have been reached once, or by rounding alone
ROUNDING = 64  # ulps of the model's largest gradient: what a sum that cancels leaves of a gradient that is zero
FEWEST = 8  # entries with a gradient that it takes to tell twins apart
UNKNOWN = -9  # in place of an axis map's source: the dim grew and nobody says how


@dataclass
class Trained:
    """moved   parameter -> bool, whether an entry ever got a gradient
    weights  after the last step
    equal    parameter -> for every row, the first row that was equal to it before the first step
    tables   parameters that are looked up row by row
    asked    parameter of an expert -> bool, whether tokens were sent to it in `OFTEN` steps
    still    parameters without a gradient but for rounding, such as a bias of keys, which no softmax sees

    Names are those of the files where the model fuses experts, see `grow.models.experts`.
    """

    moved: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    equal: dict[str, torch.Tensor]
    tables: set[str]
    asked: dict[str, torch.Tensor]
    still: set[str]
    losses: list[float]
    dtype: str


@guard
def trainability(pair: Pair, tensors: Mapping[str, TensorPlan] | None = None) -> Check:
    """No dead parameter and no locked twin after `STEPS` steps of AdamW, dropout off, weight decay 0.

    tensors  how the growth made each tensor, by any name that ends like the module's; without it an entry is new when
             a dim of its tensor grew, and twins are rows that are equal in the grown model only

    An expert to which tokens were sent in fewer than `OFTEN` steps is left out: it learns when it is used.
    An entry is excused where its tensor has no gradient but for rounding, and when the source's own gradient never
    reached it, or reached nothing in its old row or column (the row of a token that was not in the batch). So is a new
    row of a table that no probe looks up, and a unit that no probe activates where the source has such units too.
    """
    before, after = _train(pair, "source"), _train(pair, "grown")
    if before is None or after is None:
        return Check("trainability", "skip", reason="the class has no float output with a gradient")
    parts = [part for name in after.moved for part in _parts(name, _plan_of(name, tensors or {}), after)]
    rows = [_audit(part, before, after) for part in parts]
    for twins, row in zip(_locked_experts(parts), rows):
        row["twins"] += twins
    total = {key: sum(row[key] for row in rows) for key in ("new", "learning", "dead", "twins")}
    measured: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": RATE,
        "dtype": after.dtype,
        "loss": after.losses,
        "parameters": sum(alive.numel() for alive in after.moved.values()),
        **total,
        "share": total["learning"] / total["new"] if total["new"] else None,
        "tensors": _grouped(rows),
    }
    problems = []
    if not all(map(math.isfinite, after.losses)):
        problems.append("the loss is not finite")
    for key, what in (("dead", "new parameters never get a gradient"), ("twins", "units stay equal to their twin")):
        if total[key]:
            problems.append(f"{total[key]:,} {what}, first in {next(row['rows'] for row in rows if row[key])}")
    return Check("trainability", "fail" if problems else "pass", measured, LIMIT, "; ".join(problems))


def _train(pair: Pair, side: Side) -> Trained | None:
    small = pair.elements(side) < SMALL
    dtype = "float64" if small else "float32"
    pair.release()
    # weights, gradients, the two moments of AdamW, and what moved
    model = pair.load(side, dtype, copies=5).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    largest = dict.fromkeys(moved, 0.0)
    first = in_files(model, {name: p.detach() for name, p in model.named_parameters()})
    equal = {name: _first_equal(p) for name, p in first.items() if p.ndim == 2}
    del first
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    losses: list[float] = []
    probes = [probe for probe in pair.probes if probe.counted.shape[-1] <= LONGEST and probe.name not in DULL]
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        with TrueFloat64() if dtype == "float64" else contextlib.nullcontext(), asked(model) as seen:
            for step in range(STEPS):
                loss = _objective(pair, side, model, probes[step % len(probes)])
                if loss is None:
                    return None
                optimizer.zero_grad()
                loss.backward()
                losses.append(float(loss.detach()))
                for name, p in model.named_parameters():
                    if p.grad is not None:
                        moved[name] |= p.grad != 0
                        largest[name] = max(largest[name], float(torch.linalg.vector_norm(p.grad, math.inf)))
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    whole = {name: (passes >= OFTEN).expand(moved[name].shape) for name, passes in seen.items()}
    weights = in_files(model, {name: p.detach() for name, p in model.named_parameters()})
    sent = in_files(model, whole) if whole else {}
    nothing = ROUNDING * torch.finfo(model.dtype).eps * max(largest.values(), default=0.0)
    still = {name for name, gradient in largest.items() if 0 < gradient <= nothing}
    return Trained(in_files(model, moved), weights, equal, tables, sent, still, losses, dtype)


def _objective(pair: Pair, side: Side, model: Any, probe: Probe) -> torch.Tensor | None:
    """Cross-entropy of every distribution with drawn classes, and the distance of what a drawn head makes of other
    outputs from drawn numbers.

    It needs no labels, so it is the same for every class, and drawn targets reach every output.
    """
    draw = torch.Generator().manual_seed(pair.seed)
    try:
        outputs = model(**probe.arguments(model.dtype))
    except RUN_ERRORS as error:
        raise pair.blame(side, f"in training: {error}") from error
    losses = []
    for name, value in outputs.items():
        if not isinstance(value, torch.Tensor) or not value.requires_grad or name == "loss":
            continue
        rows = value.reshape(-1, value.shape[-1])
        if "logits" in name and rows.shape[1] > 1:  # a single logit is no distribution but a number
            classes = torch.randint(rows.shape[1], (len(rows),), generator=draw)
            losses.append(torch.nn.functional.cross_entropy(rows, classes))
        else:
            # A head that is yet to come reads it, with weights of its own for each unit: copies part as they do there.
            head = torch.randn(rows.shape[1], generator=draw, dtype=rows.dtype) / math.sqrt(rows.shape[1])
            target = torch.randn(len(rows), generator=draw, dtype=rows.dtype)
            losses.append(((rows @ head - target) ** 2).mean())
    return torch.stack(losses).sum() if losses else None


def _plan_of(name: str, tensors: Mapping[str, TensorPlan]) -> TensorPlan | None:
    """The plan of a module's parameter; stored names may lack its prefix or have one more."""
    return next(
        (
            t
            for stored, t in tensors.items()
            if name == stored or name.endswith("." + stored) or stored.endswith("." + name)
        ),
        None,
    )


@dataclass
class Part:
    """One parameter, or one matrix of a stack, after training; `sent` where tokens were sent to its expert."""

    name: str
    plan: TensorPlan | None
    alive: torch.Tensor
    weight: torch.Tensor
    sent: torch.Tensor | None


def _parts(name: str, plan: TensorPlan | None, after: Trained) -> list[Part]:
    alive, weight, sent = after.moved[name], after.weights[name], after.asked.get(name)
    if plan is None or not plan.pieces:
        return [Part(name, plan, alive, weight, sent)]
    sent = torch.ones_like(alive) if sent is None else sent
    flat = [x.reshape(-1, x.shape[-1]) for x in (alive, weight, sent)]
    return [Part(name, piece, *(x[begin : begin + piece.new_matrix[0]] for x in flat)) for begin, piece in plan.pieces]


def _locked_experts(parts: Sequence[Part]) -> list[int]:
    """Per part: rows that are still those of the expert it is a copy of."""
    first = {_origin(part): part for part in parts if part.plan and part.plan.copy == 0}
    found = []
    for part in parts:
        twin = first.get(_origin(part)) if part.plan and part.plan.copy and part.plan.fill is None else None
        if twin is None or part.weight.ndim != 2:
            found.append(0)
            continue
        rows = np.arange(len(part.weight))
        both = torch.cat([twin.weight, part.weight]), torch.cat([twin.alive, part.alive])
        found.append(_together(*both, rows + len(rows), rows))
    return found


def _origin(part: Part) -> tuple:
    """The same for copies of one expert's matrix in one layer, and for nothing else."""
    assert part.plan is not None or part.name
    if part.plan is None:
        return (part.name,)
    layer = re.search(r"\.(\d+)\.", part.plan.canonical)
    return part.plan.source, part.plan.corner, layer and layer[1], str(part.plan.signature)


def _before(found: Mapping[str, torch.Tensor], name: str, plan: TensorPlan | None) -> torch.Tensor | None:
    """What is known of the source's tensor that a grown one came from, of the part of it that was read."""
    if plan is not None and plan.source in found:
        if plan.fill is not None and not plan.inserted and plan.source != name:
            return None  # made, not grown: its source says nothing but a scale
        whole, (top, left), (rows, columns) = found[plan.source], plan.corner, plan.matrix
        return whole if whole.ndim == 1 else whole.reshape(-1, whole.shape[-1])[top : top + rows, left : left + columns]
    # a layer that moved, or was filled from another one, is held against that one
    return found.get(_renamed(name, plan))


def _audit(part: Part, source: Trained, after: Trained) -> dict[str, Any]:
    """New, learning and dead entries and locked twins of one parameter."""
    name, plan, alive, weight = part.name, part.plan, part.alive, part.weight
    before, equal = _before(source.moved, name, plan), source.equal.get(_renamed(name, plan))
    old_shape = tuple(before.shape) if before is not None else None
    sources = _sources(alive.shape, old_shape, plan)
    new = torch.ones(alive.shape, dtype=torch.bool)
    if all(source is not None for source in sources):
        first = [torch.from_numpy(_first(source)) for source in sources]  # type: ignore[arg-type]
        made = plan is not None and (plan.inserted or plan.fill is not None or plan.copy > 0)
        new[torch.meshgrid(*first, indexing="ij") if first else ()] = made
    unsent = new & ~part.sent if part.sent is not None else torch.zeros_like(new)
    dead = new & ~alive & ~unsent
    if before is not None and dead.any():
        dead &= ~_excused(dead, before, sources)
        dead &= ~_resting(part, before)
    if name in after.still:
        dead[:] = False
    if name in after.tables:
        dead &= alive.any(dim=1, keepdim=True)  # a row that no probe looks up learns when it is used
    count = {"new": int(new.sum()), "dead": int(dead.sum())}
    twins = _locked(alive, weight, plan) if plan else _still_equal(name, equal, after)
    learning = count["new"] - count["dead"] - int(unsent.sum())
    return {"rows": name, **count, "learning": learning, "twins": twins}


def _renamed(name: str, plan: TensorPlan | None) -> str:
    """The source's parameter that a grown one came from."""
    if plan is None or plan.source == plan.name:
        return name
    new, old = (re.search(r"\.(\d+)\.", stored) for stored in (plan.name, plan.source))
    return name.replace(f".{new[1]}.", f".{old[1]}.", 1) if new and old else name


def _sources(shape: Sequence[int], old: Sequence[int] | None, plan: TensorPlan | None) -> list[np.ndarray | None]:
    """Per dim: the old coordinate of each new one, negative when fresh or unknown; None without an old tensor."""
    if old is None or len(old) != len(shape):
        return [None] * len(shape)
    found: list[np.ndarray | None] = []
    for d, (n, m) in enumerate(zip(old, shape)):
        axis_map = plan.maps[d] if plan and len(plan.maps) == len(shape) else None
        if axis_map is not None and axis_map.m == m:
            found.append(np.asarray(axis_map.source))
        else:
            found.append(np.arange(m) if n == m else np.full(m, UNKNOWN))
    return found


def _first(source: np.ndarray) -> np.ndarray:
    """Positions of the first copy of each old coordinate."""
    where = np.flatnonzero(source >= 0)
    return where[np.unique(source[where], return_index=True)[1]]


def _excused(dead: torch.Tensor, before: torch.Tensor, sources: Sequence[np.ndarray | None]) -> torch.Tensor:
    """Entries whose old row, old column or old entry never got a gradient in the source either."""
    excused = torch.zeros_like(dead)
    if any(source is None for source in sources):
        return excused
    known = [torch.from_numpy(np.asarray(source)) for source in sources]
    for d, source in enumerate(known):
        others = tuple(k for k in range(before.ndim) if k != d)
        unreached = ~(before.any(dim=others) if others else before)
        hit = torch.where(source >= 0, unreached[source.clamp(min=0)], torch.zeros(()).bool())
        excused |= hit.reshape([-1 if k == d else 1 for k in range(before.ndim)])
    if all((source >= 0).all() for source in known):
        excused |= ~before[torch.meshgrid(*known, indexing="ij")]
    return excused


def _resting(part: Part, before: torch.Tensor) -> torch.Tensor:
    """Entries of units that no probe activates, as may be with a ReLU, where the source has such units in this tensor.

    What such a unit reads with is not zero, unlike in a unit of which both factors are: that one stays dead. Of a
    tensor that never has a gradient in the source these are all entries.
    """
    alive = part.alive
    if not before.any():
        return torch.ones_like(alive)
    resting = torch.zeros_like(alive)
    if alive.ndim == before.ndim == 1 and not before.all():
        return ~alive
    if alive.ndim == before.ndim == 2:
        if not before.any(1).all():
            resting |= (~alive.any(1) & (part.weight != 0).any(1))[:, None]
        if not before.any(0).all():
            resting |= ~alive.any(0)
    return resting


def _locked(alive: torch.Tensor, weight: torch.Tensor, plan: TensorPlan) -> int:
    """Copies of a unit whose producers have not parted from the first copy's."""
    found = 0
    if weight.ndim < 2 or len(plan.maps) != weight.ndim:
        return 0
    for d, (axis_map, role) in enumerate(zip(plan.maps, plan.roles)):
        if axis_map is None or role in (READ, GAIN, SHIFT) or len(axis_map.layers) < 2:
            continue
        base = dict(zip(*(x.tolist() for x in axis_map.layers[0])))
        units, reached = (x.movedim(d, 0).reshape(weight.shape[d], -1) for x in (weight, alive))
        for olds, news in axis_map.layers[1:]:
            found += _together(units, reached, news, np.array([base[i] for i in olds.tolist()]))
    return found


def _together(units: torch.Tensor, alive: torch.Tensor, a: np.ndarray, b: np.ndarray) -> int:
    """How many pairs of units (a[k], b[k]) are still as good as equal where they got gradients.

    Adam moves every such entry by about RATE per step. Twins in lock-step differ by what rounding makes of equal
    gradients, 1e-7 of that and less; twins that part differ by a good share of it, but for entries that got a single
    gradient, whose first step is RATE times its sign and nothing else.
    """
    found = 0
    for i, j in zip(a.tolist(), b.tolist()):
        moved = alive[i] | alive[j]
        if int(moved.sum()) >= FEWEST:
            parted = (units[i] - units[j])[moved].abs() >= APART[units.dtype] * RATE
            found += float(parted.double().mean()) < PARTED
    return found


def _first_equal(weight: torch.Tensor) -> torch.Tensor:
    """For every row the first row that is equal to it bit for bit: sums of bits times odd numbers wrap exactly."""
    bits = weight.contiguous().view(torch.int64 if weight.element_size() == 8 else torch.int32).to(torch.int64)
    odd = torch.randint(1 << 40, (weight.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    _, inverse = torch.unique((bits * odd).sum(1), return_inverse=True)
    first = torch.full((len(bits),), len(bits)).scatter_reduce(0, inverse, torch.arange(len(bits)), "amin")
    return first[inverse]


def _still_equal(name: str, source: torch.Tensor | None, after: Trained) -> int:
    """Rows that were equal to another one and have not parted, beyond the equal rows that the source has."""
    first = after.equal.get(name)
    if first is None:
        return 0
    later = torch.nonzero(first != torch.arange(len(first))).flatten()
    inherited = int((source != torch.arange(len(source))).sum()) if source is not None else 0
    locked = _together(after.weights[name], after.moved[name], later.numpy(), first[later].numpy())
    return max(0, locked - inherited)


def _grouped(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per kind of tensor, the layers summed."""
    kinds: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = numberless(row["rows"])
        into = kinds.setdefault(kind, {"rows": kind, "new": 0, "learning": 0, "dead": 0, "twins": 0})
        for key in ("new", "learning", "dead", "twins"):
            into[key] += row[key]
    return list(kinds.values())
