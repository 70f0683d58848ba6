"""The model card of a grown checkpoint: where it came from, how it grew, what was proved."""

from __future__ import annotations

import json
import re

from grow.plan import Plan
from grow.verify.result import Verification, damage_text


def model_card(plan: Plan, source: str, verification: Verification | None) -> str:
    """Markdown with YAML front matter; every text that a config could carry is escaped."""
    base = json.dumps(source) if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else None
    before, after = plan.parameters
    lines = [
        "---",
        "library_name: transformers",
        *([f"base_model: {base}"] if base else []),
        f"tags: [grow, {'lossy' if plan.lossy else 'function-preserving'}]",
        "---",
        "",
        f"# {_plain(source)}, enlarged",
        "",
        f"Made by [grow](https://pypi.org/project/grow-transformers/) from `{_plain(source)}`: "
        f"{before:,} -> {after:,} parameters, {plan.storage}, method {plan.method}.",
        "",
        *(
            [f"**Lossy: {plan.method}.** It does not compute what its source computes: {plan.lossy}.", ""]
            if plan.lossy
            else []
        ),
        "| axis | old | new | how |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {axis} | {plan.sizes[axis]} | {plan.new_sizes[axis]} | {plan.operators.get(axis, '')} |"
        for axis in plan.sizes
        if plan.sizes[axis] != plan.new_sizes[axis]
    ]
    if verification is None:
        lines += [
            "",
            "**Unverified**: the check was switched off. `grow verify SOURCE THIS` makes up for it.",
        ]
    else:
        lines += [
            "",
            f"Verdict: **{f'lossy, measured {damage_text(verification)}' if plan.lossy else verification.verdict}**",
            "",
            "| check | result | largest difference |",
            "|---|---|---|",
        ]
        for check in verification.checks:
            shown = f"{check.largest:.2e}" if check.largest is not None else ""
            lines.append(f"| {check.name} | {check.status} | {shown} |")
    lines += ["", "The plan, the maps and a sha256 of every tensor are in `grow.json`.", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that cannot break out of a heading, a code span or a table."""
    return re.sub(r"[^\w./ :=,+-]", "_", text)[:200]
