"""What a failed or an incomplete comparison comes from, once the models have run.

by_running        the first module that differs, with the number or the field that explains it
unequal_numbers   outputs agree and stored numbers do not: why, or that no probe looked there
strange_tables    rows of lookup tables that no probe holds
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grow.families import FAMILIES
from grow.verify.localise import first_difference, same_end, strange_rows, unseen
from grow.verify.pair import Pair
from grow.verify.replay import Replay, config_differences, significant
from grow.verify.stored import StoredDifference


def by_running(
    pair: Pair, replay: Replay | None, stored: Sequence[StoredDifference], fields: list[dict[str, Any]], limit: float
) -> dict[str, Any] | None:
    """`first_difference` of a pair; `stored` and `fields` are how the files differ."""
    plans = replay.by_name() if replay else {}

    def explain(parameter: str) -> dict[str, Any] | None:
        if replay is not None:
            plan = next((t for name, t in plans.items() if same_end(name, parameter)), None)
            return replay.fault(plan) if plan else None
        return next((d.document() for d in stored if same_end(d.tensor, parameter)), None)

    if replay is None:  # defaults that one config spells out and the other leaves out are no difference
        config = pair.config("source")
        whole = config_differences(config.to_dict(), pair.config("grown").to_dict())
        family = FAMILIES.get(config.model_type)
        sizes = set(family.axes.values()) if family else set()
        fields = [field for field in significant(whole) if field["field"] not in sizes]
    first = first_difference(pair, replay, explain, fields, limit=limit)
    if first and stored and not (first["tensor"] or first["field"]):
        # stock loading renames what older files hold, so no name leads from the module to the tensor
        first |= stored[0].document() | {"text": f"{first['text'].split(';')[0]}; {stored[0]}"}
    return first


def unequal_numbers(pair: Pair, stored: Sequence[StoredDifference]) -> tuple[list[str], list[str]]:
    """Notes on the tensors that differ, and those that no probe reached."""
    notes = []
    missed = unseen(pair, [d.tensor for d in stored if not d.invisible])
    for d in stored:
        if d.invisible:
            notes.append(f"{d}; no output can see it: it {d.invisible}")
        elif d.tensor in missed:
            notes.append(f"{d}; no probe looked there, so equal outputs prove nothing about it")
    return notes, missed


def strange_tables(pair: Pair) -> tuple[list[str], list[str]]:
    """Without a plan and with other widths: notes on rows of lookup tables, and those that are not the source's."""
    notes, missed = [], []
    for table, row, differs in strange_rows(pair):
        if differs:
            notes.append(f"row {row} of {table} is not the source's; no probe looked there")
            missed.append(f"{table}[{row}]")
        else:
            notes.append(f"rows of {table} that no probe holds were not looked at")
    return notes, missed
