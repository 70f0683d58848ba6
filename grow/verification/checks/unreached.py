"""What no probe reached, such as unused experts and rows, looked at in another way.

rows of tables   those that no probe looked up are held against the source's through the map of the others; a token
                 whose row is another one is then asked
experts          where one was chosen by no token, the choice is forced: every expert once, the same in both models.
                 Router logits are compared as they are, because they tell of experts that were not chosen too
units            those that an activation cuts off on every token (ReLU) are let through in both models

`reach` names what differs, and what could not be compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from grow.errors import listing
from grow.models.true_float64 import forward, quiet, stored
from grow.verification.checks.expert_stacks import Stacks, forced, in_order
from grow.verification.checks.table_rows import EQUAL, Lookups, Row, strange
from grow.verification.outputs.compare import RUN_ERRORS, difference
from grow.verification.outputs.forward_passes import UNIT_ROUNDOFF, ReadbackArg
from grow.verification.outputs.pair import Differs, NoRoom, Pair, Side
from grow.verification.probes import Probe
from grow.verification.result import EXACT

SIDES: tuple[Side, ...] = ("source", "grown")
LEAK = 0.5  # of what an activation cuts off: any scale above 0 that both models share would do
SHOWN = 8  # rows that are named one by one


@dataclass
class Reached:
    """unseen  what was not compared, and notes that say why;  fault  the first thing that differs, as in
    `Verification.first`;  counts  how much no probe had reached"""

    unseen: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fault: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)


def reach(pair: Pair, *, limit: float = EXACT, dtype: str = "float64", readback: ReadbackArg = None) -> Reached:
    """Whether everything that no probe reached is the same in both models.

    limit  of outputs, as in `true_float64`;  dtype  what the grown numbers were rounded to, where `limit` is larger
    """
    look = _Look(pair, limit, UNIT_ROUNDOFF[dtype] if limit > EXACT else 0.0, readback)
    try:
        look.count()
        for part in (look.tables, look.experts, look.units):
            part()
            if look.found.fault:
                break
    except (NoRoom, Differs) as error:
        look.unseen(f"what no probe reached was not looked at: {error}", "what no probe reached")
    return look.found


class _Look:
    def __init__(self, pair: Pair, limit: float, unit: float, readback: ReadbackArg) -> None:
        self.pair, self.limit, self.unit, self.readback = pair, limit, unit, readback
        self.found = Reached()
        self.rows: dict[Side, dict[str, torch.Tensor]] = {}
        self.stacks: dict[Side, Stacks] = {}
        self.cut: dict[Side, dict[str, int]] = {}

    def count(self) -> None:
        for side in SIDES:
            self._count(side)

    def unseen(self, why: str, *names: str) -> None:
        self.found.notes.append(why)
        self.found.unseen += names

    def _count(self, side: Side) -> None:
        """One pass over all probes with everything watched."""
        model = self.pair.model(side, "float64")
        lookups, stacks, units = Lookups(model), Stacks(model), _Units(model)
        with forward(model), quiet(), torch.random.fork_rng(devices=[]), lookups, stacks, units:
            for probe in self.pair.probes:
                for watch in (lookups, stacks):
                    watch.ask(probe)
                torch.default_generator.manual_seed(0)
                try:
                    model(**probe.arguments(model.dtype))
                except RUN_ERRORS as error:
                    raise self.pair.blame(side, f"probe {probe.name!r}: {error}") from error
        self.rows[side], self.stacks[side], self.cut[side] = lookups.rows, stacks, units.dead

    def tables(self) -> None:
        models = [self.pair.model(side, "float64") for side in SIDES]
        source, grown = (dict(model.named_parameters(remove_duplicate=False)) for model in models)
        missed = 0
        for name, seen in self.rows["source"].items():
            there = self.rows["grown"].get(name)
            if there is not None and len(there) >= len(seen):
                seen = seen & there[: len(seen)]
            if seen.all():
                continue
            missed += int((~seen).sum())
            x = stored(models[0], name)
            y = stored(models[1], name) if name in grown else None
            rows = [Row(name, int(row)) for row in (~seen).nonzero().flatten()[:1]]
            if x is not None and y is not None and there is not None and source[name].ndim == 2:
                rows = list(strange(name, x, y, seen, self.unit))
            self._rows(name, rows, seen)
            if self.found.fault:
                return
        self.found.counts["rows not looked up"] = missed

    def _rows(self, name: str, rows: list[Row], seen: torch.Tensor) -> None:
        table = name.removesuffix(".weight")
        known = [row for row in rows if row.column >= 0]
        if rows and not known:
            self.unseen(
                f"{int((~seen).sum())} rows of {table} were not looked at, from row {rows[0].row} on: no probe looks "
                "them up, and the other rows do not say what they should be", table,
            )  # fmt: skip
            return
        for row in known[:SHOWN]:
            self._asked(row, table)
            if self.found.fault:
                return

    def _asked(self, row: Row, table: str) -> None:
        """A row that is another one: the token that stands for it shows whether outputs differ, where there is one."""
        embedding = self.pair.model("source", "float64").get_input_embeddings()
        tokens = embedding is not None and getattr(embedding, "weight", None) is dict(
            self.pair.model("source", "float64").named_parameters()
        ).get(row.table)
        probe = next((p for p in self.pair.probes if p.name == "random" and "input_ids" in p.inputs), None)
        if tokens and probe is not None:
            ids = probe.inputs["input_ids"].clone()
            ids[..., ids.shape[-1] // 2] = row.row
            asked = Probe("unseen", {**probe.inputs, "input_ids": ids}, probe.counted, probe.encoder_counted)
            if (relative := self._apart(asked)) > self.limit:
                numbers = f"is {row.found:.9g}, wanted {row.wanted:.9g} (the map of the other rows)"
                text = f"{row.table}[{row.row}, {row.column}] {numbers}; a text with token {row.row} differs by "
                fault = _fault(table, row.table, [row.row, row.column], relative, f"{text}{relative:.3g} std")
                self.found.fault = {**fault, "found": row.found, "wanted": row.wanted}
                return
        self.unseen(f"row {row.row} of {table} is not the source's; no probe looked there", f"{table}[{row.row}]")

    def _apart(self, probe: Probe) -> float:
        """How far the models are apart on one probe, in units of its outputs' std."""
        a, b = (self.pair.run(side, self.pair.model(side, "float64"), [probe]) for side in SIDES)
        return difference(a, b, self.readback).relative

    @property
    def _plain(self) -> Probe:
        """Tokens, pixels or sound without padding."""
        return next((p for p in self.pair.probes if p.name == "random"), next(iter(self.pair.probes)))

    def experts(self) -> None:
        source, grown = self.stacks["source"], self.stacks["grown"]
        if not grown.counts and not source.counts:
            return
        self.found.counts["experts not chosen"] = sum(int((~seen).sum()) for seen in grown.chosen.values())
        if source.counts and len(grown.counts) > len(source.counts):
            # a layer of the same number may be another one
            idle = [f"{name}[{e}]" for side in (source, grown) for name in side.counts for e in side.left_out(name)]
            if idle:
                why = "nobody says which layers stand for which"
                self.unseen(f"no probe chose {listing(dict.fromkeys(idle))}, and {why}", *dict.fromkeys(idle))
            return
        for name in grown.counts:
            problem = self._router(name) if name in source.counts else ""
            if self.found.fault:
                return
            if problem:
                self.unseen(problem, f"{name}")
        lost = source.counts.keys() - grown.counts.keys()
        if lost:
            self.unseen(f"the grown model has no experts at {listing(sorted(lost))}", *sorted(lost))
        rest = self._left()
        if rest and not any(name in self.found.unseen for name in grown.counts):
            self._force(rest)

    def _left(self) -> dict[str, list[int]]:
        """The experts of the grown model that no token chose in one of the two, by stack."""
        source, grown = self.stacks["source"], self.stacks["grown"]
        left = {}
        for name, count in grown.counts.items():
            missing = set((~grown.chosen[name]).nonzero().flatten().tolist())
            if name in source.counts:
                for e in (~source.chosen[name]).nonzero().flatten().tolist():
                    missing |= set(grown.copies.get(name, {}).get(e, [e]))
            if missing:
                left[name] = sorted(i for i in missing if i < count)
        return left

    def _router(self, name: str) -> str:
        """Pairs the experts by their router logits, or says why that cannot be done; a row that is another one is a
        fault where both have as many experts."""
        source, grown = self.stacks["source"], self.stacks["grown"]
        if not source.understood(name) or not grown.understood(name):
            return f"nobody says which experts of {name} a token is sent to"
        n, m = source.counts[name], grown.counts[name]
        x, y = source.logits(name), grown.logits(name)
        if m % n:
            return f"{m} experts of {name} are not a whole number of copies of {n}"
        if x is None or y is None or len(x) != len(y):
            # no module gives logits: experts stand where they stood
            grown.copies[name] = {e: [e + c * n for c in range(m // n)] for e in range(n)}
            return "" if n == m else f"nobody says which experts of {name} are copies"
        near = max(EQUAL, self.limit)
        pairs, bad = in_order(x, y, near)
        if bad and n == m:
            e = bad[0]
            module, parameter = source.router(name)
            apart = float((x[:, e] - y[:, e]).abs().max()) / (float(x.std(correction=0)) or 1.0)
            text = f"{module}: the logits of expert {e} differ by {apart:.3g} std, chosen or not"
            self.found.fault = _fault(module, parameter, [e], apart, text)
            return ""
        if bad:
            return f"expert {bad[0]} of {name} has no counterpart with the same router logits"
        grown.copies[name] = pairs
        for key, (a, b) in _per_expert(source, grown, name).items():
            order = [pairs[e][0] for e in range(n)]
            off = (a - b[order]).abs() > near * max(float(a.abs().max()), 1e-300)
            if off.any() and not (a - b[order] - (a - b[order])[0]).abs().max() <= near * float(a.abs().max() or 1.0):
                e = int(off.nonzero()[0])
                text = (
                    f"{key}[{e}] is {float(b[order][e]):.9g}, wanted {float(a[e]):.9g} (it moves the choice of experts)"
                )
                self.found.fault = _fault(key.rpartition(".")[0], key, [e], float("inf"), text)
                return ""
        return ""

    def _force(self, left: dict[str, list[int]]) -> None:
        source, grown = self.stacks["source"], self.stacks["grown"]
        alone = not source.counts  # the source's FFN has become experts: any of them do what it does
        for shift in range(max(grown.passes(name, self._plain) for name in left)):
            try:
                with forced(grown, source, shift) as outs:
                    relative = self._apart(self._plain)
            except (*RUN_ERRORS, Differs) as error:
                self.unseen(f"the choice of experts cannot be forced: {type(error).__name__}: {error}", *_names(left))
                return
            if relative <= self.limit:
                continue
            module, expert = (None if alone else outs.guilty(source, grown, max(EQUAL, self.limit))) or ("", None)
            which = f"expert {expert} of {module}" if expert is not None else f"one of {listing(_names(left))}"
            text = f"{which} gives something else when tokens are sent to it, by {relative:.3g} std; no probe chose it"
            if alone:
                self.unseen(text, *_names(left))
            else:
                index = None if expert is None else [expert]
                self.found.fault = _fault(module or next(iter(left)), None, index, relative, text)
            return

    def units(self) -> None:
        cut = {name: count for name, count in self.cut["source"].items() if count}
        self.found.counts["units cut off"] = sum(cut.values())
        if not cut:
            return
        with _leaking(self.pair.model("source", "float64")), _leaking(self.pair.model("grown", "float64")):
            relative = self._apart(self._plain)
        if not relative <= self.limit:
            why = f"{sum(cut.values())} units are switched off on every probe ({listing(sorted(cut))})"
            self.unseen(f"{why}, and where they are let through the models differ by {relative:.3g} std", *sorted(cut))


def _names(left: dict[str, list[int]]) -> list[str]:
    return [f"{name}[{e}]" for name, experts in left.items() for e in experts]


def _fault(module: str, tensor: str | None, index: list[int] | None, relative: float, text: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("field", "found", "wanted"))
    return {
        "module": module,
        "tensor": tensor,
        "index": index,
        "relative": relative,
        "rule": "",
        **nothing,
        "text": text,
    }


def _per_expert(source: Stacks, grown: Stacks, name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Numbers that stand beside the router, one per expert: biases of the choice."""
    a, b = source.beside(name), grown.beside(name)
    return {key: (a[key], b[key]) for key in a.keys() & b.keys()}


class _Units(contextlib.AbstractContextManager):
    """Inside, `dead` counts for every activation the units whose output was 0 on every token, and not their input."""

    def __init__(self, model: Any) -> None:
        self.model, self.alive = model, dict[str, torch.Tensor]()

    def __enter__(self) -> _Units:
        self.hooks = [m.register_forward_hook(self._hook(name)) for name, m in _activations(self.model)]
        return self

    def __exit__(self, *exc: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:
        def note(module: Any, given: tuple, out: Any) -> None:
            if len(given) == 1 and isinstance(out, torch.Tensor) and out.shape == given[0].shape and out.ndim > 1:
                on = ((out != 0) | (given[0] == 0)).reshape(-1, out.shape[-1]).any(0)
                known = self.alive.get(name)
                if known is None or known.shape == on.shape:
                    self.alive[name] = on if known is None else known | on

        return note

    @property
    def dead(self) -> dict[str, int]:
        return {name: int((~on).sum()) for name, on in self.alive.items()}


def _activations(model: Any) -> Iterator[tuple[str, Any]]:
    """Modules without weights and parts of their own: activations are among them."""
    for name, module in model.named_modules():
        parts = (*module.children(), *module.parameters(), *module.buffers())
        if not parts and not isinstance(module, (torch.nn.Identity, torch.nn.Dropout)):
            yield name, module


@contextlib.contextmanager
def _leaking(model: Any) -> Iterator[None]:
    """Inside, what an activation makes 0 of something else is let through, `LEAK` of it. Units that share an input, or
    a positive multiple of it, share this too, so copies stay copies."""

    def leak(module: Any, given: tuple, out: Any) -> Any:
        if len(given) == 1 and isinstance(out, torch.Tensor) and out.shape == given[0].shape:
            return torch.where((out == 0) & (given[0] != 0), LEAK * given[0], out)
        return None

    hooks = [module.register_forward_hook(leak) for _, module in _activations(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
