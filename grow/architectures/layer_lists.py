"""Config fields with one entry per layer: what an entry may be, and what stock code takes where no list is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grow.notation.size_limits import cap_of


class Model(Protocol):
    """What a list asks of a model."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def get(self, name: str) -> Any: ...


@dataclass(frozen=True)
class LayerList:
    """A config field with one entry per layer; where it is not given all layers are alike, or another list says it.

    entries  what an entry may be, () where it may be anything
    alike    a number may stand in place of the list, for all layers
    needed   it must be given: what stock code takes in its place is not known here
    """

    field: str = "layer_types"
    entries: tuple[Any, ...] = ("full_attention", "sliding_attention")
    needed: bool = False
    alike: bool = False

    @property
    def follows_from(self) -> tuple[str, ...]:
        """Config fields that say nothing once the list is given."""
        return ()

    @property
    def kinds(self) -> str:
        """What may be listed, in words."""
        return f"of {', '.join(map(str, self.entries))}" if self.entries else "entries"

    def fits(self, value: Any, layers: int | None) -> bool:
        """Whether a config may have this value there."""
        if self.alike and type(value) is int:
            return True
        listed = isinstance(value, list) and len(value) == layers
        return listed and all(entry in (self.entries or value) for entry in value)

    @property
    def said_too(self) -> tuple[str, ...]:
        """Config fields that say the same in another way."""
        return ()

    def default(self, model: Model) -> tuple[Any, ...] | None:
        """The entries that stock code derives where the list is not given."""
        return None

    def otherwise(self, entries: Sequence[Any]) -> dict[str, Any]:
        """`said_too` for these entries."""
        return {}


@dataclass(frozen=True)
class Runs(LayerList):
    """The config says it in runs, too, in the field `runs`: [[["a", "b"], 2]] means a, b, a, b."""

    runs: str = ""

    @property
    def said_too(self) -> tuple[str, ...]:
        return (self.runs,)

    def default(self, model: Model) -> tuple[Any, ...] | None:
        entries = expanded(model.get(self.runs))
        return None if entries is None else tuple(entries)

    def otherwise(self, entries: Sequence[Any]) -> dict[str, Any]:
        """The shortest run."""
        n, listed = len(entries), list(entries)
        period = next(p for p in range(1, n + 1) if n % p == 0 and listed == listed[:p] * (n // p))
        return {self.runs: [[listed[:period], n // period]]}


@dataclass(frozen=True)
class Numbered(LayerList):
    """Where it is not given: the layers whose numbers are in the field `numbers` are of the first kind, or all are."""

    numbers: str = ""

    @property
    def follows_from(self) -> tuple[str, ...]:
        return (self.numbers,)

    def default(self, model: Model) -> tuple[Any, ...]:
        layers, numbers = range(model.sizes["layers"]), model.get(self.numbers)
        first = layers if numbers is None else numbers
        return tuple(self.entries[layer not in first] for layer in layers)


def expanded(runs: Any) -> list[Any] | None:
    """One entry per layer; None for what is not a list of runs, or is longer than any model is deep."""
    entries: list[Any] = []
    for run in runs if isinstance(runs, list) else [None]:
        if not isinstance(run, list) or len(run) != 2 or not isinstance(run[0], list) or type(run[1]) is not int:
            return None
        kinds, times = run
        if len(kinds) * times > cap_of("layers"):
            return None
        entries += kinds * times
    return entries


@dataclass(frozen=True)
class Period(LayerList):
    """Where it is not given: every so many layers, the last of them is of the second kind.

    every   unless the config field `said` says another number
    begins  the first of them is, instead
    """

    every: int = 1
    said: str = ""
    begins: bool = False

    @property
    def follows_from(self) -> tuple[str, ...]:
        return (self.said,) if self.said else ()

    def default(self, model: Model) -> tuple[Any, ...]:
        every = int((self.said and model.config.get(self.said)) or self.every)
        begin = 0 if self.begins else 1
        return tuple(self.entries[(layer + begin) % every == 0] for layer in range(model.sizes["layers"]))


@dataclass(frozen=True)
class Window(LayerList):
    """Where it is not given: layers from `first` on are of the second kind where `switch`, if there is one, is true.

    even  the second kind are the layers 0, 2, … below `first` instead
    """

    switch: str = "use_sliding_window"
    first: str = "max_window_layers"
    even: bool = False

    @property
    def follows_from(self) -> tuple[str, ...]:
        return (self.first,)

    def default(self, model: Model) -> tuple[Any, ...] | None:
        if (self.switch and not model.config.get(self.switch)) or model.config.get("sliding_window", 0) is None:
            return None
        first = int(model.get(self.first))
        return tuple(self.entries[self._second(layer, first)] for layer in range(model.sizes["layers"]))

    def _second(self, layer: int, first: int) -> bool:
        return layer % 2 == 0 and layer < first if self.even else layer >= first
