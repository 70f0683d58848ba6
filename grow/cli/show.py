"""Results as text for people and as documents for `--json`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from grow.api import Inspection
from grow.architectures.family import WIDTHS, Family
from grow.cli.progress import size
from grow.comparison.summary import Comparison, Row
from grow.costs.of_a_model import cost_of
from grow.costs.process_memory import memory_per_process
from grow.costs.training_cost import TrainingCost
from grow.data.corpus import Manifest
from grow.errors import OBEYED, GrowError, one_line, plain
from grow.growth.plan_document import couplings, grouped, notes, plan_document
from grow.growth.results import Growth
from grow.notation.operators import OPERATORS
from grow.planning.methods import DEFAULT
from grow.planning.plan import Plan
from grow.plotting.savings import COSTS, Curves, Saving
from grow.processes import several
from grow.training.settings.run_settings import Training
from grow.verification.result import Verification, damage_text


def say(text: str = "", *, err: bool = False) -> None:
    """One line for people. Names in it may come from files: nothing in them moves the cursor or begins a line."""
    click.echo(one_line(text), err=err)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> None:
    """Left-aligned columns under their heads."""
    lines = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    for row in [list(head), *lines]:
        say((indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths))).rstrip())


def print_json(document: Any) -> None:
    """One strict JSON document on stdout; escaped where the terminal's encoding is not UTF-8."""
    ascii_alone = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=ascii_alone)
    text = OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # inside texts alone: JSON has none of its own
    # a lone surrogate stands for a byte of a file name that is no UTF-8
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def emit_error(error: GrowError) -> None:
    """The message on stderr; with --json also a document on stdout."""
    with unheard("stderr"):
        click.echo(plain(f"error: {error}"), err=True)
    if "--json" in sys.argv[1:]:
        parts = {"where": error.where, "what": error.what, "why": error.why, "fix": error.fix}
        with unheard("stdout"):
            print_json({"schema": 1, "error": parts, "exit_code": error.exit_code})


def emit_usage(error: click.ClickException) -> None:
    """click's own message, with --json as a document too."""
    if not first_process():
        return
    shown = io.StringIO()
    error.show(file=shown)
    with unheard("stderr"):
        click.echo(plain(shown.getvalue()), nl=False, err=True)
    if "--json" in sys.argv[1:]:
        command = getattr(getattr(error, "ctx", None), "command_path", "grow")
        parts = {"where": command, "what": error.format_message(), "why": "usage", "fix": f"{command} --help"}
        with unheard("stdout"):
            print_json({"schema": 1, "error": parts, "exit_code": 2})


@contextlib.contextmanager
def unheard(name: str) -> Iterator[None]:
    """What is said here of an error may find a full disk or a closed pipe: the exit code then says it alone."""
    try:
        yield
    except OSError:
        dropped(name)


def dropped(name: str) -> None:
    """Nothing goes to this stream any more, what waits in it neither."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """What is printed here may meet a closed stdout (`| head`): the rest is dropped and the exit code stays."""
    try:
        yield
    except BrokenPipeError:
        dropped("stdout")


def plan(p: Plan, world: int | None = None) -> None:
    old, new = cost_of(p)
    how = _method(p)
    say(f"{p.config['architectures'][0]}: {old.parameters:,} -> {new.parameters:,} parameters, {p.storage}{how}")
    if p.lossy:
        say(f"  not exact: {p.lossy}")
    for reason in p.rounded:
        say(f"  rounded: {reason}")
    say()
    say("axes")
    shown = [*(a for a in WIDTHS if a in p.sizes), *(a for a in p.sizes if a not in WIDTHS)]
    table(
        ("axis", "old", "new", "how"),
        ((a, p.sizes[a], p.new_sizes[a], p.operators.get(a, "unchanged")) for a in shown),
    )
    _legend(p)
    say()
    say("tensors")
    rows = (
        (f"{name} × {k}" if k > 1 else name, t.signature, _shape(t.shape), _shape(t.new_shape), t.dtype)
        for name, k, t in grouped(p)
    )
    table(("tensor", "signature", "old", "new", "dtype"), rows)
    say()
    say("couplings")
    for fact in couplings(p):
        say(f"  {fact}")
    if p.config_changes:
        say()
        say("config.json")
        table(
            ("field", "old", "new"),
            ((k, json.dumps(a), json.dumps(b)) for k, (a, b) in p.config_changes.items()),
        )
    say()
    say(f"cost (FLOPs of a forward pass per token, over {new.context} tokens)")
    per = [(f"FLOPs, {name}", f"{old.flops[name]:.4g}", f"{new.flops[name]:.4g}") for name in new.flops]
    per.append(("FLOPs, all", f"{old.flops_per_token:.4g}", f"{new.flops_per_token:.4g}"))
    if new.kv_bytes:
        per.append(("KV cache per token", size(old.kv_bytes), size(new.kv_bytes)))
    per.append(("memory to train, AdamW", size(old.train_bytes), size(new.train_bytes)))
    per.append(("disk", size(old.disk_bytes), size(new.disk_bytes)))
    table(("", "old", "new"), per)
    if world:
        _portions(p, world)
    for note in notes(p):
        say(f"note: {note}")


def _legend(p: Plan) -> None:
    """What the words of the column "how" mean, those that stand in it."""
    for name, operator in OPERATORS.items():
        if any(re.search(rf"(^| ){name}( ×|,|$)", how) for how in p.operators.values()):
            say(f"  {name}: {operator.meaning}")


def _portions(p: Plan, world: int) -> None:
    old, new = memory_per_process(p, world)
    say()
    say(f"memory of each of {world} processes that train it (FSDP2, float32, AdamW; activations not counted)")
    words = {
        "weights": "weights, its part",
        "gradients": "gradients, its part",
        "moments": "moments, its part",
        "in_flight": "whole for a moment",
        "total": "all",
        "loading": "while loading, beside its weights",
    }
    before, after = old.document(), new.document()
    table(("", "old", "new"), ((text, size(before[key]), size(after[key])) for key, text in words.items()))


def growth_document(grown: Growth) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(grown.path),
        "status": grown.status,
        "damage": grown.damage,
        "seconds": round(grown.seconds, 3),
        "plan": plan_document(grown.plan),
        "verification": grown.verification.to_dict() if grown.verification else None,
        "notes": list(grown.notes),
    }


def growth(grown: Growth) -> None:
    p = grown.plan
    before, after = p.parameters
    say(
        f"{grown.path}: {before:,} -> {after:,} parameters, {p.storage}, {size(p.nbytes)} in {grown.seconds:.1f} s"
        + _method(p)
    )
    changed = [a for a in p.sizes if p.sizes[a] != p.new_sizes[a]]
    table(("axis", "old", "new", "how"), ((a, p.sizes[a], p.new_sizes[a], p.operators.get(a, "")) for a in changed))
    _legend(p)
    for note in grown.notes:
        say(f"note: {note}")
    if grown.verification is None:
        say("unverified: --no-verify was given, so no weight was checked and no model was run")
    elif p.lossy:
        verification(grown.verification, verdict=False)
        say(f"lossy: {p.method}, measured {damage_text(grown.verification)}")
    else:
        verification(grown.verification)


def prepared(out: Path, made: Manifest) -> None:
    table(
        ("split", "documents", "tokens", "text"),
        ((name, f"{s.documents:,}", f"{s.tokens:,}", size(s.bytes)) for name, s in made.splits.items()),
    )
    end = "" if made.tokenizer["end"] is None else f", {made.tokenizer['end']} behind each document"
    say(f"{out}: {made.dtype} ids of {made.tokenizer['name']}'s tokenizer{end}")


def training(done: Training) -> None:
    losses = [
        f"{name} {value:.4f}"
        for name, value in (("loss", done.loss), ("validation", done.val_loss))
        if value is not None
    ]
    say(f"{done.checkpoint}: {done.tokens:,} tokens, {', '.join(losses)}, {done.seconds:.1f} s")
    if done.stopped:
        say(f"stopped by {done.stopped} after step {done.step} of {done.settings.steps}; --resume continues it")


def curves(found: Curves) -> None:
    """What every run cost, and at which loss it had saved what."""
    rows = []
    for curve in found.curves:
        last, before = curve.last, curve.before
        losses = [f"{loss:.4f}" if loss is not None else "" for loss in (curve.final(False), curve.final(True))]
        first = "not recorded" if before is None else f"{before.flops:.3g}"
        rows.append((curve.name, f"{last.step:,}", first, *_cost(last.spent), *losses))
        rows += [(f"  {mark.kind} {mark.name}", "", "", *_cost(mark.at), "", "") for mark in curve.marks]
    table(("run", "steps", "FLOPs before it", "FLOPs", "tokens", "seconds", "loss", "validation"), rows)
    if found.savings:
        say(f"saved against {found.baseline}, at the same {'validation' if found.validation else 'training'} loss")
        shown = [(s.run, f"{s.loss:.4f} of {s.of}", *(_saved(s, cost) for cost in COSTS)) for s in found.savings]
        table(("run", "loss", *("FLOPs", "tokens", "seconds")), shown)
    for note in found.notes:
        say(f"note: {note}")
    if found.out:
        say(f"picture: {found.out}")


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


def first_process() -> bool:
    """Whether this is the process that speaks; where there is one, a RANK that was left over counts for nothing."""
    return not several() or os.environ.get("RANK", "0") == "0"


def verification(found: Verification, *, verdict: bool = True) -> None:
    rows = []
    for check in found.checks:
        value = check.largest
        rows.append(
            (
                check.name,
                check.status,
                f"{value:.1e}" if value is not None else "",
                check.limit if check.status == "pass" else check.reason,
            )
        )
    table(("check", "result", "largest Δ", "claim"), rows)
    for check in found.checks:
        faults = check.measured.get("faults") or []
        if len(faults) > 1:
            for fault in faults[:20]:
                say(f"    {fault}")
            if check.measured["faulty"] > 20:
                say(f"    and {check.measured['faulty'] - 20} more tensors")
        for row in check.measured.get("tasks") or []:
            say(f"    {row['task']} {row['metric']}: {_score(row['source'])} and {_score(row['grown'])}")
    if found.first:
        say(f"first difference: {found.first['text']}")
    for note in found.notes:
        say(f"note: {note}")
    if verdict:
        say(_verdict(found))


def recorded(kept: dict[str, Any]) -> None:
    answers = "whole" if kept["whole"] else "sketched"
    say(f"{kept['path']}: {size(kept['bytes'])}, what {kept['source']} answers to {len(kept['probes'])} probes")
    rows = [(name, " × ".join(map(str, shape)), answers) for name, shape in kept["outputs"].items()]
    table(("output", "positions × width", "kept"), rows)
    for name, why in kept["skipped"].items():
        say(f"note: probe {name} was left out: {why}")


def _score(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _verdict(found: Verification) -> str:
    number = next(
        (
            r.measured.get("relative")
            for name in ("proof", "true_float64")
            for r in found.checks
            if r.name == name and r.status == "pass"
        ),
        None,
    )
    dead = "; but not all that is new can learn" if found.trainable is False else ""
    if found.lossless:
        how = (
            f" (max |Δ| {number:.1e} of the outputs' std in true float64)" if number is not None else " (same numbers)"
        )
        return f"lossless: {found.grown} {found.claim}{how}{dead}"
    if found.verdict == "certified":
        return f"certified: {found.grown}: {found.claim}{dead}"
    if found.trainable is not None and set(found.rungs) == {"trainability"}:
        share = found.checks[0].measured["share"]
        learn = f"{share:.1%} of the new parameters learn" if share is not None else "there are no new parameters"
        return f"{'trainable' if found.trainable else 'not trainable'}: {learn}; what it computes was not compared"
    if found.verdict in ("different", "unrecorded"):
        first = next(r for r in found.checks if r.status == "fail" and r.rung != "trainability")
        return f"{found.verdict}: {found.grown} {found.claim} ({first.name}: {first.reason})"
    return f"unproved: {found.notes[-1] if found.notes else 'no check that could tell was able to run'}"


def comparison(found: Comparison) -> None:
    """Step 0 of every method, and the losses of those that were trained, the best first."""
    grew = ", ".join(f"{axis} {a} -> {b}" for axis, (a, b) in found.sizes.items())
    say(f"{found.source} to {found.target}: {grew}")
    trained = [row for row in (*found.methods, *found.baselines) if row.curve]
    last = f"after {found.training['steps']}" if found.training else ""
    head = ["method", "class", "max |Δ|/std", "KL", "top-1", "loss", "learning", "dead", "twins", "seconds"]
    rows = []
    for row in sorted((*found.methods, *found.baselines), key=lambda r: r.curve.last if r.curve else 0.0):
        if row.applies:
            rows.append([row.name, row.kind, *_measured(row), *([f"{row.curve.last:.4f}"] if row.curve else [])])
    table([*head, last] if trained else head, rows)
    for row in found.methods:
        if not row.applies:
            say(f"  {row.name} does not apply: {row.reason}")
    if found.source_loss is not None:
        say(f"loss: nats per token of held-out text; the source's is {found.source_loss:.4f}")


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


def inspection_document(seen: Inspection) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(seen.path),
        "family": seen.family.model_type,
        "architecture": seen.match.config["architectures"][0],
        "sizes": seen.sizes,
        "parameters": _parameters(seen),
        "tensors": [
            {"name": t.name, "signature": str(t.row.signature), "dtype": t.dtype, "shape": list(t.shape)}
            for t in seen.match.tensors
        ],
        "targets": list(seen.family.sizes),
        "notes": list(seen.notes),
    }


def inspection(seen: Inspection) -> None:
    dtypes = sorted({t.dtype for t in seen.match.tensors})
    say(f"{seen.path}: {seen.match.config['architectures'][0]}, {_parameters(seen):,} parameters, {', '.join(dtypes)}")
    table(("axis", "size", "field"), ((a, n, seen.family.axes.get(a, "derived")) for a, n in seen.sizes.items()))
    say("tensors")
    first = [
        t
        for t in seen.match.tensors
        if not ("{layers}" in t.row.name and t.canonical != t.row.name.replace("{layers}", "0"))
    ]
    table(
        ("tensor (layer 0)", "signature", "shape"),
        ((t.name, t.row.signature, _shape(t.shape)) for t in first),
    )
    say("sizes of the family: " + ", ".join(seen.family.sizes))
    for note in seen.notes:
        say(f"note: {note}")


def families(chosen: Sequence[Family]) -> None:
    table(
        ("family", "models", "sizes"),
        ((f.model_type, f.summary, ", ".join(f.sizes)) for f in chosen),
        indent="",
    )


def family(f: Family) -> None:
    say(f"{f.model_type}: {f.summary}")
    table(("tensor", "signature", "there when"), ((r.name, r.signature, r.when) for r in f.rows))
    say("sizes")
    for name, fields in f.sizes.items():
        say(f"  {name}: " + ", ".join(f"{k}={v}" for k, v in fields.items()))


def family_document(f: Family) -> dict[str, Any]:
    return {
        "model_type": f.model_type,
        "summary": f.summary,
        "axes": dict(f.axes),
        "sizes": {name: dict(fields) for name, fields in f.sizes.items()},
        "tensors": [{"name": r.name, "signature": str(r.signature), "when": r.when} for r in f.rows],
    }


def _method(p: Plan) -> str:
    """`, lemon` and, where it is not exact, `, lossy: gstack`."""
    return f", lossy: {p.method}" if p.lossy else "" if p.method == DEFAULT else f", {p.method}"


def _parameters(seen: Inspection) -> int:
    total = 0
    for t in seen.match.tensors:
        count = 1
        for n in t.shape:
            count *= n
        total += count
    return total


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
