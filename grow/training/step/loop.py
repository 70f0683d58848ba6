"""The loop: accumulate, clip, step, record, evaluate, save."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from grow.errors import GrowError
from grow.processes import World
from grow.spelling import option
from grow.training.after_growth.new_entries import NewEntries
from grow.training.after_growth.rates import Implied
from grow.training.log.metrics import Log
from grow.training.log.plateau import Plateau
from grow.training.settings.run_settings import Settings
from grow.training.sharding import local, reshard
from grow.training.step.model_and_loss import computing, inputs, loss_sum
from grow.training.step.parameter_groups import clip_gradients, gradient_norm, set_rate, states
from grow.training.text.inputs import Data
from grow.training.text.objectives import IGNORED


class NotFinite(GrowError):
    """A loss or a gradient is NaN or infinite. No step was taken, and the last checkpoint is as it was. Exit code 2."""

    shared = True  # the loss is a sum over all processes, so each of them raises this


@dataclass
class Loop:
    """What a step needs, and how far the run has come. `new` and `implied` are None where all entries are treated
    alike."""

    model: Any
    optimizers: list[torch.optim.Optimizer]
    data: Data
    settings: Settings
    world: World
    flops_per_token: float
    new: NewEntries | None = None
    implied: Implied | None = None
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # the steps alone, without evaluation and saving
    loss: float | None = None
    val_loss: float | None = None
    stopped: str = ""
    computing: Callable[[], AbstractContextManager] = field(init=False)
    plateau: Plateau = field(init=False)

    def __post_init__(self) -> None:
        self.computing = computing(self.settings, self.world.device)
        self.plateau = Plateau(self.settings)

    def run(self, log: Log | None, save: Callable[[Loop], None], signals: Signals) -> None:
        """Train until the last step or a signal; either way the run ends with a checkpoint."""
        s = self.settings
        while self.step < self.plateau.end and not self.stopped:
            began = time.perf_counter()
            lr, (loss, norm, tokens, received) = self.plateau.planned.rate(self.step), self.one_step(signals)
            seconds = time.perf_counter() - began
            self.step, self.tokens, self.loss = self.step + 1, self.tokens + tokens, loss
            self.seconds += seconds
            self.stopped = received
            entry = {"step": self.step, "tokens": self.tokens, "loss": loss, "lr": lr, "grad_norm": norm}
            entry |= {"flops": self.flops, "seconds": self.seconds, "tokens_per_second": tokens / seconds}
            if self.step % s.eval_every == 0 or self.step == self.plateau.end:
                entry |= self.evaluated()
            if log is not None:
                log.record(entry)
            if "val_loss" in entry and self.plateau.add(self.step, entry["val_loss"]) and log is not None:
                log.note(f"a plateau was found after step {self.step}; the last step is {self.plateau.end}")
            last = self.step == self.plateau.end
            if self.step % s.save_every == 0 or last or self.stopped:
                self.check_state()
                if log is not None:
                    log.sync()
                save(self)

    @property
    def flops(self) -> float:
        return self.flops_per_token * self.tokens

    def one_step(self, signals: Signals) -> tuple[float, float, int, str]:
        """One optimizer step: (loss per predicted token, global gradient norm, tokens, the signal that came)."""
        set_rate(self.optimizers, self.plateau.planned.rate(self.step))
        loss, tokens, received = self.accumulate(signals)
        if self.new is not None:
            self.new.mask_gradients()
        norm = gradient_norm(self.model, self.world) if self.implied is None else self.implied.gradient_norm(self.world)
        if not math.isfinite(norm):
            raise self._not_finite("the gradient")
        clip_gradients(self.model, norm, self.settings.clip)
        if self.new is not None:
            self.new.before(self.step - self.settings.begin)
        if self.implied is not None:
            self.implied.step(self.optimizers, self.settings.rate(self.step))
        for optimizer in self.optimizers:
            if self.implied is None:
                optimizer.step()
            optimizer.zero_grad()
        if self.new is not None:
            self.new.after(self.step - self.settings.begin)
        return loss, norm, tokens, received

    def accumulate(self, signals: Signals) -> tuple[float, int, str]:
        """Gradients of the mean loss over every predicted token of the step, wherever it was computed.

        A part contributes the gradient of its *sum*, divided by the tokens of the whole step: a mean of means would
        weigh a token by how many others its part has. FSDP2 averages over processes, which `size` undoes. It reduces
        the gradient of each part at once: summed first, the whole model's gradient would lie on every process.
        """
        parts = list(self.data.parts(self.step))
        mine = sum(int((part["labels"] != IGNORED).sum()) for part in parts)
        predicted = int(self.world.sum(mine)[0])
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.model.train()
        for number, part in enumerate(parts):
            torch.manual_seed(self._seed(number))
            with self.computing():
                loss = loss_sum(self.model, inputs(part, self.world.device))
            (loss * (self.world.size / max(1, predicted))).backward()
            total += loss.detach()
        seen = sum(part["labels"].size for part in parts)
        sums = self.world.sum(float(total), seen, signals.received)
        if not math.isfinite(sums[0]):
            raise self._not_finite("the loss")
        return sums[0] / max(1, predicted), int(sums[1]), signals.name if sums[2] else ""

    @torch.no_grad()
    def evaluated(self) -> dict[str, float]:
        """{"val_loss": nats per predicted token of the validation blocks}, or {} where there are none."""
        if not self.data.validation:
            return {}
        self.model.eval()
        total, count = 0.0, 0
        for part in self.data.held_out():
            with self.computing():
                total += float(loss_sum(self.model, inputs(part, self.world.device)))
            count += int((part["labels"] != IGNORED).sum())
        self.model.train()
        reshard(self.model)
        total, count = self.world.sum(total, count)  # type: ignore[assignment]
        if not math.isfinite(total):
            raise self._not_finite("the validation loss", self.step, "the weights are those after this step")
        self.val_loss = total / max(1, count)
        return {"val_loss": self.val_loss}

    def _seed(self, part: int) -> int:
        """The seed of dropout in one part of a step, so that no random state has to be kept."""
        key = self.settings.seed, self.step, self.world.rank, part
        return hash(key) & (1 << 63) - 1  # the hash of whole numbers is the same in every process

    @torch.no_grad()
    def check_state(self) -> None:
        """NotFinite where a weight or a moment is not finite: no such checkpoint is ever written."""
        named = [*self.model.named_parameters(), *states(self.optimizers)]
        if self.world.sum(sum(_odd(value) for _, value in named))[0]:
            mine = next((name for name, value in named if _odd(value)), "a tensor of another process")
            raise self._not_finite(mine, self.step, "the last step made it so")

    def _not_finite(self, what: str, step: int | None = None, why: str = "no step was taken") -> NotFinite:
        """The error; `step` is the one that was done, None: the one that is being done."""
        step = self.step + 1 if step is None else step
        return NotFinite(
            f"step {step}: {what}",
            what="is not finite",
            details=[("batch", self.data.named(max(0, step - 1)))],
            why=f"{why}; the last checkpoint is from before",
            fix=f"a lower {option('lr')}, a longer {option('warmup')} or {option('clip')}; and look at these blocks",
        )


def _odd(value: torch.Tensor) -> int:
    """How many entries on this process are not finite."""
    return int((~torch.isfinite(local(value))).sum())


class Signals:
    """SIGTERM and SIGINT end a run after the current step; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.received = 0
        self.name = "a signal"
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received, self.name = 1, signal.Signals(number).name
