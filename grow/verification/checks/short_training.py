"""A model trained for a few optimizer steps, and which of its entries ever got a gradient."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch

from grow.models.float64_mode import TrueFloat64
from grow.models.fused_experts import asked, file_names, in_files
from grow.models.true_float64 import SMALL
from grow.verification.outputs.compare import RUN_ERRORS
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Side
from grow.verification.probes import Probe

STEPS = 4  # a zero factor needs one step to move, what lies behind it a second one; the rest is margin
OFTEN = 3  # of these steps, in which an expert has had a token: one less, for not every step reaches every expert
RATE = 1e-3
DULL = ("single", "repeated", "constant")  # their tokens do not tell units apart
LONGEST = 64  # tokens of a probe that is trained on
ROUNDING = 64  # ulps of the model's largest gradient: what a sum that cancels leaves of a gradient that is zero


@dataclass
class Trained:
    """moved   parameter -> bool, whether an entry ever got a gradient
    weights  after the last step
    equal    parameter -> for every row, the first row that was equal to it before the first step
    tables   parameters that are looked up row by row
    used     parameter of an expert -> bool, whether tokens were sent to it in `OFTEN` steps
    still    parameters without a gradient but for rounding, such as a bias of keys, which no softmax sees

    Names are those of the files where the model fuses experts, see `grow.models.fused_experts`.
    """

    moved: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    equal: dict[str, torch.Tensor]
    tables: set[str]
    used: dict[str, torch.Tensor]
    still: set[str]
    losses: list[float]
    dtype: str


def train_briefly(pair: Pair, side: Side) -> Trained | None:
    small = pair.elements(side) < SMALL
    dtype = "float64" if small else "float32"
    pair.release()
    # weights, gradients, the two moments of AdamW, and what moved
    model = pair.load(side, dtype, copies=5).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    largest = dict.fromkeys(moved, 0.0)
    first = in_files(model, {name: p.detach() for name, p in model.named_parameters()})
    equal = {name: first_equal_rows(p) for name, p in first.items() if p.ndim == 2}
    del first
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    losses: list[float] = []
    probes = [probe for probe in pair.probes if probe.counted.shape[-1] <= LONGEST and probe.name not in DULL]
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        with TrueFloat64() if dtype == "float64" else contextlib.nullcontext(), asked(model) as seen:
            for step in range(STEPS):
                loss = _objective(pair, side, model, probes[step % len(probes)])
                if loss is None:
                    return None
                optimizer.zero_grad()
                loss.backward()
                losses.append(float(loss.detach()))
                for name, p in model.named_parameters():
                    if p.grad is not None:
                        moved[name] |= p.grad != 0
                        largest[name] = max(largest[name], float(torch.linalg.vector_norm(p.grad, math.inf)))
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    whole = {name: (passes >= OFTEN).expand(moved[name].shape) for name, passes in seen.items()}
    weights = in_files(model, {name: p.detach() for name, p in model.named_parameters()})
    sent = in_files(model, whole) if whole else {}
    nothing = ROUNDING * torch.finfo(model.dtype).eps * max(largest.values(), default=0.0)
    resting = (name for name, gradient in largest.items() if 0 < gradient <= nothing)
    still = {stored for name in resting for stored in file_names(model, name)}
    return Trained(in_files(model, moved), weights, equal, tables, sent, still, losses, dtype)


def _objective(pair: Pair, side: Side, model: Any, probe: Probe) -> torch.Tensor | None:
    """Cross-entropy of every distribution with drawn classes, and the distance of what a drawn head makes of other
    outputs from drawn numbers.

    It needs no labels, so it is the same for every class, and drawn targets reach every output.
    """
    draw = torch.Generator().manual_seed(pair.seed)
    try:
        outputs = model(**probe.arguments(model.dtype))
    except RUN_ERRORS as error:
        raise pair.blame(side, f"in training: {error}") from error
    losses = []
    for name, value in outputs.items():
        if not isinstance(value, torch.Tensor) or not value.requires_grad or name == "loss":
            continue
        rows = value.reshape(-1, value.shape[-1])
        if "logits" in name and rows.shape[1] > 1:  # a single logit is a number, not a distribution
            classes = torch.randint(rows.shape[1], (len(rows),), generator=draw)
            losses.append(torch.nn.functional.cross_entropy(rows, classes))
        else:
            # A head that is yet to come reads it, with weights of its own for each unit: copies part as they do there.
            head = torch.randn(rows.shape[1], generator=draw, dtype=rows.dtype) / math.sqrt(rows.shape[1])
            target = torch.randn(len(rows), generator=draw, dtype=rows.dtype)
            losses.append(((rows @ head - target) ** 2).mean())
    return torch.stack(losses).sum() if losses else None


def first_equal_rows(weight: torch.Tensor) -> torch.Tensor:
    """The first row that each row is equal to, bit for bit: sums of bits times odd numbers wrap exactly."""
    bits = weight.contiguous().view(torch.int64 if weight.element_size() == 8 else torch.int32).to(torch.int64)
    odd = torch.randint(1 << 40, (weight.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    _, inverse = torch.unique((bits * odd).sum(1), return_inverse=True)
    first = torch.full((len(bits),), len(bits)).scatter_reduce(0, inverse, torch.arange(len(bits)), "amin")
    return first[inverse]
