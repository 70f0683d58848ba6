"""Rows of embedding tables that no probe looked up, held against the source's."""

from __future__ import annotations

import torch

from grow.models.true_float64 import stored
from grow.verification.checks.table_rows import Row, Rows, strange
from grow.verification.checks.unreached_findings import Search, fault_at
from grow.verification.outputs.two_folders import SIDES
from grow.verification.probes import Probe

SHOWN = 8  # rows that are named one by one


def compare_rows(search: Search, source_rows: Rows, grown_rows: Rows) -> None:
    """Every row that was not looked up in both models is the source's; until the first that is not."""
    models = [search.pair.model(side, "float64") for side in SIDES]
    source, grown = (dict(model.named_parameters(remove_duplicate=False)) for model in models)
    missed = 0
    for name, seen in source_rows.items():
        seen_in_grown = grown_rows.get(name)
        if seen_in_grown is not None and len(seen_in_grown) >= len(seen):
            seen = seen & seen_in_grown[: len(seen)]
        if seen.all():
            continue
        missed += int((~seen).sum())
        old = stored(models[0], name)
        new = stored(models[1], name) if name in grown else None
        rows = [Row(name, int(row)) for row in (~seen).nonzero().flatten()[:1]]
        if old is not None and new is not None and seen_in_grown is not None and source[name].ndim == 2:
            rows = list(strange(name, old, new, seen, search.unit))
        _judge_rows(search, name, rows, seen)
        if search.findings.fault:
            return
    search.findings.counts["rows not looked up"] = missed


def _judge_rows(search: Search, name: str, rows: list[Row], seen: torch.Tensor) -> None:
    table = name.removesuffix(".weight")
    known = [row for row in rows if row.column >= 0]
    if rows and not known:
        search.unseen(
            f"{int((~seen).sum())} rows of {table} were not looked at, from row {rows[0].row} on: no probe looks "
            "them up, and the other rows do not say what they should be", table,
        )  # fmt: skip
        return
    for row in known[:SHOWN]:
        _ask_for_row(search, row, table)
        if search.findings.fault:
            return


def _ask_for_row(search: Search, row: Row, table: str) -> None:
    """A row that is another one: the token that stands for it shows whether outputs differ, where there is one."""
    embedding = search.pair.model("source", "float64").get_input_embeddings()
    tokens = embedding is not None and getattr(embedding, "weight", None) is dict(
        search.pair.model("source", "float64").named_parameters()
    ).get(row.table)
    probe = next((p for p in search.pair.probes if p.name == "random" and "input_ids" in p.inputs), None)
    if tokens and probe is not None:
        ids = probe.inputs["input_ids"].clone()
        ids[..., ids.shape[-1] // 2] = row.row
        with_token = Probe("unseen", {**probe.inputs, "input_ids": ids}, probe.counted, probe.encoder_counted)
        if (relative := search.apart(with_token)) > search.limit:
            numbers = f"is {row.found:.9g}, wanted {row.wanted:.9g} (the map of the other rows)"
            text = f"{row.table}[{row.row}, {row.column}] {numbers}; a text with token {row.row} differs by "
            fault = fault_at(table, row.table, [row.row, row.column], relative, f"{text}{relative:.3g} std")
            search.findings.fault = {**fault, "found": row.found, "wanted": row.wanted}
            return
    search.unseen(f"row {row.row} of {table} is not the source's; no probe looked there", f"{table}[{row.row}]")
