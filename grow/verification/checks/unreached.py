"""Everything that no probe reached, compared in another way: unused rows and experts, units that are cut off.

rows of tables   those that no probe looked up are held against the source's through the map of the others; a token
                 whose row is another one is then asked
experts          where one was chosen by no token, the choice is forced: every expert once, the same in both models.
                 Router logits are compared as they are, because they tell of experts that were not chosen too
units            those that an activation cuts off on every token (ReLU) are let through in both models
"""

from __future__ import annotations

import torch

from grow.models.true_float64 import forward, quiet
from grow.verification.checks.cut_off_units import ActiveUnits, compare_units
from grow.verification.checks.expert_stacks import Stacks
from grow.verification.checks.table_rows import Lookups, Rows
from grow.verification.checks.unreached_findings import Search, Unreached
from grow.verification.checks.unused_experts import compare_experts
from grow.verification.checks.unused_rows import compare_rows
from grow.verification.outputs.compare import RUN_ERRORS
from grow.verification.outputs.forward_passes import ReadbackArg
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.noise_floors import UNIT_ROUNDOFF
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Differs, Side
from grow.verification.rungs import EXACT


def compare_unreached(
    pair: Pair, *, limit: float = EXACT, dtype: str = "float64", readback: ReadbackArg = None
) -> Unreached:
    """Whether everything that no probe reached is the same in both models: what differs, and what was not compared.

    limit  of outputs, as in `true_float64`;  dtype  what the grown numbers were rounded to, where `limit` is larger
    """
    search = Search(pair, limit, UNIT_ROUNDOFF[dtype] if limit > EXACT else 0.0, readback)
    try:
        source, grown = _watched(pair, "source"), _watched(pair, "grown")
        compare_rows(search, source[0], grown[0])
        if not search.findings.fault:
            compare_experts(search, source[1], grown[1])
        if not search.findings.fault:
            compare_units(search, source[2])
    except (NoRoom, Differs) as error:
        search.unseen(f"what no probe reached was not looked at: {error}", "what no probe reached")
    return search.findings


def _watched(pair: Pair, side: Side) -> tuple[Rows, Stacks, dict[str, int]]:
    """One pass over all probes: the rows that were looked up, the experts that were chosen, the units that were not
    active."""
    model = pair.model(side, "float64")
    lookups, stacks, units = Lookups(model), Stacks(model), ActiveUnits(model)
    with forward(model), quiet(), torch.random.fork_rng(devices=[]), lookups, stacks, units:
        for probe in pair.probes:
            for watch in (lookups, stacks):
                watch.ask(probe)
            torch.default_generator.manual_seed(0)
            try:
                model(**probe.arguments(model.dtype))
            except RUN_ERRORS as error:
                raise pair.blame(side, f"probe {probe.name!r}: {error}") from error
    return lookups.rows, stacks, units.cut_off
