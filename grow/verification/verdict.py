"""What the checks of a pair found, the verdict, and the exit code that follows from it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from grow.verification.rungs import RUNG_OF, RUNGS
from grow.version import __version__

SCHEMA = 2

Status = Literal["pass", "fail", "skip"]
Verdict = Literal["lossless", "certified", "unrecorded", "different", "unproved"]

VERDICTS: Mapping[Verdict, str] = {
    "lossless": "computes what {source} computes",
    "certified": "its weights follow the table from those of {source}; whether it computes the same was not run",
    "unrecorded": "computes what {source} computes, but is not the growth that grow.json records",
    "different": "does not compute what {source} computes",
    "unproved": "nothing failed, and what could tell did not run",
}
"""What each verdict says of the grown checkpoint."""


@dataclass(frozen=True)
class Check:
    """One measurement: `measured` is JSON-ready, `limit` is the claim in words, `reason` is why it failed."""

    name: str
    status: Status
    measured: dict[str, Any] = field(default_factory=dict)
    limit: str = ""
    reason: str = ""

    @property
    def rung(self) -> str:
        return RUNG_OF[self.name]

    @property
    def largest(self) -> float | None:
        """The largest difference that the check measured, in its own unit."""
        numbers = (self.measured.get(key) for key in ("relative", "largest_residual", "worst"))
        return next((value for value in numbers if isinstance(value, float)), None)


@dataclass(frozen=True)
class Verification:
    """What was found about a pair.

    verdict    see `VERDICTS`
    trainable  False when new parameters can never learn, None when that was not looked at
    first      on failure: the first module that disagrees, and the tensor or field that explains it
    growth     how each axis grew, from grow.json; None without one
    config     the fields of config.json that differ: {"field", "source", "grown"}
    environment  versions and machine

    lossless needs the outputs compared (true_float64, and proof where weights were rounded), or the very same numbers
    on both sides. A certificate proves that the weights follow the table of their family; whether stock code computes
    what the table says is seen only where it runs. It is never said of a growth by a method that is not exact.
    """

    source: str
    grown: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = field(default=())
    first: dict[str, Any] | None = None
    growth: dict[str, Any] | None = None
    config: tuple[dict[str, Any], ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str) -> Check | None:
        return next((check for check in self.checks if check.name == name), None)

    @property
    def rungs(self) -> dict[str, Status]:
        """Rung -> "fail" if a check on it failed, else "pass" if one passed, else "skip"; those that were asked for."""
        statuses: dict[str, Status] = {}
        for rung in RUNGS:
            seen = [check.status for check in self.checks if check.rung == rung]
            if seen:
                statuses[rung] = "fail" if "fail" in seen else "pass" if "pass" in seen else "skip"
        return statuses

    @property
    def lossy(self) -> str:
        """What the growth lost by its own account; empty for one that claims to be exact."""
        exact = self.growth is None or self.growth.get("exact", True) is True
        return "" if exact or self.growth is None else f"{self.growth['method']}: {self.growth['lossy_because']}"

    @property
    def verdict(self) -> Verdict:
        status = {check.name: check.status for check in self.checks if check.rung != "trainability"}
        failed = {name for name, outcome in status.items() if outcome == "fail"}
        loose = self._within_storage or any(check.measured.get("unseen") for check in self.checks)
        outputs = self.check("true_float64")
        agree = outputs is not None and outputs.status == "pass" and not loose
        if failed:
            # that nothing was left unseen is known only where it was looked for
            reached = outputs is not None and "reached" in outputs.measured
            return "unrecorded" if failed == {"certificate"} and reached and agree else "different"
        if self.lossy:
            return "unproved"  # its outputs agree on the probes, and nothing says that they agree elsewhere
        if status.get("certificate") == "pass" and not loose:
            same = (self.check("certificate") or outputs).measured.get("same_numbers")  # type: ignore[union-attr]
            return "lossless" if agree or same else "certified"
        return "lossless" if agree else "unproved"

    @property
    def lossless(self) -> bool:
        return self.verdict == "lossless"

    @property
    def sound(self) -> bool:
        """Whether a growth may be kept: all that could run passed, be it the proof on the weights alone."""
        return self.verdict in ("lossless", "certified")

    @property
    def claim(self) -> str:
        """The verdict in words: what was run, and no more."""
        return self._says(self.source)

    def _says(self, source: str) -> str:
        failed = {check.name for check in self.checks if check.status == "fail" and check.rung != "trainability"}
        if self.verdict == "different" and failed == {"certificate"}:
            outputs = self.check("true_float64")
            apart = "is not the growth of {source} that grow.json records" if self.growth else VERDICTS["different"]
            agree = "; the probes saw no difference" if outputs and outputs.status == "pass" else ""
            if self._within_storage:
                agree = "; its outputs are the same as far as rounding the stored weights explains"
            return apart.format(source=source) + agree
        return VERDICTS[self.verdict].format(source=source)

    @property
    def _within_storage(self) -> bool:
        """Whether outputs differ, though by no more than rounding the stored weights can do."""
        return any(check.measured.get("within_storage") for check in self.checks)

    @property
    def trainable(self) -> bool | None:
        status = self.rungs.get("trainability", "skip")
        return None if status == "skip" else status == "pass"

    @property
    def exit_code(self) -> int:
        """0 lossless or certified; 1 unrecorded, different, unproved, or with parameters that can never learn."""
        asked_for_less = all(check.rung == "trainability" for check in self.checks)
        return 0 if (self.sound or asked_for_less) and self.trainable is not False else 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that JSON cannot hold become null."""
        status = self.rungs
        return finite(
            {
                "schema": SCHEMA,
                "source": self.source,
                "grown": self.grown,
                "verdict": self.verdict,
                "claim": self._says("its source"),
                "trainable": self.trainable,
                "rungs": {
                    rung: {
                        "status": status[rung],
                        "checks": [asdict(check) for check in self.checks if check.rung == rung],
                    }
                    for rung in status
                },
                "first_difference": self.first,
                "growth": self.growth,
                "config": list(self.config),
                "environment": self.environment,
                "notes": list(self.notes),
            }
        )


def damage_of(verification: Verification) -> dict[str, float]:
    """What the outputs lost, in true float64: max_abs_std (max |Δ| / std of the source's outputs), kl (nats), top1
    (share of equal first choices), loss (of the model's own tokens, change in nats); those that were measured.
    """
    outputs, loss = verification.check("true_float64"), verification.check("loss")
    keys = {"relative": "max_abs_std", "kl": "kl", "top1": "top1"}
    measured = outputs.measured if outputs else {}
    damage = {name: measured[key] for key, name in keys.items() if measured.get(key) is not None}
    if loss and (losses := loss.measured.get("losses")):
        apart = [pair["grown"] - pair["source"] for pair in losses.values()]
        damage["loss"] = sum(apart) / len(apart)
    return damage


def damage_text(verification: Verification) -> str:
    """`max |Δ| 3.2 std, KL 1.1 nats, top-1 25.0 %, loss +2.13 nats`."""
    words = {
        "max_abs_std": lambda v: f"max |Δ| {v:.3g} std",
        "kl": lambda v: f"KL {v:.3g} nats",
        "top1": lambda v: f"top-1 {v:.1%}",
        "loss": lambda v: f"loss {v:+.3g} nats",
    }
    return ", ".join(words[name](value) for name, value in damage_of(verification).items())


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment() -> dict[str, Any]:
    """What the numbers were measured with."""
    packages = {name: _installed(name) for name in ("torch", "transformers", "numpy", "safetensors")}
    return {"grow": __version__, "python": platform.python_version(), **packages, "machine": platform.machine()}


@cache
def _installed(package: str) -> str:
    return version(package)
