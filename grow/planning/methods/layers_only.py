"""Methods that only add layers: LLaMA Pro, G_stack, SOLAR, interposing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grow.notation.maps import AxisMap
from grow.planning.layers import Depth, insert
from grow.planning.methods.method import Method, Request


class DepthOnly(Method):
    axes = ("depth",)

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": None, "ffn": None, "heads": "unread"}

    def wants(self, request: Request, axis: str, depths: Sequence[int], why: str) -> None:
        """Refused unless the depth is one of these."""
        n, m = request.old[axis], request.new[axis]
        if m not in depths:
            near = sorted(sorted(depths, key=lambda k: abs(k - m))[:2])
            fix = " or ".join(f"{request.field(axis)}={k}" for k in near) or f"{request.field(axis)}={n}"
            raise self.refuse(f"{axis} {n} -> {m}", why, fix)


class LlamaPro(DepthOnly):
    """Wu et al., section 3.1: the n layers in m - n groups, behind each a copy of its last layer that writes 0."""

    name = "llama-pro"
    paper = "Wu et al.: LLaMA Pro: Progressive LLaMA with Block Expansion"
    arxiv = "2401.02415"
    law = "behind every n/(m - n) layers a copy of the last of them whose output projections are 0"

    def depth(self, request: Request, axis: str) -> Depth:
        n, m = request.old[axis], request.new[axis]
        whole = [n + p for p in range(1, n + 1) if n % p == 0]
        self.wants(request, axis, whole, f"m - n new layers stand behind {n}/(m - n) each")
        group = n // (m - n)
        return insert(n, [k * group + group - 1 for k in range(m - n)])


class Repeating(DepthOnly):
    """Old layers run more than once; nothing makes up for it."""

    kind = "lossy"

    def order(self, request: Request, axis: str) -> list[int]:
        """The old layer that every new one is."""
        raise NotImplementedError

    def depth(self, request: Request, axis: str) -> Depth:
        order = tuple(self.order(request, axis))
        return Depth(request.old[axis], order, (False,) * len(order))

    def loss(self, request: Request, maps: Mapping[str, AxisMap], depths: Mapping[str, Depth]) -> str:
        still = all(depth.is_identity for depth in depths.values())
        return "" if still else "layers run more than once, and x + f(x) + f(x + f(x)) is not x + f(x)"


class GStack(Repeating):
    name = "gstack"
    paper = "Du et al.: Stacking Your Transformers: A Closer Look at Model Growth for Efficient LLM Pre-Training"
    arxiv = "2405.15319"
    law = "the whole stack g = m/n times: layer j is old layer j mod n"
    kind = "lossy"

    def order(self, request: Request, axis: str) -> list[int]:
        n, m = request.old[axis], request.new[axis]
        whole = [n * g for g in {max(2, m // n), max(2, -(-m // n))}]
        self.wants(request, axis, whole, "the stack is repeated as a whole")
        return [j % n for j in range(m)]


class Solar(Repeating):
    name = "solar"
    paper = "Kim et al.: SOLAR 10.7B: Scaling Large Language Models with Simple yet Effective Depth Up-Scaling"
    arxiv = "2312.15166"
    law = "two copies of the stack, n - m/2 layers dropped on each side of the seam"
    kind = "lossy"

    def order(self, request: Request, axis: str) -> list[int]:
        n, m = request.old[axis], request.new[axis]
        even = [k for k in range(n + 1, 2 * n + 1) if k % 2 == 0]
        self.wants(request, axis, even, "the two copies lose the same number of layers: m is even and at most 2n")
        dropped = n - m // 2
        return [*range(n - dropped), *range(dropped, n)]


class Interpose(Repeating):
    name = "interpose"
    paper = "Chang et al.: Multi-level Residual Networks from Dynamical Systems View"
    arxiv = "1710.10348"
    law = "each layer is followed by its copies: layer j is old layer ⌊j·n/m⌋"
    kind = "lossy"

    def order(self, request: Request, axis: str) -> list[int]:
        n, m = request.old[axis], request.new[axis]
        whole = [n * g for g in {max(2, m // n), max(2, -(-m // n))}]
        self.wants(request, axis, whole, "every layer has as many copies")
        return [j * n // m for j in range(m)]


METHODS: Mapping[str, Method] = {m.name: m for m in (LlamaPro(), GStack(), Solar(), Interpose())}
