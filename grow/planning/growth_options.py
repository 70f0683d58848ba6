"""The options of a growth: every one with its default and its check.

`grow.plan`, `grow.widen`, the command line and recipes write these fields as parameters, as options and as keys. Below
them goes one `GrowthOptions`, which is whole: nothing in it is a value that no growth knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from grow.architectures import FAMILIES
from grow.errors import BadInput, did_you_mean, no_such
from grow.notation.dtypes import CODES
from grow.notation.operators import OPERATORS
from grow.notation.size_limits import cap_of
from grow.planning.change import ROUTES
from grow.planning.choose_maps import NEW_TOKENS
from grow.planning.layers import FILLS
from grow.planning.methods import DEFAULT, METHODS, method_named
from grow.planning.tensor import SPLITS
from grow.spelling import check_choice, check_flags, option


@dataclass(frozen=True)
class UpcyclingOptions:
    """How experts are made of a dense FFN; see `grow.upcycle`."""

    experts: int
    top_k: int | None = None
    granularity: int = 1
    every: int = 1
    route: str = "routed"

    def __post_init__(self) -> None:
        for name in ("experts", "granularity", "every", "top_k"):
            value = getattr(self, name)
            if name == "top_k" and value is None:
                continue
            if not _is_whole(value) or not 1 <= value <= cap_of("experts"):
                raise BadInput(
                    option(**{name: value}),
                    what="out of range",
                    why=f"a whole number from 1 to {cap_of('experts')}",
                    fix=option(**{name: 2}),
                )
        check_choice("route", self.route, ROUTES, "route")


@dataclass(frozen=True)
class GrowthOptions:
    """Options of a growth, each explained in `grow.widen`. BadInput names the first that is none.

    What fits no target can be seen here. What does not fit this source, or this target, is refused by the plan.
    """

    operators: Mapping[str, str] | None = None
    split: str | None = None
    seed: int = 0
    dtype: str = "auto"
    deepen: bool = False
    place: str | Sequence[int] = "spread"
    fill: str = "copy"
    new_tokens: str = "blend"
    method: str = DEFAULT
    allow_lossy: bool = False
    upcycling: UpcyclingOptions | None = None

    def __post_init__(self) -> None:
        _check_operators(self.operators)
        if self.split is not None:
            check_choice("split", self.split, SPLITS, "split")
        check_choice("dtype", self.dtype, ("auto", *CODES), "dtype")
        check_choice("fill", self.fill, FILLS, "fill")
        check_choice("new_tokens", self.new_tokens, NEW_TOKENS, "choice")
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise BadInput(
                option(seed=self.seed),
                what="out of range",
                why="a seed is a whole number from 0 to 2^63 - 1",
                fix=option(seed=0),
            )
        check_flags(deepen=self.deepen, allow_lossy=self.allow_lossy)
        self._check_method()
        if self.upcycling is not None:
            object.__setattr__(self, "upcycling", _upcycling(self.upcycling))

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> GrowthOptions:
        """Those that are among `given`, such as the parameters of a function that has them all and others beside."""
        return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given})

    def _check_method(self) -> None:
        """BadInput where something is chosen that the method chooses."""
        method = method_named(self.method)
        if self.method == DEFAULT:
            return
        given: list[dict[str, Any]] = [{"operators": {axis: name}} for axis, name in (self.operators or {}).items()]
        given += [{"split": self.split}] if self.split else []
        if not method.free:
            given += [{name: getattr(self, name)} for name in OF_LAYERS if not is_usual(name, getattr(self, name))]
        if given:
            first = given[0]
            raise BadInput(
                option(method=self.method, **first),
                what="both choose the same",
                why=f"{self.method} is: {METHODS[self.method].law}",
                fix=f"leave {option(next(iter(first)))} out, or {option(method=DEFAULT, **first)}",
            )

    def check_effect(self, old: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
        """Notes of what has no effect on a growth from `old` to `new`, axis -> size; BadInput for what is said of new
        layers where there are none: a slip.
        """
        for name in OF_LAYERS:
            if new["layers"] == old["layers"] and not is_usual(name, value := getattr(self, name)):
                raise BadInput(
                    option(**{name: value}),
                    what=f"has no effect: there are {old['layers']:,} layers before and after",
                    why="it is of new layers",
                    fix=f"leave it out, or {option(to={'layers': old['layers'] + 1})}; "
                    f"{option(deepen=True)} takes those of a size or a config",
                )
        follow = {"heads": ("heads", "kv_heads", "head_dim")}
        idle = [
            f"{option(operators={axis: name})} has no effect: {axis} does not grow"
            for axis, name in (self.operators or {}).items()
            if all(new.get(a) == old.get(a) for a in follow.get(axis, (axis,)))
        ]
        if not is_usual("new_tokens", self.new_tokens) and new.get("vocab") == old.get("vocab"):
            idle.append(f"{option(new_tokens=self.new_tokens)} has no effect: the vocabulary does not grow")
        return idle


OF_LAYERS = ("place", "fill")
"""What is said of new layers."""


def is_usual(name: str, value: Any) -> bool:
    """Whether an option is what it is where nobody says it."""
    usual = getattr(USUAL, name)
    return type(value) is type(usual) and bool(value == usual)


def _check_operators(operators: Any) -> None:
    if operators is None:
        return
    if not isinstance(operators, Mapping):
        raise BadInput(
            option(operators=operators),
            what=f"must be a dict, got {type(operators).__name__}",
            why="an operator is chosen for an axis",
            fix=option(operators={"ffn": "copies"}),
        )
    units = {axis for family in FAMILIES.values() for axis in family.units}
    for axis, name in operators.items():
        if axis not in ("hidden", "heads", *units):
            hint = did_you_mean(str(axis), ("hidden", "ffn", "heads"))
            raise BadInput(
                option(operators={axis: name}),
                what=f"no choice for {axis!r}; {hint}".rstrip("; "),
                why="axes with a choice: hidden, ffn, heads",
                fix=option(operators={"ffn": "copies"}),
            )
        if not isinstance(name, str) or name not in OPERATORS:
            raise BadInput(
                option(operators={axis: name}),
                what=no_such("operator", str(name), OPERATORS),
                why="operators: " + ", ".join(OPERATORS),
                fix=option(operators={axis: "copies"}),
            )


def _upcycling(given: Any) -> UpcyclingOptions:
    """BadInput for a name that is none, and where nobody says how many experts."""
    if isinstance(given, UpcyclingOptions):
        return given
    known = [f.name for f in fields(UpcyclingOptions)]
    if not isinstance(given, Mapping):
        raise BadInput(
            option(upcycling=given),
            what=f"must be a dict, got {type(given).__name__}",
            why="it is of " + ", ".join(known),
            fix=option(upcycling={"experts": 8}),
        )
    for name in given:
        if name not in known:
            raise BadInput(
                option(upcycling=given),
                what=f"has no {name!r}; {did_you_mean(str(name), known)}".rstrip("; "),
                why="it is of " + ", ".join(known),
                fix="check the spelling",
            )
    if "experts" not in given:
        raise BadInput(
            option(upcycling=given),
            what="says no number of experts",
            why="it is what the FFN becomes",
            fix=option(upcycling={"experts": 8, **given}),
        )
    return UpcyclingOptions(**given)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


USUAL = GrowthOptions()
"""What a growth is where nobody asks for anything else."""
