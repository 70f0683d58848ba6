"""The rungs of the ladder, the checks on each, and the limit that an exact growth is held to.

A *rung* is a kind of evidence, a *check* one measurement on it. `RUNGS` lists both in the order in which they run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grow.errors import BadInput, Refused, no_such
from grow.spelling import option

# The limit of a bit-exact plan or of a proof copy. float64 carries 1.1e-16 per operation; sums in another
# order and length drift by 1e-15 .. 1e-13 of the logits' std over the depths we measured. A wrong weight
# shows at 1e-7 or more.
EXACT = 1e-12

RUNGS: Mapping[str, tuple[str, ...]] = {
    "certificate": ("certificate",),
    "true_float64": ("true_float64", "proof"),
    "runtime_dtype": ("runtime_dtype",),
    "behaviour": (
        "tokenizer",
        "generation_config",
        "labels",
        "embeddings",
        "hidden_states",
        "loss",
        "cached_decoding",
        "generation",
        "sampling",
        "kernels",
        "save_reload",
    ),
    "trainability": ("trainability",),
    "downstream": ("tasks",),
    "recover": ("recover",),
}
RUNG_OF = {check: rung for rung, checks in RUNGS.items() for check in checks}
FUNCTION = ("certificate", "true_float64", "runtime_dtype", "behaviour")
"""The rungs that a growth has to pass before it is kept; trainability judges what a checkpoint can become."""
LOSSY = ("certificate", "true_float64", "loss", "tokenizer", "generation_config", "save_reload")
"""What is measured of a growth that is not exact: how much it lost, and that it is whole otherwise."""
LADDER = (*FUNCTION, "trainability")
"""What `grow verify` runs unless it is told otherwise; downstream tasks run when they are named."""


def checks_of(rungs: Sequence[str]) -> set[str]:
    """The checks on the rungs that somebody named; a check may be named itself."""
    checks: set[str] = set()
    for name in rungs:
        if name in RUNGS:
            checks.update(RUNGS[name])
        elif name in RUNG_OF:
            checks.add(name)
        else:
            known = dict.fromkeys([*RUNGS, *RUNG_OF])
            single = ", ".join(check for check in RUNG_OF if check not in RUNGS)
            raise BadInput(
                option(rungs=[name]),
                what=no_such("rung", name, known),
                why=f"rungs: {', '.join(RUNGS)}; single checks: {single}",
                fix=option(rungs=["certificate"]),
            )
    if not checks:
        rungs = option("rungs")
        raise Refused(
            rungs, what="must name at least one rung", why="else nothing would be verified", fix=f"leave {rungs} out"
        )
    return checks
