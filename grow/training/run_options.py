"""The options of a run that are not settings: where it begins, what it reads, how long it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from grow.errors import BadInput
from grow.spelling import Pair, check_flags, check_path, check_text, check_whole, left_out, option
from grow.training.settings.limits import MEANINGS
from grow.training.settings.run_settings import Settings


@dataclass(frozen=True)
class RunOptions:
    """Each is explained in `grow.train`. BadInput names the first that has a value of another kind."""

    out: str | os.PathLike
    tokens: int | None = None
    flops: float | None = None
    resume: bool = False
    trust_checkpoint: bool = False
    world: int | None = None
    source: str | os.PathLike | None = None
    source_tokens: int | None = None
    state: str | None = None
    continue_schedule: bool = False
    revision: str | None = None
    quiet: bool = True

    def __post_init__(self) -> None:
        check_path("out", self.out, "a run is a folder")
        if self.tokens is not None:
            check_whole("tokens", self.tokens, MEANINGS["tokens"], least=1, example=1_000_000)
        check_flags(
            resume=self.resume,
            trust_checkpoint=self.trust_checkpoint,
            continue_schedule=self.continue_schedule,
            quiet=self.quiet,
        )
        if self.world is not None:
            check_whole("world", self.world, "it is a number of processes", least=1)
        if self.source is not None:
            check_path("source", self.source, "it is the checkpoint that the weights grew from")
        if self.source_tokens is not None:
            check_whole("source_tokens", self.source_tokens, "it counts the tokens of earlier training", least=0)
        if self.revision is not None:
            check_text("revision", self.revision, "it is a branch, a tag or a commit of a hub id", "main")

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> RunOptions:
        """Those that are among `given`, such as the parameters of a function that has them and others beside."""
        return cls(**{f.name: given[f.name] for f in fields(cls)})

    def refuse_without_growth(self, settings: Settings, checkpoint: str) -> None:
        """BadInput for an option that needs to know what a growth made; `checkpoint` records no growth."""
        given: dict[str, Any] = {
            "rewarm": settings.rewarm and Pair(settings.rewarm),
            "freeze_old": settings.freeze_old,
            "rates": settings.rates if settings.rates != "uniform" else None,
            "source": self.source,
            "source_tokens": self.source_tokens,
        }
        for name, value in given.items():
            if value:
                raise BadInput(
                    option(**{name: value}),
                    what=f"{checkpoint} is not known to have grown",
                    why="no grow.json beside the weights says what is new",
                    fix=left_out(name),
                )
