"""Enlarge a pretrained Transformer without changing a single output.

    import grow
    grown = grow.widen("small", "base", out="my-base")     # verified, or an error and nothing written
    print(grown.verification.verdict)                      # lossless

`plan`, `widen`, `deepen`, `upcycle`, `compare`, `verify`, `train`, `run`, `plot`, `inspect` and `families` have the
names of the commands; `price` is `grow run --dry-run`, `record` and `verify_against` are `grow verify --record` and
`--against`, `derive` is `grow families --derive`. `new_entries` and `rates` say what is new in a grown parameter and
how its copies learn. `integrations` is for the stock Trainer and for Accelerate. Importing grow imports no torch.
"""

from __future__ import annotations

from grow import integrations
from grow.api import (
    Inspection,
    deepen,
    derive,
    inspect,
    plan,
    plot,
    record,
    train,
    upcycle,
    verify,
    verify_against,
    widen,
)
from grow.architectures import FAMILIES as families
from grow.comparison import Comparison, compare
from grow.errors import BadInput, GrowError, Refused
from grow.growth.results import Growth
from grow.growth.written_and_verified import Different
from grow.optimizer.dual_rule import new_entries, rates
from grow.staged import price, run
from grow.version import __version__ as __version__

__all__ = [
    "BadInput",
    "Comparison",
    "Different",
    "GrowError",
    "Growth",
    "Inspection",
    "Refused",
    "compare",
    "deepen",
    "derive",
    "families",
    "inspect",
    "integrations",
    "new_entries",
    "plan",
    "plot",
    "price",
    "rates",
    "record",
    "run",
    "train",
    "upcycle",
    "verify",
    "verify_against",
    "widen",
]
