"""Experts that no token was sent to, compared by forcing the choice of experts in both models."""

from __future__ import annotations

import torch

from grow.errors import listing
from grow.verification.checks.expert_stacks import Stacks, forced, in_order
from grow.verification.checks.table_rows import EQUAL
from grow.verification.checks.unreached_findings import Search, fault_at
from grow.verification.outputs.compare import RUN_ERRORS
from grow.verification.outputs.two_folders import Differs


def compare_experts(search: Search, source: Stacks, grown: Stacks) -> None:
    """Every expert that no token was sent to gives what the source's gives; until the first that does not."""
    if not grown.counts and not source.counts:
        return
    search.findings.counts["experts not chosen"] = sum(int((~seen).sum()) for seen in grown.chosen.values())
    if source.counts and len(grown.counts) > len(source.counts):
        # a layer of the same number may be another one
        idle = [f"{name}[{e}]" for side in (source, grown) for name in side.counts for e in side.left_out(name)]
        if idle:
            why = "nobody says which layers stand for which"
            search.unseen(f"no probe chose {listing(dict.fromkeys(idle))}, and {why}", *dict.fromkeys(idle))
        return
    for name in grown.counts:
        problem = _pair_by_router(search, source, grown, name) if name in source.counts else ""
        if search.findings.fault:
            return
        if problem:
            search.unseen(problem, f"{name}")
    lost = source.counts.keys() - grown.counts.keys()
    if lost:
        search.unseen(f"the grown model has no experts at {listing(sorted(lost))}", *sorted(lost))
    idle_experts = _without_token(source, grown)
    if idle_experts and not any(name in search.findings.unseen for name in grown.counts):
        _force(search, source, grown, idle_experts)


def _without_token(source: Stacks, grown: Stacks) -> dict[str, list[int]]:
    """The experts of the grown model that no token chose in one of the two, by stack."""
    left = {}
    for name, count in grown.counts.items():
        missing = set((~grown.chosen[name]).nonzero().flatten().tolist())
        if name in source.counts:
            for e in (~source.chosen[name]).nonzero().flatten().tolist():
                missing |= set(grown.copies.get(name, {}).get(e, [e]))
        if missing:
            left[name] = sorted(i for i in missing if i < count)
    return left


def _pair_by_router(search: Search, source: Stacks, grown: Stacks, name: str) -> str:
    """Pairs the experts by their router logits, or says why that cannot be done; a row that is another one is a
    fault where both have as many experts."""
    if not source.understood(name) or not grown.understood(name):
        return f"nobody says which experts of {name} a token is sent to"
    n, m = source.counts[name], grown.counts[name]
    old, new = source.logits(name), grown.logits(name)
    if m % n:
        return f"{m} experts of {name} are not a whole number of copies of {n}"
    if old is None or new is None or len(old) != len(new):
        # no module gives logits: experts stand where they stood
        grown.copies[name] = {e: [e + c * n for c in range(m // n)] for e in range(n)}
        return "" if n == m else f"nobody says which experts of {name} are copies"
    near = max(EQUAL, search.limit)
    pairs, bad = in_order(old, new, near)
    if bad and n == m:
        e = bad[0]
        module, parameter = source.router(name)
        apart = float((old[:, e] - new[:, e]).abs().max()) / (float(old.std(correction=0)) or 1.0)
        text = f"{module}: the logits of expert {e} differ by {apart:.3g} std, chosen or not"
        search.findings.fault = fault_at(module, parameter, [e], apart, text)
        return ""
    if bad:
        return f"expert {bad[0]} of {name} has no counterpart with the same router logits"
    grown.copies[name] = pairs
    for key, (a, b) in _per_expert(source, grown, name).items():
        order = [pairs[e][0] for e in range(n)]
        off = (a - b[order]).abs() > near * max(float(a.abs().max()), 1e-300)
        if off.any() and not (a - b[order] - (a - b[order])[0]).abs().max() <= near * float(a.abs().max() or 1.0):
            e = int(off.nonzero()[0])
            text = f"{key}[{e}] is {float(b[order][e]):.9g}, wanted {float(a[e]):.9g} (it moves the choice of experts)"
            search.findings.fault = fault_at(key.rpartition(".")[0], key, [e], float("inf"), text)
            return ""
    return ""


def _force(search: Search, source: Stacks, grown: Stacks, left: dict[str, list[int]]) -> None:
    """Send tokens to every expert in turn, in both models, and compare the outputs."""
    alone = not source.counts  # the source's FFN has become experts: any of them do what it does
    for shift in range(max(grown.passes(name, search.plain_probe) for name in left)):
        try:
            with forced(grown, source, shift) as outs:
                relative = search.apart(search.plain_probe)
        except (*RUN_ERRORS, Differs) as error:
            search.unseen(f"the choice of experts cannot be forced: {type(error).__name__}: {error}", *_names(left))
            return
        if relative <= search.limit:
            continue
        module, expert = (None if alone else outs.guilty(source, grown, max(EQUAL, search.limit))) or ("", None)
        which = f"expert {expert} of {module}" if expert is not None else f"one of {listing(_names(left))}"
        text = f"{which} gives something else when tokens are sent to it, by {relative:.3g} std; no probe chose it"
        if alone:
            search.unseen(text, *_names(left))
        else:
            index = None if expert is None else [expert]
            search.findings.fault = fault_at(module or next(iter(left)), None, index, relative, text)
        return


def _per_expert(source: Stacks, grown: Stacks, name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Numbers that stand beside the router, one per expert: biases of the choice."""
    a, b = source.beside(name), grown.beside(name)
    return {key: (a[key], b[key]) for key in a.keys() & b.keys()}


def _names(left: dict[str, list[int]]) -> list[str]:
    return [f"{name}[{e}]" for name, experts in left.items() for e in experts]
