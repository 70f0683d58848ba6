"""A comparison of growth methods as text."""

from __future__ import annotations

from grow.cli.terminal import say, table
from grow.comparison.summary import Comparison, Row


def show_comparison(comparison: Comparison) -> None:
    """Step 0 of every method, and the losses of those that were trained, the best first."""
    grew = ", ".join(f"{axis} {a} -> {b}" for axis, (a, b) in comparison.sizes.items())
    say(f"{comparison.source} to {comparison.target}: {grew}")
    trained = [row for row in (*comparison.methods, *comparison.baselines) if row.curve]
    last = f"after {comparison.training['steps']}" if comparison.training else ""
    head = ["method", "class", "max |Δ|/std", "KL", "top-1", "loss", "learning", "dead", "twins", "seconds"]
    rows = []
    for row in sorted((*comparison.methods, *comparison.baselines), key=lambda r: r.curve.last if r.curve else 0.0):
        if row.applies:
            rows.append([row.name, row.kind, *_measured(row), *([f"{row.curve.last:.4f}"] if row.curve else [])])
    table([*head, last] if trained else head, rows)
    for row in comparison.methods:
        if not row.applies:
            say(f"  {row.name} does not apply: {row.reason}")
    say("max |Δ|/std: the largest change of an output, in standard deviations; KL: in nats; top-1: equal first choices")
    say("learning: new parameters that learn; dead: those that never get a gradient; twins: copies that stay equal")
    if comparison.source_loss is not None:
        say(f"loss: nats per token of held-out text; the source's is {comparison.source_loss:.4f}")


def _measured(row: Row) -> list[str]:
    damage, learning = row.damage, row.trainability
    kl = "" if damage is None or damage.kl is None else f"{max(damage.kl, 0.0):.1e}"
    return [
        f"{damage.relative:.1e}" if damage else "",
        kl,
        "" if damage is None or damage.top1 is None else f"{damage.top1:.1%}",
        f"{row.loss:.4f}" if row.loss is not None else "",
        "" if learning is None or learning.share is None else f"{learning.share:.1%}",
        f"{learning.dead:,}" if learning else "",
        f"{learning.twins:,}" if learning else "",
        f"{row.seconds:.2f}" if row.seconds is not None else "",
    ]
