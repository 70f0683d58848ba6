"""What equal outputs say nothing about, because no probe got there; then it is looked at in another way.

rows of tables   those that no probe looked up are held against the source's through the map of the others; a token
                 whose row is another one is then asked
experts          where one was chosen by no token, the choice is forced: every expert once, the same in both models.
                 Router logits are compared as they are, because they tell of experts that were not chosen too
units            those that an activation cuts off on every token (ReLU) are let through in both models

`reach` finds a difference, or that all was reached, or names what was not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from grow.errors import listing
from grow.verify.compare import RUN_ERRORS, difference
from grow.verify.experts import Stacks, forced, in_order
from grow.verify.float64 import forward, quiet, stored
from grow.verify.lookups import EQUAL, Lookups, Row, strange
from grow.verify.outputs import UNIT_ROUNDOFF, ReadbackArg, guard
from grow.verify.pair import Pair, Side
from grow.verify.probes import Probe
from grow.verify.result import EXACT, Check

LIMIT = "rows, experts and units that no probe reached are the source's too"
SIDES: tuple[Side, ...] = ("source", "grown")
LEAK = 0.5  # of what an activation cuts off: any scale above 0 that both models share would do
SHOWN = 8  # rows that are named one by one


@guard
def reach(pair: Pair, *, limit: float = EXACT, dtype: str = "float64", readback: ReadbackArg = None) -> Check:
    """Everything that no probe reached is the same in both models; what could not be compared is named in "unseen".

    limit  of outputs, as in `true_float64`;  dtype  what the grown numbers were rounded to, where `limit` is larger
    """
    found = _Reach(pair, limit, UNIT_ROUNDOFF[dtype] if limit > EXACT else 0.0, readback)
    for look in (found.tables, found.experts, found.units):
        look()
        if found.fault:
            return Check("reach", "fail", {**found.measured, "first": found.fault}, LIMIT, found.fault["text"])
    measured = {**found.measured, "unseen": found.unseen}
    if found.unseen:
        return Check("reach", "skip", measured, LIMIT, "; ".join(found.why))
    return Check("reach", "pass", measured, LIMIT)


class _Reach:
    def __init__(self, pair: Pair, limit: float, unit: float, readback: ReadbackArg) -> None:
        self.pair, self.limit, self.unit, self.readback = pair, limit, unit, readback
        self.unseen: list[str] = []
        self.why: list[str] = []
        self.measured: dict[str, Any] = {}
        self.fault: dict[str, Any] | None = None
        self.rows: dict[Side, dict[str, torch.Tensor]] = {}
        self.stacks: dict[Side, Stacks] = {}
        self.cut: dict[Side, dict[str, int]] = {}
        for side in SIDES:
            self._count(side)

    def _count(self, side: Side) -> None:
        """One pass over all probes with everything watched."""
        model = self.pair.model(side, "float64")
        lookups, stacks, units = Lookups(model), Stacks(model), _Units(model)
        with forward(model), quiet(), torch.random.fork_rng(devices=[]), lookups, stacks, units:
            for probe in self.pair.probes:
                for watch in (lookups, stacks):
                    watch.ask(probe)
                torch.manual_seed(0)
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
            if self.fault:
                return
        self.measured["rows"] = {"tables": len(self.rows["source"]), "not looked up": missed}

    def _rows(self, name: str, rows: list[Row], seen: torch.Tensor) -> None:
        table = name.removesuffix(".weight")
        known = [row for row in rows if row.column >= 0]
        if rows and not known:
            self.unseen.append(table)
            self.why.append(
                f"{int((~seen).sum())} rows of {table} were not looked at, from row {rows[0].row} on: no probe looks "
                "them up, and the other rows do not say what they should be"
            )
            return
        for row in known[:SHOWN]:
            self._asked(row, table)
            if self.fault:
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
            if (relative := self._apart([asked])) > self.limit:
                self.fault = {
                    "module": table, "tensor": row.table, "index": [row.row, row.column], "field": None,
                    "found": row.found, "wanted": row.wanted, "relative": relative, "rule": "the map of the other rows",
                    "text": f"{row.table}[{row.row}, {row.column}] is {row.found:.9g}, wanted {row.wanted:.9g} (the map "
                    f"of the other rows); a text with token {row.row} differs by {relative:.3g} std",
                }  # fmt: skip
                return
        self.unseen.append(f"{table}[{row.row}]")
        self.why.append(f"row {row.row} of {table} is not the source's; no probe looked there")

    def _apart(self, asked: Iterable[Probe]) -> float:
        asked = list(asked)
        outputs = [self.pair.run(side, self.pair.model(side, "float64"), asked) for side in SIDES]
        spread = self.pair.run("source", self.pair.model("source", "float64"))
        found = difference({**spread, **outputs[0]}, {**spread, **outputs[1]}, None)
        return found.relative

    def experts(self) -> None:
        source, grown = self.stacks["source"], self.stacks["grown"]
        if not grown.counts and not source.counts:
            return
        self.measured["experts"] = {
            "stacks": len(grown.counts),
            "not chosen": sum(int((~seen).sum()) for seen in grown.chosen.values()),
        }
        for name in grown.counts:
            problem = self._router(name) if name in source.counts else ""
            if self.fault:
                return
            if problem:
                self._unseen(problem, f"{name}")
        lost = source.counts.keys() - grown.counts.keys()
        if lost:
            self._unseen(f"the grown model has no experts at {listing(sorted(lost))}", *sorted(lost))
        rest = self._left()
        if rest and not self.unseen:
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
            return f"{m} experts of {name} are no whole number of copies of {n}"
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
            self.fault = _fault(module, parameter, [e], apart, text)
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
                self.fault = _fault(key.rpartition(".")[0], key, [e], float("inf"), text)
                return ""
        return ""

    def _force(self, left: dict[str, list[int]]) -> None:
        probe = next((p for p in self.pair.probes if p.name == "random"), next(iter(self.pair.probes)))
        source, grown = self.stacks["source"], self.stacks["grown"]
        alone = not source.counts  # the source's FFN has become experts: any of them do what it does
        passes = max(grown.passes(name, probe) for name in left)
        for shift in range(passes):
            try:
                with forced(grown, source, shift) as outs:
                    relative = self._apart_forced(probe, alone)
            except (*RUN_ERRORS, KeyError) as error:
                self._unseen(f"the choice of experts cannot be forced: {type(error).__name__}: {error}", *_names(left))
                return
            if not relative <= self.limit:
                guilty = outs.guilty(self.stacks, probe, near=max(EQUAL, self.limit)) if not alone else None
                module, e = guilty or (next(iter(left)), None)
                which = f"expert {e} of {module}" if e is not None else f"an expert of {listing(_names(left))}"
                text = f"{which} gives something else when a token is sent to it, by {relative:.3g} std; no probe chose it"
                if alone:
                    self._unseen(text, *_names(left))
                else:
                    self.fault = _fault(module, None, None if e is None else [e], relative, text)
                return
        self.measured["experts"] |= {"forced": sum(map(len, left.values()))}

    def _apart_forced(self, probe: Probe, alone: bool) -> float:
        outputs = []
        for side in SIDES:
            outputs.append(self.pair.run(side, self.pair.model(side, "float64"), [probe]))
        return difference(outputs[0], outputs[1], self.readback).relative

    def units(self) -> None:
        source = self.cut["source"]
        cut = {name: count for name, count in source.items() if count}
        self.measured["units"] = {"cut off": sum(cut.values())}
        if not cut:
            return
        probe = next((p for p in self.pair.probes if p.name == "random"), next(iter(self.pair.probes)))
        outputs = []
        for side in SIDES:
            model = self.pair.model(side, "float64")
            with _leaking(model):
                outputs.append(self.pair.run(side, model, [probe]))
        relative = difference(outputs[0], outputs[1], self.readback).relative
        if not relative <= self.limit:
            names = sorted(cut)
            self._unseen(
                f"{sum(cut.values())} units are switched off on every probe ({listing(names)}), and the models differ "
                f"by {relative:.3g} std where they are let through", *names,
            )  # fmt: skip

    def _unseen(self, why: str, *names: str) -> None:
        self.why.append(why)
        self.unseen += names


def _names(left: dict[str, list[int]]) -> list[str]:
    return [f"{name}[{e}]" for name, experts in left.items() for e in experts]


def _fault(module: str, tensor: str | None, index: list[int] | None, relative: float, text: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("field", "found", "wanted"))
    return {"module": module, "tensor": tensor, "index": index, "relative": relative, "rule": "", **nothing, "text": text}


def _per_expert(source: Stacks, grown: Stacks, name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Numbers that stand beside the router, one per expert: biases of the choice."""
    a, b = source.beside(name), grown.beside(name)
    return {key: (a[key], b[key]) for key in a.keys() & b.keys()}


class _Units(contextlib.AbstractContextManager):
    """Inside, `dead` counts for every activation the units whose output was 0 on every token and whose input was not."""

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
        if not any(True for _ in module.children()) and not any(True for _ in module.parameters()):
            if not any(True for _ in module.buffers()) and not isinstance(module, (torch.nn.Identity, torch.nn.Dropout)):
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
