"""Experts of two running models: which tokens each gets, and which one is a copy of which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from grow.verification.checks.table_rows import mapped


class Stacks(contextlib.AbstractContextManager):
    """The places of a model that hold several experts, and while it is open what is sent where, padding left out.

    counts   module -> how many experts;  chosen  module -> (experts,) bool, what some token was sent to
    copies   module -> {expert of the source: [its copies]}, as far as somebody found out
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.counts = {name: count for name, m in model.named_modules() if (count := _experts_in(m))}
        self.chosen = {name: torch.zeros(count, dtype=torch.bool) for name, count in self.counts.items()}
        self.copies: dict[str, dict[int, list[int]]] = {}
        self.per_token: dict[str, int] = {}
        self.natural: dict[str, torch.Tensor] = {}
        self._logits: dict[str, dict[str, list[torch.Tensor]]] = {name: {} for name in self.counts}
        self._probe: Any = None

    def ask(self, probe: Any) -> None:
        """Say which probe runs next."""
        self._probe = probe

    def __enter__(self) -> Stacks:
        self._hooks = []
        for name in self.counts:
            module = self.model.get_submodule(name)
            self._hooks.append(module.register_forward_pre_hook(self._sent(name), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._given(name)))
            for near, sibling in _beside(self.model, name):
                self._hooks.append(sibling.register_forward_hook(self._routed(name, near)))
        return self

    def __exit__(self, *exc: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def understood(self, name: str) -> bool:
        """Whether the choice is an argument of the module: one number per place, or a mask over the experts."""
        return name in self.per_token

    def left_out(self, name: str) -> list[int]:
        """The experts to which no token was sent."""
        return [int(e) for e in (~self.chosen[name]).nonzero().flatten()]

    def passes(self, name: str, probe: Any) -> int:
        """How often a probe has to run until every expert had a token."""
        return -(-self.counts[name] // probe.counted.numel())

    def logits(self, name: str) -> torch.Tensor | None:
        """(tokens, experts), what the router says of every expert; None where no module gives it."""
        logits = next((parts for parts in self._logits[name].values() if parts), None)
        return None if logits is None else torch.cat(logits)

    def router(self, name: str) -> tuple[str, str | None]:
        """The module that gives the logits, and its parameter with a row per expert."""
        module = next((near for near, parts in self._logits[name].items() if parts), name)
        rows = [p for p, v in self.model.get_submodule(module).named_parameters() if len(v) == self.counts[name]]
        return module, f"{module}.{rows[0]}" if rows else None

    def beside(self, name: str) -> dict[str, torch.Tensor]:
        """Parameters and buffers beside the experts with one number for each."""
        numbers, parent = {}, name.rpartition(".")[0]
        block = self.model.get_submodule(parent)
        for key, value in [*block.named_parameters(), *block.named_buffers()]:
            whole = f"{parent}.{key}"
            if not whole.startswith(f"{name}.") and value.ndim == 1 and len(value) == self.counts[name]:
                numbers[whole] = value.detach().to(torch.float64)
        return numbers

    def _sent(self, name: str) -> Any:
        def note(module: Any, given: tuple, named: Mapping[str, Any]) -> None:
            for value in (*given, *named.values()):
                if not isinstance(value, torch.Tensor) or value.is_floating_point():
                    continue
                chosen = self._choice(name, value)
                if chosen is not None:
                    self.chosen[name][chosen[(chosen >= 0) & (chosen < self.counts[name])]] = True
                return

        return note

    def _choice(self, name: str, value: torch.Tensor) -> torch.Tensor | None:
        """The experts that tokens which count are sent to, from a choice (tokens, k) or a mask (tokens, 1, experts)."""
        mask = value.ndim == 3 and value.shape[-1] == self.counts[name]
        if value.ndim != 2 and not mask:
            return None
        self.per_token[name] = 1 if mask else value.shape[1]
        masks = [v.bool() for key, v in self._probe.inputs.items() if key.endswith("attention_mask") and v.ndim == 2]
        counted = next((m for m in (*masks, self._probe.counted) if m.numel() == len(value)), None)
        value = value if counted is None else value[counted.reshape(-1)]
        return value.nonzero()[:, -1] if mask else value.reshape(-1)

    def _given(self, name: str) -> Any:
        def note(module: Any, given: tuple, out: Any) -> None:
            if self._probe is not None and self._probe.name == "random" and isinstance(out, torch.Tensor):
                self.natural.setdefault(name, out.detach().reshape(-1, out.shape[-1]))

        return note

    def _routed(self, name: str, near: str) -> Any:
        self._logits[name].setdefault(near, [])

        def note(module: Any, given: tuple, out: Any) -> None:
            if not bool(self._probe.counted.all()):
                return
            for value in out if isinstance(out, (tuple, list)) else (out,):
                floats = isinstance(value, torch.Tensor) and value.is_floating_point()
                if floats and value.ndim > 1 and value.shape[-1] == self.counts[name]:
                    self._logits[name][near].append(value.detach().reshape(-1, value.shape[-1]).to(torch.float64))
                    return

        return note


def _experts_in(module: Any) -> int:
    """How many experts a module holds: matrices in one parameter, or modules of one kind; 0 for other modules."""
    declared = getattr(module, "num_experts", getattr(module, "num_routed_experts", None))
    stacked = {p.shape[0] for p in module._parameters.values() if p is not None and p.ndim == 3}
    if len(stacked) == 1 and isinstance(declared, int) and max(stacked) > 1:
        return int(max(stacked))
    parts = len(module._modules)
    if isinstance(module, (torch.nn.ModuleDict, torch.nn.ModuleList)) and isinstance(declared, int) and declared > 1:
        return declared if declared <= parts else 0
    return 0


def _beside(model: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The modules of the block around the experts, those of the experts left out."""
    parent = name.rpartition(".")[0]
    for key, module in model.get_submodule(parent).named_modules():
        whole = f"{parent}.{key}"
        if key and whole != name and not whole.startswith(f"{name}."):
            yield whole, module


def in_order(x: torch.Tensor, y: torch.Tensor, near: float) -> tuple[dict[int, list[int]], list[int]]:
    """Expert of the source -> the grown ones with its logits (tokens, experts), and those without as many as others.

    Logits may all be larger by one number per token, which softmax does not see.
    """
    tries = [(x, y), (x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))]
    best: tuple[dict[int, list[int]], list[int]] = {}, list(range(x.shape[1]))
    c = y.shape[1] // x.shape[1]
    for a, b in tries:
        unit = float(a.std(correction=0)) or float(a.abs().max()) or 1.0
        same = torch.stack([((a[:, [e]] - b).abs().amax(0) <= near * unit) for e in range(a.shape[1])])
        left, pairs, bad = set(range(b.shape[1])), dict[int, list[int]](), list[int]()
        for e in range(a.shape[1]):
            alike = sorted((j for j in same[e].nonzero().flatten().tolist() if j in left), key=lambda j: (j != e, j))
            pairs[e] = alike[:c]
            left -= set(pairs[e])
            if len(pairs[e]) != c:
                bad.append(e)
        if len(bad) < len(best[1]):
            best = pairs, bad
    return best


class _Outs:
    """What the stacks of both models gave under a forced choice, and which experts each token was sent to."""

    def __init__(self) -> None:
        self.given: list[dict[str, torch.Tensor]] = [{}, {}]
        self.sent: dict[str, torch.Tensor] = {}

    def guilty(self, source: Stacks, grown: Stacks, near: float) -> tuple[str, int | None] | None:
        """The first stack whose outputs differ, and the expert that all tokens with another output went to."""
        a, b = self.given
        for name in (name for name in b if name in a):
            old, new = source.natural.get(name), grown.natural.get(name)
            if old is None or new is None or len(old) < 2 or len(old) != len(new):
                continue
            wanted, known = mapped(torch.cat([old, a[name]]), torch.cat([new, b[name]]), len(old), near)
            bad = ~((b[name] - wanted[len(old) :])[:, known].abs() <= near * new.abs().max()).all(1)
            if bad.any():
                sent = self.sent[name]
                among = [e for e in sent.unique().tolist() if bool(bad[(sent == e).any(1)].all())]
                return name, among[0] if among else None
        return None


@contextlib.contextmanager
def forced(grown: Stacks, source: Stacks, shift: int) -> Iterator[_Outs]:
    """Inside, tokens of both models go to experts in turn, whatever the router says, in the grown one to all copies of
    theirs; `shift` says how many passes there were before. The router's weights stay, place by place."""
    outs, hooks = _Outs(), []

    def turn(count: int, tokens: int, k: int, *, groups: bool) -> torch.Tensor:
        """(tokens, k) experts in turn: groups of k that do not overlap, or windows that move by one, so that which
        tokens are wrong tells which expert is."""
        first = (torch.arange(tokens) + shift * tokens) * (k if groups else 1)
        return (first[:, None] + torch.arange(k)) % count

    def choice(stack: Stacks, name: str, value: torch.Tensor) -> torch.Tensor:
        count, mask = stack.counts[name], value.ndim == 3
        k = 1 if mask else value.shape[1]
        if stack is source or name not in source.counts:
            new = turn(count, len(value), k, groups=stack is grown)
        else:
            copies = grown.copies[name]
            c = len(copies[0])
            if k % c:
                raise ValueError(f"{k} experts per token are not {c} copies of some")
            old = turn(source.counts[name], len(value), k // c, groups=False)
            table = torch.tensor([copies[e] for e in range(len(copies))])
            new = table[old].reshape(len(value), k)
        if stack is source:
            outs.sent[name] = new
        return torch.nn.functional.one_hot(new, count).to(value.dtype) if mask else new.to(value.dtype)

    def send(stack: Stacks, name: str) -> Any:
        def hook(module: Any, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            def new(value: Any) -> Any:
                whole = isinstance(value, torch.Tensor) and not value.is_floating_point() and value.ndim in (2, 3)
                return choice(stack, name, value) if whole else value

            return tuple(map(new, given)), {key: new(value) for key, value in named.items()}

        return hook

    def take(into: dict[str, torch.Tensor], name: str) -> Any:
        def hook(module: Any, given: tuple, out: Any) -> None:
            if isinstance(out, torch.Tensor):
                into.setdefault(name, out.detach().reshape(-1, out.shape[-1]))

        return hook

    for stack, into in zip((source, grown), outs.given):
        for name in stack.counts:
            module = stack.model.get_submodule(name)
            hooks.append(module.register_forward_pre_hook(send(stack, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(take(into, name)))
    try:
        yield outs
    finally:
        for handle in hooks:
            handle.remove()
