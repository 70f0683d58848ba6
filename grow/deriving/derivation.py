"""The derivation of a family: every axis proved, refused with its reason, or not described yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Refusal
from grow.architectures.family import Family
from grow.architectures.names_of_axes import FFNS
from grow.deriving.first_family import First, first_family
from grow.deriving.first_table import NotDescribed
from grow.deriving.growing import Trial, failing
from grow.deriving.search import MISSING, PROVED, REFUSED, Axis, Judge, axes_of, exact_trials, search
from grow.deriving.tiny_models import NotBuilt, TinyModel, answers, built, stock_config

PART = "partial_rotary_factor"
ENOUGH = ("hidden", "heads", "layers")
DRAWS = (2, 3)
"""Seeds of the further models on which every proved axis is grown once more."""


@dataclass(frozen=True)
class Derived:
    """What was found out about a model type.

    family  None where nothing could be described; `why` says what stood in the way
    axes    of the family, in order
    fields  field of the config -> what a growth with another value of it came to
    notes   classes and switches that the family leaves out, and why
    text    the family as a file of Python, where it was asked for
    """

    model_type: str
    family: Family | None = None
    why: str = ""
    axes: tuple[Axis, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    text: str = ""

    @property
    def proved(self) -> tuple[str, ...]:
        return tuple(axis.axis for axis in self.axes if axis.status == PROVED)

    @property
    def whole(self) -> bool:
        """Whether hidden, heads, FFN and depth are all proved."""
        return set(ENOUGH) <= set(self.proved) and bool({*FFNS[:2]} & set(self.proved))


def derivation(model_type: str) -> Derived:
    """The family of a stock model type, derived from its classes alone; never raises for a type that resists."""
    try:
        first = first_family(model_type)
    except (NotBuilt, NotDescribed) as error:
        kind = MISSING if isinstance(error, NotDescribed) else "stock code"
        return Derived(model_type, why=f"{kind}: {error}")
    family, axes = _searched(first)
    family, tinies, notes = _kept_by_all(first, family, _exact(axes))
    axes = _judged(family, tinies, axes)
    family = replace(family, refusals=_refusals(axes))
    family, fields = _with_fields(first, family, _exact(axes))
    return Derived(model_type, family, "", tuple(axes), fields, (*first.notes, *notes))


def _searched(first: First) -> tuple[Family, list[Axis]]:
    """The family with facts under which its axes grow exactly, and what each axis came to."""
    family, tiny, found = first.family, first.tinies[first.main], {}
    for axis in axes_of(family, tiny):
        family, found[axis] = search(family, tiny, axis)
    if found["hidden"][-1].exact and len(found["hidden"]) > 1 and found["hidden"][0].off is not None:
        family = replace(family, norm=replace(family.norm, bare="always"))
    axes, exact, trials = [], {}, {}
    for axis in (a for a in found if _held(family, a)):
        # once more: a fact that was found later may belong to an earlier axis, too
        trials[axis] = exact_trials(family, tiny, axis)
        if trials[axis][-1].exact:
            exact[axis] = trials[axis][-1].to
    others = [TinyModel(first.model_type, tiny.cls, tiny.fields, seed=seed) for seed in DRAWS]
    wrong = {axis for other in others for axis in failing(other, family, exact)}
    for axis in found:
        if axis not in trials:
            axes.append(Axis(axis, MISSING, why="no tensor of a tiny model has it"))
        elif axis in exact and axis not in wrong:
            axes.append(Axis(axis, PROVED, tuple(trials[axis])))
        else:
            axes.append(Axis(axis, REFUSED, tuple(trials[axis]), why=_least(trials[axis])))
    return family, axes


def _held(family: Family, axis: str) -> bool:
    """Whether some tensor has the axis, or it needs none."""
    if axis in ("layers", "head_dim", "heads", "kv_heads") or (axis == "positions" and family.attention.rope):
        return True
    return any(axis in row.signature.axes for row in family.rows)


def _exact(axes: Sequence[Axis]) -> dict[str, Mapping[str, int]]:
    """Axis -> the sizes to which it grew exactly, of the proved ones."""
    return {axis.axis: axis.trials[-1].to for axis in axes if axis.status == PROVED}


def _least(trials: Sequence[Trial]) -> str:
    """Why an axis is refused: how far the best growth is off, or why there is none."""
    offs = [trial.off for trial in trials if trial.off is not None]
    if offs:
        return f"no value of its facts is exact: outputs are off by {min(offs):.0e} of their std at best"
    return trials[-1].refused if trials else "it has no growth"


def _kept_by_all(
    first: First, family: Family, exact: Mapping[str, Mapping[str, int]]
) -> tuple[Family, list[TinyModel], list[str]]:
    """The family without the classes and switches whose models a proved axis does not keep."""
    tinies, notes = [first.tinies[first.main]], []
    for words, tiny in first.tinies.items():
        if words == first.main:
            continue
        dead = _dead(tiny, [name for name in tiny.state if name not in first.tinies[first.main].state])
        failed = failing(tiny, family, exact)
        if not dead and not failed:
            tinies.append(tiny)
            continue
        why = f"{', '.join(failed)} would not be exact" if failed else f"{dead[0]} reaches no output"
        notes.append(f"{words}: {why}")
        family = _left_out(family, words, tiny)
    return family, tinies, notes


def _left_out(family: Family, words: str, tiny: TinyModel) -> Family:
    """The family that refuses a switch, a tie or a class."""
    if "=" in words:
        name = words.partition("=")[0]
        return replace(family, fixed={**family.fixed, name: (not tiny.fields[name],)})
    if words == "tied":
        return replace(family, tie=None, fixed={**family.fixed, "tie_word_embeddings": (False,)})
    if words in tiny.cls.__name__:
        lines = []
        for line in family.table.splitlines():
            row, sign, when = line.partition("?")
            first, *rest = when.split() or [""]
            endings = [ending for ending in first.split("|") if ending != words]
            if sign and words in first.split("|"):
                if not endings:
                    continue
                line = f"{row}? {' '.join(['|'.join(endings), *rest])}"
            lines.append(line)
        return replace(family, table="\n".join(lines) + "\n")
    defaults = {k: v for k, v in family.defaults.items() if k != PART}
    fixed = {**family.fixed, PART: (None, 1.0)}
    return replace(family, attention=replace(family.attention, rope="half"), defaults=defaults, fixed=fixed)


def _dead(tiny: TinyModel, names: Sequence[str]) -> list[str]:
    """Tensors that reach no output: nothing can be proved of them."""
    model = built(tiny.cls, stock_config(tiny.model_type, tiny.fields))
    found = []
    for name in names:
        tiny.fill(model, {**tiny.state, name: tiny.state[name] * 1.5 + 0.5})
        after = answers(model, tiny.batches)
        if all(torch.equal(value, tiny.outputs[key]) for key, value in after.items()):
            found.append(name)
    return found


def _judged(family: Family, tinies: Sequence[TinyModel], axes: Sequence[Axis]) -> list[Axis]:
    """The proved axes with what other values of their facts came to; refused where another one fits as well."""
    judge = Judge(family, tinies, [axis.axis for axis in axes if axis.status == PROVED])
    found = []
    for axis in axes:
        if axis.status == PROVED:
            values = judge.values(axis.axis)
            rivals = [value for value in values if not value.fails and not value.idle]
            axis = replace(axis, values=values)
            if rivals:
                why = f"more than one value fits: {rivals[0].fact}: {rivals[0].value} is exact, too"
                axis = replace(axis, status=REFUSED, why=why)
        found.append(axis)
    return found


def _refusals(axes: Sequence[Axis]) -> tuple[Refusal, ...]:
    found = [Refusal(axis.axis, axis.why) for axis in axes if axis.status != PROVED]
    for axis in axes:
        if axis.status == PROVED and axis.axis != "hidden" and _only_multiples(axis):
            off = axis.trials[0]
            why = f"{_growth(off)} was off by {off.words} of an output's std, whole multiples were exact"
            found.append(Refusal(axis.axis, why, multiples=True))
    return tuple(found)


def _only_multiples(axis: Axis) -> bool:
    return axis.trials[0].off is not None and not axis.trials[0].exact


def _growth(trial: Trial) -> str:
    return " ".join(f"{axis}={n}" for axis, n in trial.to.items())


def _with_fields(first: First, family: Family, exact: Mapping[str, Mapping[str, int]]) -> tuple[Family, dict[str, str]]:
    """The family with every other field of the config: harmless where growths stay exact with another value of it that
    changes the outputs, fixed at its default elsewhere."""
    main, said, harmless, fixed = first.tinies[first.main], {}, [], {}
    for name, value in first.left.items():
        if name.startswith("_") or name in family.fixed:
            continue
        other = _other(value)
        words = "its only value"
        if other is not None:
            try:
                tiny = TinyModel(first.model_type, main.cls, {**main.fields, name: other})
            except NotBuilt as error:
                words = f"with {other}: {error}"
            else:
                if all(torch.equal(v, tiny.outputs[k]) for k, v in main.outputs.items()):
                    words = f"{other} changes no output of a tiny model"
                else:
                    bad = failing(tiny, family, exact)
                    words = f"with {other} {', '.join(bad)} would not be exact" if bad else ""
        if words:
            fixed[name] = ELEMENTWISE if isinstance(value, str) and value in ELEMENTWISE else (value,)
            said[name] = words
        else:
            harmless.append(name)
            said[name] = f"with {other} every growth stays exact"
    return replace(family, harmless=family.harmless | {*harmless}, fixed={**family.fixed, **fixed}), said


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * 1.5 if value else 0.5
    if isinstance(value, int):
        return value + 2
    return None


def constant(model_type: str) -> str:
    """The name of the family in its file."""
    return re.sub(r"\W", "_", model_type).upper()
