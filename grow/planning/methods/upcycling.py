"""Methods that make experts of a dense model: upcycling, Drop-Upcycling, random experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from grow.planning.change import Redraw
from grow.planning.methods.method import Design, Method, Request
from grow.planning.methods.padding import Default
from grow.spelling import command


class Upcycle(Default):
    """Ours is this one; named, it asks for a dense source."""

    name = "upcycle"
    paper = "Komatsuzaki et al.: Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints"
    arxiv = "2212.05055"
    law = "every expert is the old FFN, the router is drawn, and chosen weights sum to 1"
    kind = "exact"
    axes = ("width", "depth", "experts")
    redraw: ClassVar[Redraw | None] = None
    lost: ClassVar[str] = ""

    def design(self, request: Request) -> Design:
        if not request.upcycled:
            raise self.refuse(
                "makes experts of a dense model", self.law, command("upcycle", experts=8, method=self.name)
            )
        made = super().design(request)
        return replace(made, redraw=self.redraw, lossy=self.lost)


class DropUpcycling(Upcycle):
    """The paper draws from a normal distribution with the mean and deviation of the old weights; here it is a uniform
    one with mean 0 and their root mean square."""

    name = "drop-upcycling"
    paper = "Nakamura et al.: Drop-Upcycling: Training Sparse Mixture of Experts with Partial Re-initialization"
    arxiv = "2502.19261"
    law = "of every expert half of the units, drawn for each, are drawn anew: their gate, up and down weights"
    kind = "lossy"
    redraw = Redraw(0.5, first=True)
    lost = "half of the units of every expert are drawn anew"


class RandomExpert(Upcycle):
    name = "random-expert"
    paper = "Komatsuzaki et al.: Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints"
    arxiv = "2212.05055"
    law = "the first expert is the old FFN, all others are drawn: the other way to begin that upcycling is held against"
    kind = "lossy"
    redraw = Redraw(1.0, first=False)
    lost = "all experts but the first are drawn, and the router sends tokens to them"


METHODS: Mapping[str, Method] = {m.name: m for m in (Upcycle(), DropUpcycling(), RandomExpert())}
