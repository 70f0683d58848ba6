"""`grow.train`: settings, model, data and the loop put together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grow.architectures import known_architecture
from grow.architectures.match import match
from grow.checkpoint.reader import Checkpoint, open_checkpoint
from grow.costs.literature import doubts_of
from grow.costs.training_cost import recorded_cost
from grow.errors import BadInput
from grow.files.distributed_index import check_owner
from grow.files.header import show
from grow.files.locate import locate
from grow.files.writer import write_json
from grow.planning.record import read_record
from grow.processes import World, world_of
from grow.spelling import check_path, option
from grow.training.after_growth.rates import Treated, treat
from grow.training.begin.defaults import inherited
from grow.training.begin.first_loss import first_loss
from grow.training.begin.from_state import Start, open_start
from grow.training.begin.loading import load_model
from grow.training.begin.resume import check_config, check_metrics, check_text, last_checkpoint, read_begun
from grow.training.log.metrics import METRICS, Log, last_losses, validation_losses
from grow.training.log.trackers import check_trackers
from grow.training.run_folder import RUN, opened
from grow.training.run_options import RunOptions
from grow.training.saved import checkpoints
from grow.training.saved.exact_state import load_state
from grow.training.saved.run_document import run_document
from grow.training.saved.stock_weights import Origin
from grow.training.settings.from_options import began_otherwise, refuse_change, resumed, settings_of
from grow.training.settings.run_settings import Settings, Training
from grow.training.step.loop import Loop, Signals
from grow.training.step.model_and_loss import (
    LONGEST,
    capacity,
    check_documents,
    check_length,
    flops_per_token,
    tokenizer_of,
    tokens_for,
)
from grow.training.step.parameter_groups import build_optimizers
from grow.training.text.inputs import Data, Source, open_data, parse_sources
from grow.training.text.objectives import objective_of


def train(
    src: str | os.PathLike | None,
    data: Sequence[str | os.PathLike] | str | os.PathLike,
    options: RunOptions,
    given: Mapping[str, Any],
) -> Training:
    """See `grow.train`; `given` are settings."""
    if src is not None:
        check_path("src", src, "a run begins with the weights of a checkpoint")
    sources = parse_sources(data)
    with ExitStack() as stack:
        here = stack.enter_context(world_of(options.world))
        # the caller's random state stays as it is
        stack.enter_context(torch.random.fork_rng(devices=[here.device.index] if here.device.type == "cuda" else []))
        run = Path(options.out).absolute()
        going_on = options.resume
        with here.together():
            if here.first:
                going_on = opened(run, options.resume, (src, *(source.path for source in sources)), stack)
                if options.resume and not going_on and src is None:
                    raise BadInput(
                        option(out=run),
                        what="was interrupted before the run began",
                        why="nothing says what it was to begin with",
                        fix=f"give what was given at first: {option('src')} and the other options",
                    )
        request = _Request(src, sources, run, options, here.broadcast(going_on), dict(given))
        return request.carry_out(here, stack, options.quiet)


@dataclass
class _Request:
    """What was asked for, and how it becomes a loop. `resume`: whether there is a run to go on with."""

    src: Any
    data: list[Source]
    path: Path
    options: RunOptions
    resume: bool
    given: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def carry_out(self, world: World, stack: ExitStack, quiet: bool) -> Training:
        began = time.monotonic()
        with world.together():
            settings, loop, log, save = self._begin(world, stack, quiet)
        with Signals() as signals:
            loop.run(log, save, signals)
        if loop.plateau.at is not None:
            self.notes.append(f"a plateau was found after step {loop.plateau.at}; the last step is {loop.plateau.end}")
        return Training(
            self.path,
            checkpoints.folder_of(self.path, loop.step),
            loop.step,
            loop.tokens,
            loop.loss,
            loop.val_loss,
            time.monotonic() - began,
            settings,
            loop.stopped,
            tuple(self.notes),
        )

    def _begin(
        self, world: World, stack: ExitStack, quiet: bool
    ) -> tuple[Settings, Loop, Log | None, Callable[[Loop], None]]:
        """Everything before the first step; `log` is None on every process but the first."""
        last, stored = self._last(world)
        begun = self._begun(stored)
        checkpoint = stack.enter_context(
            open_checkpoint(last or locate(begun["source"], revision=self.options.revision))
        )
        if "before" not in begun:
            spent = recorded_cost(checkpoint.path)
            begun["before"] = spent and spent.document()
        start = Start() if last is not None else self._start(checkpoint.path, begun, stack, world)
        settings = self._settings(checkpoint, stored, start)
        check_trackers(settings)
        if last is not None:
            check_owner(last / checkpoints.STATE, self.options.trust_checkpoint)
            check_config(last, checkpoint.config, stored)
            self.notes += check_metrics(self.path, settings, stored["step"])
        data, loop = self._loop(checkpoint, settings, start, world)
        settings = loop.settings
        check_text(stored, data, self.data)
        begun["carried"] = start.document() or begun.get("carried")
        record = run_document(begun, self.data, data, checkpoint.config, world)
        first: dict[str, float] = {}
        if last is not None:
            self._go_on(last, stored, loop, world)
        else:
            first = self._start_anew(start, checkpoint, record, loop, world)
        log = self._log(first, 0 if last is None else loop.step, loop, stack, quiet) if world.first else None
        return settings, loop, log, self._save(checkpoint, record, settings, world)

    def _go_on(self, last: Path, stored: Mapping[str, Any], loop: Loop, world: World) -> None:
        """Fill the loop with the state of a run's last checkpoint."""
        load_state(last / checkpoints.STATE, loop.model, loop.optimizers, world)
        loop.step, loop.tokens, loop.seconds = stored["step"], stored["tokens"], stored.get("seconds", 0.0)
        loop.loss, loop.val_loss = last_losses(self.path / METRICS, loop.step)
        for step, loss in validation_losses(self.path / METRICS, loop.step):
            loop.plateau.add(step, loss)

    def _start_anew(
        self, start: Start, checkpoint: Checkpoint, record: dict[str, Any], loop: Loop, world: World
    ) -> dict[str, float]:
        """Fill the loop with what a new run takes over, and write run.json; the loss before the first step."""
        with world.together():
            start.fill(loop.model, loop.optimizers, checkpoint, world)
        loop.step = loop.settings.begin
        if world.first:
            write_json(self.path / RUN, record)
        source, trust = self.options.source, self.options.trust_checkpoint
        first, notes = first_loss(loop, checkpoint, source, world, exact=start.exact, trust=trust)
        self.notes += [*start.notes, *notes]
        if first:
            loop.plateau.add(loop.step, first["val_loss"])
        return first

    def _log(self, first: dict[str, float], done: int, loop: Loop, stack: ExitStack, quiet: bool) -> Log:
        """The log, with the first loss and every note so far."""
        log = Log(self.path, loop.settings, done=done, steps=loop.settings.steps, quiet=quiet)
        stack.callback(log.close)
        if first:
            log.record({"step": loop.step, "tokens": 0, "flops": 0.0, "seconds": 0.0, **first})
        for note in self.notes:
            log.note(note)
        return log

    def _save(
        self, checkpoint: Checkpoint, record: dict[str, Any], settings: Settings, world: World
    ) -> Callable[[Loop], None]:
        """The function that writes a checkpoint of the loop."""
        origin = Origin.of(checkpoint)

        def save(loop: Loop) -> None:
            done = {"step": loop.step, "tokens": loop.tokens, "flops": loop.flops, "seconds": loop.seconds}
            document = {**record, **done, "end": loop.plateau.end, "settings": settings.document()}
            checkpoints.save(self.path, loop.step, origin, loop.model, loop.optimizers, document, world)
            if world.first:
                checkpoints.prune(self.path, settings.keep)

        return save

    def _last(self, world: World) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to continue from and its train.json, or (None, {})."""
        if not self.resume:
            return None, {}
        with world.together():
            if world.first:
                self.notes += checkpoints.clean(self.path)
        checkpoint, document, notes = last_checkpoint(self.path)
        self.notes += notes
        return checkpoint, document

    def _begun(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """What the run was begun with: {"source": SRC, …}."""
        if not self.resume:
            if self.src is None:
                why = "a run begins with the weights of a checkpoint"
                raise BadInput(option("src"), what="is missing", why=why, fix=option(src="SRC"))
            return {"source": show(self.src, 4096)}
        begun = read_begun(self.path, stored)
        source, data = begun["source"], begun.pop("data")
        done = int(stored.get("step", 0))
        if self.src is not None and show(self.src, 4096) != source:
            raise refuse_change("src", source, show(self.src, 4096), done)
        if self.data and [d.weight for d in self.data] != [d.weight for d in data]:
            before, now = ([source.weight for source in sources] for sources in (data, self.data))
            raise began_otherwise(f"{option('data')} with the weights {now}", str(before), done)
        self.data = self.data or data
        if self.options.state not in (None, begun["policy"]):
            raise refuse_change("state", begun["policy"], self.options.state, done)
        if self.options.continue_schedule and not begun["settings"]["begin"]:
            raise began_otherwise(option(continue_schedule=True), "a schedule of its own", done)
        return begun

    def _start(self, path: Path, begun: Mapping[str, Any], stack: ExitStack, world: World) -> Start:
        """The training state that a new run begins from, open as long as the stack."""
        with world.together():
            start = open_start(path, begun.get("policy", self.options.state), self.options.trust_checkpoint)
        if start.state is not None:
            stack.enter_context(start.state)
        return start

    def _settings(self, checkpoint: Checkpoint, stored: Mapping[str, Any], start: Start) -> Settings:
        limit = capacity(checkpoint.config)
        length = min(limit or LONGEST, LONGEST)
        if self.resume:
            before = Settings.from_document(read_begun(self.path, stored)["settings"])
            settings = resumed(before, self.given, self._tokens(checkpoint, before.length), stored.get("step", 0))
        else:
            tokens = self._tokens(checkpoint, self.given.get("length", length))
            make = start.continued if self.options.continue_schedule else settings_of
            settings = make(self.given, tokens, length)
            settings, notes = inherited(settings, self.given, checkpoint.path, read_record(checkpoint.path))
            self.notes += notes
        start.check(settings)
        check_length(settings.length, limit)
        return settings

    def _tokens(self, checkpoint: Checkpoint, length: int) -> int | None:
        """How many tokens to train on; None where the number of steps says it."""
        return (
            self.options.tokens
            if self.options.flops is None
            else tokens_for(self.options.flops, checkpoint, length, self.given, self.options.tokens)
        )

    def _loop(self, checkpoint: Checkpoint, settings: Settings, start: Start, world: World) -> tuple[Data, Loop]:
        grown = read_record(checkpoint.path)
        if grown is None:
            self.options.refuse_without_growth(settings, checkpoint.path.name)
        if known := known_architecture(checkpoint.config):
            match(known, checkpoint.tensors, str(checkpoint.path))
        model, ignored = load_model(checkpoint, settings, world)
        if ignored:
            self.notes.append(f"{len(ignored)} tensors that {type(model).__name__} does not have are left out")
        tokenizer = tokenizer_of(checkpoint.path)
        objective = objective_of(model.config, tokenizer, type(model).__name__)
        if settings.documents:
            check_documents(model.config, objective.kind)

        def place(corpora: list[dict[str, Any]]) -> Settings:
            known = self.resume or "skip" in self.given
            return settings if known else start.placed(settings, corpora, objective.kind)

        sources, data = open_data(
            self.data, self.path, str(checkpoint.path), model.config, tokenizer, objective, settings, world, place
        )
        self.data, settings = sources, data.settings
        self.notes += data.notes
        flops = flops_per_token(checkpoint, settings.length)
        treated = Treated() if grown is None else treat(model, grown, checkpoint, settings)
        self.notes += treated.notes
        if grown is not None and not self.resume:
            tokens = (settings.steps - settings.begin) * settings.batch * settings.length
            self.notes += doubts_of(
                grown, tokens=tokens, flops=flops * tokens, source_tokens=self.options.source_tokens
            )
        optimizers = build_optimizers(model, settings, world, treated.scales)
        return data, Loop(model, optimizers, data, settings, world, flops, treated.new, treated.implied)
