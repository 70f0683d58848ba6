"""The growths that `GrowCallback` will carry out: each at a step or on a condition."""

from __future__ import annotations

import inspect
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grow.api import plan
from grow.errors import BadInput, no_such
from grow.integrations.updates import check_updates

OPTIONS = tuple(
    name
    for name in inspect.signature(plan).parameters
    if name not in ("src", "to", "upcycling", "revision", "assume_harmless")
)
"""The options of `grow.widen` that apply to a model in memory and keep its class."""


@dataclass(frozen=True)
class Growing:
    """One growth: the options of `GrowCallback`, and those of `grow.widen` in `options`."""

    to: Any = None
    at_step: int | None = None
    when: Callable[[Any], bool] | None = None
    state: str = "fresh-new"
    verify: bool = False
    rewarm: tuple[float, int] | None = None
    freeze_old: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def apart(self) -> bool:
        """Whether new entries are treated differently afterwards."""
        return self.rewarm is not None or self.freeze_old

    @property
    def plain(self) -> bool:
        """Whether JSON can hold it."""
        try:
            json.dumps(self.document())
        except (TypeError, ValueError):
            return False
        return self.when is None

    def may_follow(self, step: int) -> bool:
        """Whether the growth may come after the next step, when `step` of them are done."""
        return self.at_step is None or self.at_step <= step + 1

    def due(self, state: Any) -> bool:
        """Whether the growth is due after this step; `state` is the `TrainerState`."""
        if self.when is not None:
            return bool(self.when(state))
        return self.at_step is not None and self.at_step <= state.global_step

    def document(self) -> dict[str, Any]:
        """The words from which `growings_of` makes it again."""
        own = {"state": self.state, "verify": self.verify, "rewarm": self.rewarm, "freeze_old": self.freeze_old}
        return {"to": self.to, "at_step": self.at_step, **own, **self.options}


WORDS = ("to", "at_step", "when", "state", "verify", "rewarm", "freeze_old")


def growings_of(growths: Sequence[Mapping[str, Any]] | None, one: Mapping[str, Any]) -> tuple[Growing, ...]:
    """The growths of a list, or the single one of keyword arguments; BadInput names what is wrong."""
    if growths is not None and one:
        why = "every growth of a list has its own options"
        raise _bad(", ".join(one), "is given beside a list", why, "put it into the dicts of the list")
    growings = tuple(_growing(dict(words)) for words in (growths if growths is not None else [one]))
    steps = [g.at_step for g in growings if g.at_step is not None]
    if not growings or any(b <= a for a, b in itertools.pairwise(steps)):
        what = f"are at the steps {steps}"
        raise _bad("growths", what, "they are done one after the other", "give ascending steps")
    return growings


def _growing(words: dict[str, Any]) -> Growing:
    for name in words:
        if name not in (*WORDS, *OPTIONS):
            known = (*WORDS, *OPTIONS)
            what = no_such("option", name, known)
            raise _bad(name, what, "options: " + ", ".join(known), "check the spelling")
    own = {name: value for name, value in words.items() if name in WORDS}
    if isinstance(own.get("to"), os.PathLike):
        own["to"] = os.fspath(own["to"])
    if isinstance(own.get("to"), Mapping):
        own["to"] = dict(own["to"])
    check_updates(1.0, own.get("rewarm"))
    if own.get("rewarm") is not None:
        own["rewarm"] = tuple(own["rewarm"])
    made = Growing(**own, options={name: value for name, value in words.items() if name in OPTIONS})
    if made.to is None:
        raise _bad("to", "is missing", "it says how large the model becomes", 'to="2x", or to={"layers": 12}')
    if (made.at_step is None) == (made.when is None):
        what = "neither is given" if made.at_step is None else "both are given"
        raise _bad("at_step, when", what, "one of them says when the model grows", "at_step=1000")
    if made.at_step is not None and (type(made.at_step) is not int or made.at_step < 0):
        raise _bad(
            f"at_step={made.at_step}",
            "must be a whole number, 0 or more",
            "it counts the steps that are done",
            "at_step=1000",
        )
    if made.when is not None and not callable(made.when):
        why = "it is called with the TrainerState after each step"
        raise _bad(f"when={made.when!r}", "must be a function", why, "when=lambda state: …")
    return made


def _bad(where: str, what: str, why: str, fix: str) -> BadInput:
    return BadInput(f"GrowCallback: {where}", what=what, why=why, fix=fix)
