"""The optimizer of a stock Trainer's checkpoint, for a model that grew from it in memory.

    model = AutoModelForCausalLM.from_pretrained("out/checkpoint-500")
    grown = grow.widen(model, "2x")
    optimizer = load_trainer_state("out/checkpoint-500", grown.model, grown.plan)
    Trainer(model=grown.model, optimizers=(optimizer, None), …).train()

From file to file, `grow widen --from out/checkpoint-500` grows the optimizer along, and `resume_from_checkpoint` goes
on.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from grow.errors import BadInput
from grow.optimizer.state.grown_entries import items_of
from grow.optimizer.state.grown_state import check_policy, refuse_plan
from grow.optimizer.state.of_trainer import OPTIMIZER, TrainerState, open_trainer, own_entries, trainer_order
from grow.optimizer.state.parameter_names import bare_model, shapes
from grow.optimizer.state.stored_state import check_state
from grow.planning.plan import Plan

CLASSES: dict[str, Any] = {
    "AdamW": torch.optim.AdamW,
    "Adafactor": torch.optim.Adafactor,
    "transformers.Adafactor": transformers.Adafactor,
}


def load_trainer_state(
    checkpoint: str | os.PathLike, model: Any, plan: Plan | None = None, *, state: str = "fresh-new"
) -> torch.optim.Optimizer:
    """An optimizer for `model` with class, groups, rates and state of a Trainer's checkpoint; groups are the Trainer's.

    checkpoint  out/checkpoint-500, with optimizer.pt; training_args.bin is not read
    model       the grown model; None as the plan: the model of the checkpoint itself
    plan        the plan of the growth that made it, `Growth.plan`
    state       "fresh-new", "carry" or "drop", as in `grow.widen`

    Raises BadInput when the state is damaged or does not belong to the model that grew; Refused for an optimizer other
    than AdamW and Adafactor, for lossy growths, and for "carry" where experts are made or added.
    """
    check_policy(state)
    path = Path(checkpoint)
    with open_trainer(path) as stored:
        bare = bare_model(stored.path)
        check_state(stored, shapes(bare))
        entries = dict(_entries(stored, bare, model, plan, state))
        order = trainer_order(model)
        named = dict(model.named_parameters())
        settings = [{k: v for k, v in group.items() if k not in ("params", "param_names")} for group in stored.groups]
        optimizer = _built(CLASSES[stored.kind], settings, [[named[name] for name in names] for names in order])
        numbered = [entries.get(name) for names in order for name in names]
        loaded = {i: own_entries(stored.kind, some) for i, some in enumerate(numbered) if some}
        optimizer.load_state_dict({"state": loaded, "param_groups": optimizer.state_dict()["param_groups"]})
    return optimizer


def _entries(
    stored: TrainerState, bare: Any, model: Any, plan: Plan | None, state: str
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(parameter of `model`, entry of its state -> tensor)."""
    if state == "drop":
        return
    entries: dict[str, dict[str, torch.Tensor]] = {}
    if plan is not None:
        refuse_plan(plan, state)
        for item in items_of(plan, stored, bare, model, state):
            name, _, key = item.name.removeprefix("optim.").rpartition(".")
            entries.setdefault(name, {})[key] = item.value()
    elif shapes(bare) != shapes(model):
        raise BadInput(
            f"{stored.path}: {OPTIMIZER}",
            what="is not the state of this model: other parameters or shapes",
            why="a model that grew needs the plan of its growth",
            fix="load_trainer_state(checkpoint, grown.model, grown.plan)",
        )
    else:
        entries = {name: {key: stored.whole(t) for key, t in keys.items()} for name, keys in stored.moments.items()}
    yield from entries.items()


def _built(kind: Any, settings: list[dict[str, Any]], parameters: list[list[torch.nn.Parameter]]) -> Any:
    accepted = inspect.signature(kind.__init__).parameters
    groups = [{**own, "params": some} for own, some in zip(settings, parameters)]
    return kind(groups, **{k: v for k, v in settings[0].items() if k in accepted})
