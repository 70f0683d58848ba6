"""The optimizer classes of torch: what their state consists of, and new ones for a grown model.

The new optimizer has the class, the hyper-parameters and the groups of the old one. A parameter is in the group of the
parameter that it came from; an inserted layer is in that of the layer whose weights it took. The old optimizer and its
state are neither changed nor shared.

    state         entries that carry an old one first     further copies     new coordinates and layers
    "fresh-new"   the dual rule (grow.optimizer.dual_rule)          0                  0
    "carry"       the dual rule                           the dual rule      0
    "drop"        an optimizer that has not taken a step

"fresh-new" is the default. In SPARKLING (arXiv 2602.02472; the inner width of experts × 2, 200B tokens) resetting the
state of one side of the copies and re-warming that part gave the lowest loss of all its growths; scaling all states, as
"carry" does, is not reported to gain anything over it. It also separates copies that get equal gradients, as even
shares give them, wherever an update depends on the state.

`step` keeps its value for all parameters, also in inserted layers. Adam's bias correction then treats moments that
start at 0 as settled: at a constant gradient the t-th update of a new entry is (1 - β1^t) / √(1 - β2^t) times the usual
one, 3.2 times at first and at most 6.6 times (t = 12) for β = (0.9, 0.999). To slow them down, re-warm what
`grow.new_entries` marks; a step of 0 would help whole new parameters, but not the new rows of an old one.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from grow.errors import BadInput, Refused
from grow.models.fused_experts import called
from grow.optimizer.dual_rule import POLICIES, grow_factored, grow_moment
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan
from grow.spelling import check_choice, option

ROW, COL = "row_var", "col_var"

# class -> entry of a parameter's state -> the power of the gradient that it averages; `step` keeps its value
STATES: dict[str, dict[str, int]] = {
    "Adam": {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    "AdamW": {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    "SGD": {"momentum_buffer": 1},
    "Muon": {"momentum_buffer": 1},
    "Adafactor": {"variance": 2, ROW: 2, COL: 2},
}
STEP = "step"


def grow_optimizers(optimizer: Any, state: str, plan: Plan, model: Any, grown: Any) -> Any:
    """The optimizer, or the list of optimizers, of `grown`; `check_optimizers` must have passed."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return _Pairing(plan, model, grown).optimizer(optimizer, state)
    pairing = _Pairing(plan, model, grown)
    return [pairing.optimizer(one, state) for one in optimizer]


def check_optimizers(optimizer: Any, state: str, model: Any) -> None:
    """BadInput or Refused unless every optimizer can be grown; it computes nothing."""
    check_choice("state", state, POLICIES, "policy", "policies")
    if optimizer is None:
        if state != POLICIES[0]:
            raise BadInput(
                option(state=state),
                what="is given without an optimizer",
                why="it says what happens to the optimizer state",
                fix="give optimizer=…, or leave state=… out",
            )
        return
    names = {id(p): name for name, p in model.named_parameters()}
    for one in optimizer if isinstance(optimizer, Sequence) else [optimizer]:
        if not isinstance(one, torch.optim.Optimizer):
            raise BadInput(
                "optimizer",
                what=f"must be a torch.optim.Optimizer or a list of them, got {type(one).__name__}",
                why="its groups and state are what grows",
                fix="optimizer=torch.optim.AdamW(model.parameters())",
            )
        _check_class(one, state)
        for g, group in enumerate(one.param_groups):
            for i, p in enumerate(group["params"]):
                if id(p) not in names:
                    raise BadInput(
                        f"optimizer: param_groups[{g}], parameter {i} of shape {tuple(p.shape)}",
                        what="is not one of the model's parameters",
                        why="an optimizer state grows with the weight that it belongs to",
                        fix="pass the optimizer that was built from this model's parameters, or one without this group",
                    )
                if state != "drop":
                    _check_state(one, names[id(p)], p)


def refuse_sharded(model: Any) -> None:
    """Refused where a parameter is a shard of a weight, whose rows and columns are not those of the table."""
    kinds = {"placements": "DTensor (FSDP2, tensor parallel)", "_is_flat_param": "FSDP's flat parameter"}
    kinds |= {"ds_id": "DeepSpeed ZeRO-3 parameter"}
    for name, p in model.named_parameters():
        kind = next((kind for mark, kind in kinds.items() if hasattr(p, mark)), None)
        if kind:
            raise Refused(
                name,
                what=f"is sharded: a {kind}",
                why="a growth gathers rows and columns of whole weights; a shard holds some of them",
                fix="grow the whole model on one process before it is wrapped, and shard the result",
            )


def _check_class(one: torch.optim.Optimizer, state: str) -> None:
    name = type(one).__name__
    if state == "drop" or (name in STATES and getattr(torch.optim, name, None) is type(one)):
        return
    raise Refused(
        f"optimizer {type(one).__module__}.{type(one).__qualname__}",
        what=f"has a state that grow does not know; it knows torch.optim's {', '.join(STATES)}",
        why="first moments grow by γ and second moments by γ²; nothing says which of its tensors is which",
        fix='state="drop" starts it anew, with the same class and groups (of a wrapper, pass the optimizer inside)',
    )


def _check_state(one: torch.optim.Optimizer, name: str, p: torch.Tensor) -> None:
    known = {*STATES[type(one).__name__], STEP}
    for key, value in one.state.get(p, {}).items():
        wanted: tuple[int, ...] = tuple(p.shape)
        if key in (ROW, COL):
            wanted = (*p.shape[:-1], 1) if key == ROW else (*p.shape[:-2], 1, p.shape[-1])
        if key not in known:
            what, why = f"is not a state of torch.optim.{type(one).__name__}", "nothing says whether it is a moment"
        elif key != STEP and value is not None and (tuple(value.shape) != wanted or not value.is_floating_point()):
            what = f"must be floating point of shape {wanted}, got {value.dtype} of shape {tuple(value.shape)}"
            why = "it is sharded, quantised or from another model; its entries are not those of the weight"
        else:
            continue
        raise Refused(f"optimizer: state of {name}: {key}", what=what, why=why, fix='state="drop" starts anew')


class _Pairing:
    """Which parameters of the grown model each parameter of the old one became."""

    def __init__(self, plan: Plan, model: Any, grown: Any) -> None:
        names: dict[int, list[str]] = {}
        old_names, new_names = (called(one) or {} for one in (model, grown))
        for name, p in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(p), []).append(old_names.get(name, name))
        made: dict[str, list[TensorPlan]] = {}
        for t in plan.tensors:
            made.setdefault(t.source, []).append(t)
        self._made = {key: [t for name in aliases for t in made.get(name, ())] for key, aliases in names.items()}
        self._old_order = {id(p): i for i, p in enumerate(model.parameters())}
        named = grown.named_parameters(remove_duplicate=False)
        self._new = {new_names.get(name, name): p for name, p in named}
        self._new_order = {id(p): i for i, p in enumerate(grown.parameters())}

    def of(self, p: torch.Tensor) -> Iterator[tuple[TensorPlan, torch.nn.Parameter]]:
        seen = set()
        for t in self._made[id(p)]:
            new = self._new[t.name]
            if id(new) not in seen:  # a tied table may be stored under two names
                seen.add(id(new))
                yield t, new

    def optimizer(self, old: torch.optim.Optimizer, state: str) -> torch.optim.Optimizer:
        groups = [self._group(group) for group in old.param_groups]
        accepted = inspect.signature(type(old).__init__).parameters
        try:
            new = type(old)(groups, **{k: v for k, v in old.defaults.items() if k in accepted})
        except Exception as error:  # a class that grow does not know, with state="drop"
            raise Refused(
                f"optimizer {type(old).__module__}.{type(old).__qualname__}",
                what=f"could not be built anew: {error}",
                why="its constructor does not take groups and its own defaults",
                fix="grow without optimizer=, and build it from grown.model.parameters()",
            ) from error
        if state != "drop":
            for p in (p for group in old.param_groups for p in group["params"] if p in old.state):
                for t, grown in self.of(p):
                    new.state[grown] = _grow_state(old, t, p, grown, copies=state == "carry")
        return new

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The new group, in the model's order if the old one was; its state loads into `Class(model.parameters())`."""
        order = [self._old_order[id(p)] for p in group["params"]]
        pairs = [pair for p in group["params"] for pair in self.of(p)]
        if order == sorted(order):
            pairs.sort(key=lambda pair: self._new_order[id(pair[1])])
        named = "param_names" in group
        rest = {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "param_names")}
        return rest | {"params": [(t.name, p) if named else p for t, p in pairs]}


def _grow_state(
    old: torch.optim.Optimizer, t: TensorPlan, p: torch.Tensor, grown: torch.Tensor, *, copies: bool
) -> dict[str, Any]:
    """The state of one grown parameter. A moment that had the dtype of its weight has it again."""
    powers, before = STATES[type(old).__name__], old.state[p]
    after: dict[str, Any] = {}
    for key, value in before.items():
        if key == ROW:
            after[ROW], after[COL] = grow_factored(t, value, before[COL], copies=copies)
        elif key in powers and key != COL and value is not None:
            after[key] = grow_moment(t, value, powers[key], copies=copies)
        elif key != COL:
            after[key] = copy.deepcopy(value)
    for key in powers:
        if torch.is_tensor(after.get(key)) and before[key].dtype == p.dtype:
            after[key] = after[key].to(grown.dtype)
    return after
