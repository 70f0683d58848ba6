"""What a growth method is: from a request to maps, layers and a split.

A method produces data and touches no weight. What comes after it (tensors, files, certificate, grow.json) is the same
for all of them. A method of the literature is a subclass that says its name, paper, law and class, which operator each
axis gets, and where layers go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from grow.architectures.architecture import Architecture
from grow.errors import Refused
from grow.notation.maps import AxisMap
from grow.planning.change import Redraw
from grow.planning.choose_maps import choose_maps
from grow.planning.layers import Depth, unchanged
from grow.planning.layers import place as place_layers
from grow.spelling import option


class Operator(Protocol):
    """See `grow.notation.operators`."""

    name: str

    def allows(self, n: int, m: int, context: str) -> bool: ...

    def __call__(self, n: int, m: int, context: str) -> AxisMap: ...


@dataclass(frozen=True)
class Request:
    """What is to grow.

    source       the model that grows
    new          axis -> size
    operators    axis -> name, as people chose them; only `default` takes them
    place, fill  of inserted layers, as people chose them; only methods that are `free` take them
    upcycled     a dense model is read as one with experts
    """

    source: Architecture
    new: Mapping[str, int]
    seed: int = 0
    operators: Mapping[str, str] | None = None
    place: str | Sequence[int] = "spread"
    fill: str = "copy"
    upcycled: bool = False

    @property
    def old(self) -> Mapping[str, int]:
        """Axis -> size, of the source."""
        return self.source.sizes

    def grows(self, axis: str) -> bool:
        return self.new.get(axis) != self.old.get(axis)

    def field(self, axis: str) -> str:
        return self.source.family.axes.get(axis, axis)


@dataclass(frozen=True)
class Design:
    """What a method makes of a request.

    maps    hidden, ffn, heads, kv_heads, head_dim.q, .k, .v
    words   axis -> how it grows
    lossy   what is lost and why; empty for an exact growth
    above, redraw  see `Change`
    """

    maps: dict[str, AxisMap]
    words: dict[str, str]
    depth: Depth
    split: str
    lossy: str = ""
    above: bool = False
    redraw: Redraw | None = None


class Method:
    """A way to grow that somebody published, or ours.

    kind   "exact": every output stays, or the request is refused; "lossy": some do not; "exact or lossy": by the sizes
    axes   what it grows: "width", "depth", "experts"; the other axes have to stay
    free   whether `place` and `fill` may be chosen
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    arxiv: ClassVar[str]
    law: ClassVar[str]
    kind: ClassVar[str] = "exact"
    axes: ClassVar[tuple[str, ...]] = ("width", "depth")
    split: ClassVar[str] = "exact"
    free: ClassVar[bool] = False

    def design(self, request: Request) -> Design:
        """Refused where the method does not do this, or not exactly although it is an exact one."""
        self._check_axes(request)
        operators = self.operators(request)
        units = request.source.family.units
        operators |= dict.fromkeys(units, operators["ffn"])
        for axis in ("hidden", *units):
            if request.grows(axis) and not operators[axis].allows(
                request.old[axis], request.new[axis], self._context(request, axis)
            ):
                raise self._no_map(request, axis, operators[axis])
        self._check_heads(request)
        maps, words = choose_maps(request.source, request.new, operators)
        depth = self.depth(request) if request.grows("layers") else unchanged(request.old["layers"])
        return Design(maps, words, depth, self.split, lossy=self.loss(request, maps, depth))

    def operators(self, request: Request) -> dict[str, Any]:
        """hidden and ffn (which all kinds of FFN share) -> an operator; heads -> "copies" or "unread"."""
        raise NotImplementedError

    def depth(self, request: Request) -> Depth:
        """Where the layers go; the default inserts ones that compute the identity."""
        return place_layers(request.old["layers"], request.new["layers"], request.place, request.fill)

    def loss(self, request: Request, maps: Mapping[str, AxisMap], depth: Depth) -> str:
        """What this growth loses, in words; "" when nothing."""
        return ""

    def refuse(self, what: str, why: str, fix: str) -> Refused:
        return Refused(option(method=self.name), what=what, why=why, fix=fix)

    def _check_axes(self, request: Request) -> None:
        known = {"width": request.source.family.widths, "depth": ("layers",), "experts": ("experts",)}
        grown = {kind: [axis for axis in axes if request.grows(axis)] for kind, axes in known.items()}
        for kind, axes in grown.items():
            if axes and kind not in self.axes:
                stay = "a target with " + ",".join(f"{request.field(a)}={request.old[a]}" for a in axes)
                raise self.refuse(
                    ", ".join(f"{a} {request.old[a]} -> {request.new[a]}" for a in axes),
                    f"it grows {' and '.join(self.axes)} only ({self.law})",
                    stay,
                )

    def _check_heads(self, request: Request) -> None:
        """A subclass may want whole multiples."""

    def _context(self, request: Request, axis: str) -> str:
        return request.source.contexts[axis]

    def _no_map(self, request: Request, axis: str, operator: Operator | None = None) -> Refused:
        n, m, context = request.old[axis], request.new[axis], self._context(request, axis)
        multiples = sorted({max(2, m // n) * n, -(-m // n) * n} - {n})
        near = [f"{request.field(axis)}={k}" for k in multiples if operator is None or operator.allows(n, k, context)]
        return self.refuse(f"cannot grow {axis} {n} -> {m}", self.law, " or ".join(near))


class WholeMultiples(Method):
    """A method that multiplies every axis it grows."""

    def _check_heads(self, request: Request) -> None:
        for axis in ("heads", "kv_heads"):
            if axis in request.old and request.new[axis] % request.old[axis]:
                raise self._no_map(request, axis)
