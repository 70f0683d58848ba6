"""Token files, a training run, and what runs cost and saved, as text."""

from __future__ import annotations

from pathlib import Path

from grow.cli.progress import size
from grow.cli.terminal import say, table
from grow.costs.training_cost import TrainingCost
from grow.data.corpus import Manifest
from grow.plotting.savings import COSTS, Curves, Saving
from grow.training.settings.run_settings import Training


def show_prepared(out: Path, made: Manifest) -> None:
    table(
        ("split", "documents", "tokens", "text"),
        ((name, f"{s.documents:,}", f"{s.tokens:,}", size(s.bytes)) for name, s in made.splits.items()),
    )
    end = "" if made.tokenizer["end"] is None else f", {made.tokenizer['end']} behind each document"
    say(f"{out}: {made.dtype} ids of {made.tokenizer['name']}'s tokenizer{end}")


def show_training(done: Training) -> None:
    losses = [
        f"{name} {value:.4f}"
        for name, value in (("loss", done.loss), ("validation", done.val_loss))
        if value is not None
    ]
    say(f"{done.checkpoint}: {done.tokens:,} tokens, {', '.join(losses)}, {done.seconds:.1f} s")
    if done.stopped:
        say(f"stopped by {done.stopped} after step {done.step} of {done.settings.steps}; --resume continues it")


def show_curves(curves: Curves) -> None:
    """What every run cost, and at which loss it had saved what."""
    rows = []
    for curve in curves.curves:
        last, before = curve.last, curve.before
        losses = [f"{loss:.4f}" if loss is not None else "" for loss in (curve.final(False), curve.final(True))]
        first = "not recorded" if before is None else f"{before.flops:.3g}"
        rows.append((curve.name, f"{last.step:,}", first, *_cost(last.spent), *losses))
        rows += [(f"  {mark.kind} {mark.name}", "", "", *_cost(mark.at), "", "") for mark in curve.marks]
    table(("run", "steps", "FLOPs before it", "FLOPs", "tokens", "seconds", "loss", "validation"), rows)
    if curves.savings:
        say(f"saved against {curves.baseline}, at the same {'validation' if curves.validation else 'training'} loss")
        shown = [(s.run, f"{s.loss:.4f} of {s.of}", *(_saved(s, cost) for cost in COSTS)) for s in curves.savings]
        table(("run", "loss", *("FLOPs", "tokens", "seconds")), shown)
    for note in curves.notes:
        say(f"note: {note}")
    if curves.out:
        say(f"picture: {curves.out}")


def _cost(spent: TrainingCost) -> tuple[str, str, str]:
    return f"{spent.flops:.3g}", f"{spent.tokens:,}", f"{spent.seconds:,.1f}"


def _saved(saving: Saving, cost: str) -> str:
    """`43.1% (1.2e+12 of 2.1e+12)`, or who never got there, or was there before it cost anything."""
    if saving.run_cost is None or saving.baseline_cost is None:
        return "never reached by " + (saving.run if saving.run_cost is None else saving.baseline)
    run, baseline = (getattr(spent, cost) for spent in (saving.run_cost, saving.baseline_cost))
    share = saving.saved(cost)
    if share is None:
        return "both begin there" if not run else f"{saving.baseline} begins there ({run:.3g} of 0)"
    return f"{share:.1%} ({run:.3g} of {baseline:.3g})"
