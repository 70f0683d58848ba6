"""When a run has stopped getting better, by its validation losses.

A resumed run reads them back from metrics.jsonl and comes to the same end.
"""

from __future__ import annotations

from dataclasses import replace

from grow.training.settings.run_settings import Settings


class Plateau:
    """The setting `plateau`, (STEPS, NATS): the run ends where its best validation loss fell by less than NATS over the
    last STEPS steps; with wsd its decay begins there instead. Losses count from the end of the warmup on.

    at   the step after which the plateau was found, None so far
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.at: int | None = None
        self._seen: list[tuple[int, float]] = []

    def add(self, step: int, loss: float) -> bool:
        """Take in a validation loss, in the order of the steps; True when it shows a plateau."""
        s = self.settings
        if s.plateau is None or self.at is not None or step < s.warmup:
            return False
        self._seen.append((step, loss))
        window, nats = s.plateau
        before = [loss for at, loss in self._seen if at <= step - window]
        if not before or step >= s.steps - self._decay or min(before) - min(loss for _, loss in self._seen) >= nats:
            return False
        self.at = step
        return True

    @property
    def end(self) -> int:
        """The last step, as far as it is known."""
        return self.settings.steps if self.at is None else self.at + self._decay

    @property
    def planned(self) -> Settings:
        """The settings that the learning rate follows."""
        return self.settings if self.at is None else replace(self.settings, steps=self.end)

    @property
    def _decay(self) -> int:
        return self.settings.decay if self.settings.schedule == "wsd" else 0
