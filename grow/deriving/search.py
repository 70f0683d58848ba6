"""Facts found by growing: of every axis the values under which tiny random models keep their outputs, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.deriving.growing import Trial, same, targets, tried
from grow.deriving.other_values import Other, others
from grow.deriving.tiny_models import TinyModel

FIRST = ("hidden", "head_dim", "heads", "kv_heads")
TOGETHER = ("heads", "hidden", "head_dim")
"""Where head_dim is hidden / heads, none of them grows without the others, and heads show the least facts."""
LIMIT = 150
"""Trials of an axis before it counts as one that no value fits."""
PROVED, REFUSED, MISSING = "proved", "refused", "not described yet"


@dataclass(frozen=True)
class Value:
    """What another value of a fact came to: `words` is how far the outputs were off, or why nothing grew."""

    fact: str
    value: str
    words: str
    fails: bool
    idle: bool = False


@dataclass(frozen=True)
class Axis:
    """What is known of one axis.

    status  proved; refused (no value of its facts is exact, or several are); not described yet
    trials  of the family as it is, the freest size first
    values  of the other values of its facts
    """

    axis: str
    status: str
    trials: tuple[Trial, ...] = ()
    values: tuple[Value, ...] = ()
    why: str = ""

    @property
    def off_when_exact(self) -> float:
        """The worst of the growths that were exact."""
        return max((trial.off for trial in self.trials if trial.off is not None and trial.exact), default=0.0)

    @property
    def sizes(self) -> str:
        """The growths that were exact, in words."""
        return ", ".join(dict.fromkeys(" ".join(f"{a}={n}" for a, n in t.to.items()) for t in self.trials if t.exact))


def axes_of(family: Family, tiny: TinyModel) -> list[str]:
    """The axes of a family that grow, in the order in which their facts are looked for."""
    sizes = Architecture(family, tiny.config).sizes
    order = dict.fromkeys((*(TOGETHER if family.derived_head_dim else FIRST), *family.growable))
    return [axis for axis in order if axis in sizes and (axis in family.axes or axis == "head_dim")]


def exact_trials(family: Family, tiny: TinyModel, axis: str) -> list[Trial]:
    """The trials of an axis, up to and with the first that is exact; what is freer comes before it."""
    sizes = Architecture(family, tiny.config).sizes
    found = []
    for to in targets(family, sizes, axis):
        found.append(tried(tiny, family, to))
        if found[-1].exact:
            break
    return found


def search(family: Family, tiny: TinyModel, axis: str) -> tuple[Family, list[Trial]]:
    """The family with the facts of one axis set so that it grows exactly, as few of them changed as can be.

    Every target of the axis is tried under all values before one that is less free is."""
    sizes = Architecture(family, tiny.config).sizes
    last: list[Trial] = []
    for to in targets(family, sizes, axis):
        first = tried(tiny, family, to)
        last.append(first)
        if first.exact:
            return family, last
        for candidate in _combinations(family, axis, 1 if first.off is None else 3):
            trial = tried(tiny, candidate, to)
            if trial.exact:
                return candidate, [*last[:-1], trial]
    return family, last


def _combinations(family: Family, axis: str, depth: int) -> Iterator[Family]:
    """Families with one fact of the axis changed, then with two, then with three."""
    seen, front, count = {_key(family)}, [family], 0
    for _ in range(depth):
        following = []
        for one in front:
            for other in _or_nothing(one, axis):
                if _key(other.family) not in seen:
                    seen.add(_key(other.family))
                    following.append(other.family)
                    count += 1
                    yield other.family
                    if count >= LIMIT:
                        return
        front = following


def _or_nothing(family: Family, axis: str) -> list[Other]:
    """The other values of an axis's facts; where no axis grows alone, of all that grow with it."""
    pool = TOGETHER if family.derived_head_dim and axis in TOGETHER else (axis,)
    try:
        return [other for one in (axis, *(a for a in pool if a != axis)) for other in others(family, one)]
    except ValueError:  # a table that is no table
        return []


def _key(family: Family) -> tuple[str, ...]:
    return family.table, repr(family.norm), repr(family.attention)


class Judge:
    """What other values of the facts come to. The right growths are run once each.

    proved  the axes that grow exactly: what is exact on one of them may fail on another
    """

    def __init__(self, family: Family, tinies: Sequence[TinyModel], proved: Sequence[str]) -> None:
        self.family, self.tinies, self.proved = family, tinies, proved
        self._right: dict[tuple[int, str], list[Trial]] = {}

    def values(self, axis: str) -> tuple[Value, ...]:
        """What every other value of the axis's facts comes to: it must fail, or make no difference."""
        return tuple(self.judged(other) for other in others(self.family, axis))

    def judged(self, other: Other) -> Value:
        """Fails in the first growth of the family that it does not keep exact. What would free an axis, and is exact
        where the family refuses, is a value that fits too."""
        idle, words, freed = True, "", ""
        for at, tiny in enumerate(self.tinies):
            for axis in (other.axis, *(a for a in self.proved if a != other.axis)):
                for right in self._trials(at, tiny, axis):
                    wrong = tried(tiny, other.family, right.to)
                    words = words or wrong.words
                    if right.exact and not wrong.exact:
                        return Value(other.fact, other.value, wrong.words, fails=True)
                    if not right.exact and wrong.off is not None and not wrong.exact:
                        freed = freed or wrong.words
                    if not right.exact and wrong.exact:
                        return Value(other.fact, other.value, wrong.words, fails=False)
                    idle = idle and (not right.exact or same(right, wrong))
        if freed:
            return Value(other.fact, other.value, freed, fails=True)
        return Value(other.fact, other.value, words, fails=False, idle=idle)

    def _trials(self, at: int, tiny: TinyModel, axis: str) -> list[Trial]:
        if (at, axis) not in self._right:
            sizes = Architecture(self.family, tiny.config).sizes
            self._right[at, axis] = [tried(tiny, self.family, to) for to in targets(self.family, sizes, axis)]
        return self._right[at, axis]
