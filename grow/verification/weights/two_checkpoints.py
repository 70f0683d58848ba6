"""Two checkpoints, and what their files say of each other before a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from grow.checkpoint.reader import Checkpoint
from grow.notation.dtypes import ITEMSIZE
from grow.verification.verdict import Check
from grow.verification.weights.config_fields import config_differences, significant, unlike
from grow.verification.weights.inferred_growth import most_likely_growth
from grow.verification.weights.recorded_growth import Replay
from grow.verification.weights.stored_numbers import StoredDifference, not_finite, same_shapes, stored_differences


class TwoCheckpoints:
    """A source, a grown checkpoint, and the growths between them that grow.json tells of.

    chain   those growths, the first one first; none without grow.json
    replay  the only one of them: what is known of one growth alone is asked of it
    fields  of config.json, which differ though no growth changes them
    lossy   what was lost by grow.json's own account
    dtype   the coarsest float that something grown is stored in
    """

    def __init__(self, source: Checkpoint, grown: Checkpoint, chain: Sequence[Replay]) -> None:
        self.source, self.grown, self.chain = source, grown, chain
        self.replay = chain[0] if len(chain) == 1 else None
        kind = None if same_shapes(source, grown) else str(source.config.get("model_type"))
        self.fields = chain[-1].fields() if chain else unlike(source.config, grown.config, kind)
        self.lossy = "; ".join(f"{link.record.method}: {link.record.lossy}" for link in chain if link.record.lossy)
        floats = {info.dtype for info in grown.tensors.values()} & ITEMSIZE.keys()  # beside counters and masks
        self.dtype = min(floats, key=ITEMSIZE.__getitem__, default="F64")

    @cached_property
    def stored(self) -> list[StoredDifference] | None:
        """How the two differ number by number; None when a plan says more, or the shapes are not the same."""
        if self.chain or not same_shapes(self.source, self.grown):
            return None
        return list(stored_differences(self.source, self.grown))

    @cached_property
    def likely(self) -> Replay | None:
        """The growth that most stored tensors follow, where there is no grow.json and shapes are not the same."""
        alone = self.replay is None and self.stored is None
        return most_likely_growth(self.source, self.grown) if alone else None

    def identical(self) -> Check:
        """The certificate without a plan: the stored numbers themselves, where the two have one shape."""
        if self.stored is None:
            return Check("certificate", "skip", reason="no grow.json: no plan to check against")
        limit = "every stored number and every field of config.json is the same"
        faults = [str(difference) for difference in self.stored] + [
            f"config.json: {field['field']}: found {field['grown']!r}, wanted {field['source']!r}"
            for field in self.fields
        ]
        measured = {"tensors": len(self.source.tensors), "faults": faults[:20], "faulty": len(faults)}
        if not faults:
            return Check("certificate", "pass", {**measured, "largest_residual": 0.0, "same_numbers": True}, limit)
        return Check("certificate", "skip", measured, limit, f"the outputs decide: {'; '.join(faults[:3])}")

    def explaining_fields(self) -> list[dict[str, Any]]:
        """The fields that may explain a failure: of a model that does not run any that no growth changes."""
        fields = self.likely.fields() if self.likely else self.fields
        if fields:
            return fields
        kind = str(self.source.config.get("model_type"))
        changed = self.replay.record.config_changes.keys() if self.replay else ()
        every = significant(config_differences(self.source.config, self.grown.config), kind, neutral=frozenset())
        return [field for field in every if field["field"] not in changed]

    def first_not_finite(self, text: str) -> dict[str, Any]:
        """The first grown number that is NaN or infinite where the source has none, for a difference that `text` tells
        of; {} without one."""
        bad = not_finite(self.grown)
        if bad is None or not_finite(self.source) is not None:
            return {}
        place = ", ".join(map(str, bad["index"]))
        return bad | {"text": f"{text.split(';')[0]}; {bad['tensor']}[{place}] is {bad['found']}"}
