"""A callback of the stock `Trainer` that grows the model in the middle of training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from grow.api import plan
from grow.architectures import architecture_of
from grow.errors import BadInput, Refused
from grow.files.writer import write_json
from grow.growth.model_source import ModelSource
from grow.growth.results import Growth
from grow.integrations.in_place import check_in_place, grow_in_place
from grow.integrations.requests import Growing, growings_of
from grow.integrations.updates import NewEntryUpdates, bare
from grow.models.as_configured import bare_object
from grow.optimizer.torch_classes import check_optimizers
from grow.planning.parsed_record import parse_record
from grow.planning.record import NAME, record_of
from grow.training.after_growth.new_entries import tensors_of
from grow.version import __version__

log = logging.getLogger(__name__)


class GrowCallback(TrainerCallback, ExportableState):
    """Grows the model and its optimizer after a step of `Trainer`; the loop goes on with the same objects.

        Trainer(…, callbacks=[GrowCallback(at_step=1000, to="2x")])
        Trainer(…, callbacks=[GrowCallback([dict(at_step=1000, to="2x"), dict(at_step=2000, to={"layers": 12})])])

    growths     several growths, one after the other, each a dict of the following options
    at_step     grow after so many optimizer steps, before the evaluation and the checkpoint of that step
    when        or as soon as when(state) is true for the `TrainerState` after a step
    to          the target, and any option of `grow.widen`: place, fill, method, operators, split, …
    state       what becomes of the optimizer state, as in `grow.widen`
    rewarm      (ratio, steps) for the updates of new entries; freeze_old: keep the bits of old entries
    verify      run the whole ladder at each growth; otherwise both models are compared on the last batch

    Loss, step, rates, data order and random state go on as they were. Checkpoints from then on are those of the grown
    model, with a grow.json. To resume from one, build the Trainer from its model:

        model = AutoModelForCausalLM.from_pretrained("out/checkpoint-1200")
        Trainer(model, …, callbacks=[GrowCallback(at_step=1000, to="2x")]).train(resume_from_checkpoint=…)

    trainer_state.json says which growths are done, and they are not repeated. Raises BadInput or Refused when training
    begins, and Different when a grown model computes something else; then nothing is changed.

    growth  the last `Growth`, None before the first
    done    [{"step": …, "record": what grow.json says}, …]
    """

    def __init__(self, growths: Sequence[Mapping[str, Any]] | None = None, **one: Any) -> None:
        self.growths = growings_of(growths, one)
        self.done: list[dict[str, Any]] = []
        self.growth: Growth | None = None
        self.updates: NewEntryUpdates | None = None
        self._batch: dict[str, Any] | None = None
        self._capture: Any = None

    @property
    def pending(self) -> tuple[Growing, ...]:
        """The growths that are not done yet, in order."""
        return self.growths[len(self.done) :]

    def state(self) -> dict[str, Any]:
        """What trainer_state.json keeps of the callback."""
        args = {"growths": [one.document() for one in self.growths]} if all(one.plain for one in self.growths) else {}
        return {"args": args, "attributes": {"done": self.done}}

    def on_init_end(self, args: TrainingArguments, state: Any, control: Any, **its: Any) -> None:
        if args.restore_callback_states_from_checkpoint and not all(one.plain for one in self.growths):
            raise BadInput(
                "restore_callback_states_from_checkpoint",
                what="is True, and a growth has a condition or a target that JSON cannot hold",
                why="Trainer would build the callback anew from trainer_state.json",
                fix="leave it False: GrowCallback reads in trainer_state.json which growths are done",
            )

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **its: Any) -> None:
        model, optimizer = its["model"], its["optimizer"]
        self._release()  # an interrupted run may have left a hook
        self._treat_alike()
        check_arguments(args)
        self._remember(state, model)
        for one in self.pending:
            _check_steps(one, state)
        if args.load_best_model_at_end and (self.pending or self._best_is_older(state)):
            raise Refused(
                "load_best_model_at_end",
                what="is True, and the best checkpoint may be from before the growth",
                why="Trainer would load its weights into the grown model",
                fix="load_best_model_at_end=False, and from_pretrained(trainer.state.best_model_checkpoint)",
            )
        for one in self.pending[:1]:
            check_in_place(model, [bare(optimizer)])
            check_optimizers(bare(optimizer), one.state, model)
            with bare_object(model):
                plan(model, one.to, **one.options)
        if 0 < len(self.done) <= len(self.growths):
            self._treat_apart(self.growths[len(self.done) - 1], model, optimizer, None)
        for one in self.pending[:1]:
            if one.at_step == state.global_step:
                self._grow(one, state, model, optimizer)

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **its: Any) -> None:
        if any(one.may_follow(state.global_step) for one in self.pending[:1]):
            self._capture = its["model"].register_forward_pre_hook(self._keep_batch, with_kwargs=True)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **its: Any) -> None:
        self._release()
        for one in self.pending[:1]:
            if one.due(state):
                self._grow(one, state, its["model"], its["optimizer"])
        self._batch = None

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **its: Any) -> None:
        """Write a grow.json beside the weights."""
        folder = Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if self.done and state.is_world_process_zero and folder.is_dir():
            write_json(folder / NAME, {**self.done[-1]["record"], "training": {"step": state.global_step}})

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **its: Any) -> None:
        self._release()
        if self.pending:
            log.warning("training ended at step %d, before the growth to %s", state.global_step, self.pending[0].to)

    def _remember(self, state: Any, model: Any) -> None:
        """Find out which growths are done: a resumed run has recorded them, otherwise this object knows."""
        name = type(self).__name__
        stored = state.stateful_callbacks.setdefault(name, self.state())  # Trainer expects it when it saves
        if isinstance(stored, list):
            raise BadInput(
                f"{len(stored)} {name}s",
                what="are in one Trainer",
                why="a checkpoint does not say which of them has grown it",
                fix=f"one {name} with a list: {name}([dict(at_step=…, to=…), dict(…)])",
            )
        if state.global_step:
            self.done = [dict(one) for one in stored["attributes"]["done"]]
        if not state.global_step and not self._grown(model):
            self.done = []  # the model is new, as in a hyper-parameter search
        if not self._grown(model):
            raise BadInput(
                type(model).__name__,
                what=f"does not have the sizes that it grew to at step {self.done[-1]['step']}",
                why="training is resumed from a checkpoint of the grown model",
                fix="build the Trainer from that checkpoint: AutoModel….from_pretrained(checkpoint)",
            )

    def _grown(self, model: Any) -> bool:
        """Whether the model has the sizes of the last growth."""
        if not self.done:
            return True
        sizes = architecture_of(ModelSource(model).config).sizes
        return sizes == self.done[-1]["record"]["plan"]["new_sizes"]

    def _best_is_older(self, state: Any) -> bool:
        best = state.best_global_step
        return bool(self.done) and best is not None and best < self.done[-1]["step"]

    def _grow(self, one: Growing, state: Any, model: Any, optimizer: Any) -> None:
        self._treat_alike()
        batch = self._batch or {k: v.to(model.device) for k, v in model.dummy_inputs.items()}
        options = {"state": one.state, "verify": one.verify, **one.options}
        self.growth = grow_in_place(model, one.to, optimizer=optimizer, batch=batch, **options)
        record = record_of(self.growth.plan, source=type(model).__name__, version=__version__, tensors={})
        self.done.append({"step": state.global_step, "record": record})
        self._treat_apart(one, model, optimizer, 0)
        log.info("step %d: %s has grown to %s", state.global_step, type(model).__name__, self.growth.plan.new_sizes)

    def _treat_apart(self, one: Growing, model: Any, optimizer: Any, step: int | None) -> None:
        """Treat new entries differently, if that was asked for; for `step` see `NewEntryUpdates`."""
        if one.apart:
            record = parse_record(self.done[-1]["record"], "trainer_state.json", "resume from another checkpoint")
            made = tensors_of(record, ModelSource(model))
            self.updates = NewEntryUpdates(
                optimizer, model, made, rewarm=one.rewarm, freeze_old=one.freeze_old, step=step
            )

    def _treat_alike(self) -> None:
        if self.updates is not None:
            self.updates.remove()
            self.updates = None

    def _keep_batch(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self._batch = None if args else dict(kwargs)

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.remove()
            self._capture = None


def check_arguments(args: TrainingArguments) -> None:
    """Refused for arguments of a Trainer that keep the old parameters outside the model and its optimizer."""
    wrapping = {
        f"{args.world_size} processes": args.world_size > 1,
        f"{args.n_gpu} GPUs (DataParallel)": args.n_gpu > 1,
        "fsdp": bool(args.fsdp),
        "deepspeed": bool(args.deepspeed),
        "torch_compile": bool(args.torch_compile),
    }
    for where, wraps in wrapping.items():
        if wraps:
            raise Refused(
                f"GrowCallback: {where}",
                what="wraps the model",
                why="the wrapper keeps code or buffers for the old shapes",
                fix="train up to the growth, grow.widen(its checkpoint, …), and train on from the result",
            )


def _check_steps(one: Growing, state: Any) -> None:
    """BadInput for a step that training never reaches."""
    if one.at_step is None or state.global_step <= one.at_step <= state.max_steps:
        return
    late = one.at_step > state.max_steps
    raise BadInput(
        f"GrowCallback: at_step={one.at_step}",
        what=f"training ends with step {state.max_steps}" if late else f"training is resumed from {state.global_step}",
        why="the model would never grow" if late else "the checkpoint does not know of this growth",
        fix=f"at_step={state.max_steps // 2}" if late else f"at_step={state.global_step} grows at once",
    )
