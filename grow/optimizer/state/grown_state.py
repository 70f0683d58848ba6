"""A training state grown from file to file by the plan of its weights."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from grow.applying.engine import write_items
from grow.errors import BadInput, GrowError, Refused
from grow.files.distributed_index import check_owner
from grow.optimizer.dual_rule import POLICIES
from grow.optimizer.state.find import SHARDED, kind_of, open_state
from grow.optimizer.state.grown_entries import anew, items_of
from grow.optimizer.state.of_growth import document_of, open_written, write_document
from grow.optimizer.state.of_trainer import COPIED, OPTIMIZER, TRAINER, open_trainer, write_trainer
from grow.optimizer.state.parameter_names import bare_model
from grow.optimizer.state.train_json import STATE
from grow.optimizer.state.unreadable import foreign, told
from grow.planning.plan import Plan
from grow.processes import World
from grow.spelling import check_choice, left_out, option


class GrownState:
    """What a growth writes beside the weights; `items` are independent of each other."""

    def __init__(self, path: Path, plan: Plan, policy: str, trust: bool) -> None:
        self.path, self.policy = path, policy
        refuse_plan(plan, policy)
        self.model = bare_model(path)
        self.grown = bare_model(path, plan.new_config)
        state = open_state(path, trust=trust)
        if state is None:
            raise AssertionError(f"{path} has no training state")
        self.state = state
        try:
            self.items = list(items_of(plan, state, self.model, self.grown, policy))
            self.anew = anew(plan)
            self.trainer = open_trainer(path) if (path / OPTIMIZER).is_file() else None
        except BaseException:
            state.close()
            raise

    @property
    def nbytes(self) -> int:
        """The bytes on disk; optimizer.pt holds the moments a second time."""
        return sum(item.nbytes * (2 if self.trainer and item.name.startswith("optim.") else 1) for item in self.items)

    def document(self) -> dict[str, Any]:
        """What grow.json says of it."""
        c = self.state.carried
        return {"policy": self.policy, "optimizers": list(c.optimizers), "step": c.step, "tensors": len(self.items)}

    def write(self, folder: Path, shard: int, world: World) -> None:
        """Write state/, and for a Trainer its own files. Nothing else in the folder is touched."""
        with world.together():
            if world.first:
                (folder / STATE).mkdir()
        # one item at a time, since the source of a moment is in memory whole
        write_items(self.items, lambda item, put: item.compute(put), folder / STATE, shard, world=world, threads=1)
        with world.together():
            if world.first:
                self._finish(folder)

    def _finish(self, folder: Path) -> None:
        write_document(folder / STATE, replace(self.state.carried, policy=self.policy))
        if self.trainer is not None:
            with open_written(folder, document_of(folder) or {}) as written:
                write_trainer(folder, self.trainer, written, self.grown)

    def takes(self, name: str) -> bool:
        """Whether a file of the folder, or what it says, comes along."""
        return self.trainer is not None and (name == TRAINER or any(fnmatchcase(name, p) for p in COPIED))

    def note(self) -> str:
        c = self.state.carried
        said = f"the training state came along ({self.policy}): {' and '.join(c.optimizers)} after step {c.step:,}"
        return said + ("; the moments of experts and routers begin anew" if self.anew else "")

    def close(self) -> None:
        self.state.close()
        if self.trainer is not None:
            self.trainer.close()


def grown_state(path: Path, plan: Plan, policy: str | None, trust: bool) -> tuple[GrownState | None, tuple[str, ...]]:
    """(what to write beside the weights, notes); (None, notes) where there is no state or it is to be dropped.

    policy  None: "fresh-new"; a state that cannot grow, or is damaged, is left behind with a note
    If a policy is named: BadInput when there is no state or it is damaged, Refused when there is no rule for it.
    """
    check_policy(policy)
    if policy == "drop":
        return None, ()
    others = foreign(path)
    try:
        kind = kind_of(path)
    except BadInput as fault:
        if policy is not None:
            raise
        return None, (left_behind(fault, others),)
    if not kind:
        if policy is None:
            return None, (_behind(others),) if others else ()
        what = f"{path} has no training state"
        raise BadInput(
            option(state=policy),
            what=f"{what} that can be read: {told(others)}" if others else what,
            why=f"it says what happens to the optimizer state, in {STATE}/ or {OPTIMIZER}",
            fix=f"the checkpoint of a run (RUN/step-…, checkpoint-…), or {left_out('state')}",
        )
    try:
        if kind == SHARDED and policy is None and not trust:
            _check_own(path)
        grown = GrownState(path, plan, policy or POLICIES[0], trust)
    except (Refused, BadInput) as fault:
        if policy is not None:
            raise
        return None, (left_behind(fault, others),)
    left = {whose: [n for n in names if not grown.takes(n)] for whose, names in others.items()}
    left = {whose: names for whose, names in left.items() if names}
    return grown, (*((_behind(left),) if left else ()), grown.note())


def _behind(others: dict[str, list[str]]) -> str:
    return f"a training state stays behind, because grow does not read its format: {told(others)}"


def left_behind(fault: GrowError, others: dict[str, list[str]] | None = None) -> str:
    """The note where the state was not asked for."""
    why = "; ".join([f"{fault.where} {fault.what}", *filter(None, (*(text for _, text in fault.details), fault.why))])
    return f"the training state stays behind: {why}" + (f"; with it {told(others)}" if others else "")


def check_policy(policy: str | None) -> None:
    if policy is not None:
        check_choice("state", policy, POLICIES, "policy", "policies")


def refuse_plan(plan: Plan, policy: str) -> None:
    """Refused where the dual rule does not hold."""
    if plan.lossy:
        raise Refused(
            option("state"),
            what=f"cannot follow {plan.method}, which is not exact here",
            why="the function changes, and its moments are averages of the old gradients",
            fix=option(state="drop"),
        )
    if policy == "carry" and plan.change.makes_experts:
        raise Refused(
            option(state="carry"),
            what="cannot follow experts that are made or added",
            why="a router sends each of them other tokens, so its gradient is not a multiple of the old one",
            fix=f"{option(state='fresh-new')} lets experts and routers begin anew and carries the rest",
        )


def _check_own(path: Path) -> None:
    """Refused where another user owns a state that was not asked for: it is then left behind instead of an error."""
    try:
        check_owner(path / STATE, False)
    except BadInput as error:
        raise Refused(error.where, what=error.what, why=error.why, fix=error.fix) from None
