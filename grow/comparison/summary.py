"""What a comparison of methods found.

    {"schema": 1, "source": …, "target": …, "sizes": {axis: [old, new]}, "text": {…}, "training": {…} or null,
     "source_loss": nats, "methods": [row, …], "baselines": [row, …], "environment": {…}}

    row   {"name", "kind", "paper", "arxiv", "law", "applies", "reason", "lossy_because", "storage", "parameters",
           "flops_per_token", "disk_bytes", "seconds", "damage", "loss", "trainability", "curve"}

Whatever was not measured is null. `damage` is in true float64, see `Damage`; `loss` is nats per token of held-out text
at step 0; `curve` is {"train": [nats, …], "heldout": [[step, FLOPs, nats], …], "seconds"}.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from grow.verification.verdict import finite

SCHEMA = 1


@dataclass(frozen=True)
class Damage:
    """How far the grown outputs are from the source's at step 0, over the probes of `grow verify`.

    relative  max |Δ| / std of the source's outputs;  mean  mean |Δ| / std
    kl        mean KL(source ‖ grown) per token in nats;  top1  share of equal first choices
    """

    relative: float
    mean: float
    kl: float | None
    top1: float | None


@dataclass(frozen=True)
class Learning:
    """How many entries are new, have had a gradient, never get one, and stay equal to the entry that they copy."""

    new: int
    learning: int
    dead: int
    twins: int

    @property
    def share(self) -> float | None:
        return self.learning / self.new if self.new else None


@dataclass(frozen=True)
class Curve:
    """The loss of one method over its training.

    train    nats per token of each step's batch
    heldout  (step, FLOPs of training so far, nats per token of the held-out text)
    """

    train: tuple[float, ...]
    heldout: tuple[tuple[int, float, float], ...]
    seconds: float

    @property
    def last(self) -> float:
        return self.heldout[-1][2]


@dataclass(frozen=True)
class Row:
    """One method, or a baseline. A method that does not apply has a reason and nothing else."""

    name: str
    kind: str = ""
    paper: str = ""
    arxiv: str = ""
    law: str = ""
    reason: str = ""
    lossy_because: str = ""
    storage: str = ""
    parameters: int | None = None
    flops_per_token: float | None = None
    disk_bytes: int | None = None
    seconds: float | None = None
    damage: Damage | None = None
    loss: float | None = None
    trainability: Learning | None = None
    curve: Curve | None = None

    @property
    def applies(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Comparison:
    """Methods that grew one source to one target, side by side.

    source_loss  the loss of the source on the held-out text, None where it was not measured
    text         where the text is from, how many tokens were for training and how many held out
    training     steps, batch, length, rate; None when nothing was trained
    """

    source: str
    target: str
    sizes: dict[str, tuple[int, int]]
    methods: tuple[Row, ...]
    baselines: tuple[Row, ...] = ()
    source_loss: float | None = None
    text: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        """The row of a method or baseline."""
        return next(row for row in (*self.methods, *self.baselines) if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as a document; numbers that JSON cannot hold become null."""
        document = {"schema": SCHEMA, **asdict(self)}
        for rows, key in ((self.methods, "methods"), (self.baselines, "baselines")):
            document[key] = [_row(row) for row in rows]
        shown: dict[str, Any] = finite(document)
        return shown


def _row(row: Row) -> dict[str, Any]:
    document = {**asdict(row), "applies": row.applies}
    if row.trainability:
        document["trainability"] |= {"share": row.trainability.share}
    return document
