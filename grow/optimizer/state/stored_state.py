"""A stored training state: its tensors, rows of them, and what is stored beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from grow.architectures.match_faults import Info
from grow.errors import BadInput, listing
from grow.notation.dtypes import ITEMSIZE, NAMES
from grow.notation.origins import flat
from grow.optimizer.torch_classes import COL, ROW, STATES, STEP
from grow.spelling import option

S = TypeVar("S", bound="TrainingState")

MODEL, OPTIM = "model.", "optim."
POWERS: dict[str, int] = {key: power for keys in STATES.values() for key, power in keys.items()}
"""Entry of a parameter's state -> the power of the gradient that it averages, for all of torch's classes."""
NEEDED = {
    "AdamW": ({"exp_avg", "exp_avg_sq", STEP}, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", STEP}),
    "Muon": ({"momentum_buffer"},),
    "Adafactor": ({"variance", STEP}, {ROW, COL, STEP}),
}
"""Class -> the sets of entries that the state of a parameter may have."""
TORCH: dict[str, torch.dtype] = {code: getattr(torch, name) for code, name in NAMES.items()}


@dataclass(frozen=True)
class Carried:
    """What is known of the run that a state comes from; JSON-ready except for `optimizers`.

    writer      "grow train" or "Trainer"
    optimizers  classes of torch.optim, by the names of `STATES`
    step        how many optimizer steps; tokens: how many it has seen, None where nothing says it
    settings    those of `grow train`, else None
    data        the sha256 of the tokens of each corpus, and its weight
    seen        how many sequences of the data's order were read
    objective   "causal", "masked", "spans" or "infill"
    policy      the policy of the last growth of the state, "" where it has not grown
    """

    writer: str
    optimizers: tuple[str, ...]
    step: int
    tokens: int | None = None
    settings: dict[str, Any] | None = None
    data: tuple[dict[str, Any], ...] = ()
    seen: int | None = None
    objective: str = ""
    policy: str = ""

    def document(self) -> dict[str, Any]:
        return {**self.__dict__, "optimizers": list(self.optimizers), "data": list(self.data)}

    @classmethod
    def from_document(cls, stored: Mapping[str, Any]) -> Carried:
        """What a document holds; KeyError, TypeError or ValueError when it holds something else."""
        carried = cls(**{**stored, "optimizers": tuple(stored["optimizers"]), "data": tuple(stored["data"])})
        if not carried.optimizers or set(carried.optimizers) - set(NEEDED) or type(carried.step) is not int:
            raise ValueError(f"optimizers {carried.optimizers}, step {carried.step!r}")
        return carried


@dataclass
class TrainingState:
    """An open state. Each format has its own `read`. Close it, or use it as a context manager.

    path     the folder it was found in
    tensors  `model.PARAMETER` and `optim.PARAMETER.KEY`
    """

    path: Path
    tensors: dict[str, Info]
    carried: Carried
    notes: list[str] = field(default_factory=list)

    def read(self, name: str, first: int, end: int) -> torch.Tensor:
        """Rows [first, end) of a tensor; a number counts as one row and is returned without dims."""
        raise NotImplementedError

    def close(self) -> None:
        """Close every file."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def whole(self, name: str) -> torch.Tensor:
        shape = self.tensors[name].shape
        return self.read(name, 0, shape[0] if shape else 1)

    def rows(self, name: str, first: int, end: int) -> torch.Tensor:
        """Rows [first, end) of a tensor as a matrix; matrices of a stack lie flat, and a vector stays one."""
        shape = self.tensors[name].shape
        height = math.prod(shape[1:-1])
        some = self.read(name, first // height, -(-end // height))
        if len(shape) < 3:
            return some
        return some.reshape(-1, shape[-1])[first % height :][: end - first]

    @property
    def weights(self) -> dict[str, str]:
        """Parameter -> its tensor, for parameters that are kept in full precision."""
        return {name.removeprefix(MODEL): name for name in self.tensors if name.startswith(MODEL)}

    @property
    def moments(self) -> dict[str, dict[str, str]]:
        """Parameter -> entry of its state -> tensor."""
        moments: dict[str, dict[str, str]] = {}
        for name in self.tensors:
            if name.startswith(OPTIM):
                parameter, _, key = name.removeprefix(OPTIM).rpartition(".")
                moments.setdefault(parameter, {})[key] = name
        return moments

    @property
    def nbytes(self) -> int:
        return sum(bytes_of(info.dtype, info.shape) for info in self.tensors.values())


def bytes_of(dtype: str, shape: Iterable[int]) -> int:
    return ITEMSIZE[dtype] * math.prod(shape)


def as_tensor(raw: np.ndarray, dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """Stored numbers as a tensor, in the same memory."""
    tensor = torch.from_numpy(raw.reshape(tuple(shape)))
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor


def as_rows(values: torch.Tensor) -> np.ndarray:
    """A tensor's stored numbers, rows by columns; a stack lies flat."""
    values = values.detach().contiguous()
    raw = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return raw.reshape(flat(raw.shape) if raw.ndim else (1, 1))


def check_state(state: TrainingState, parameters: Mapping[str, tuple[int, ...]]) -> None:
    """BadInput unless every entry belongs to a parameter and has its shape, and no parameter has half a state.

    A parameter that never had a gradient has no entry.
    """
    faults: dict[str, list[str]] = {"of no parameter": [], "of another shape": [], "half": []}
    for name, tensor in state.weights.items():
        if name in parameters and state.tensors[tensor].shape != parameters[name]:
            faults["of another shape"].append(tensor)
    for name, keys in state.moments.items():
        if name not in parameters:
            faults["of no parameter"].append(name)
            continue
        allowed = [needed for kind in state.carried.optimizers for needed in NEEDED[kind]]
        if not any(set(keys) == needed for needed in allowed):
            faults["half"].append(f"{name} ({', '.join(sorted(keys))})")
        for key, tensor in keys.items():
            if state.tensors[tensor].shape != shape_of(key, parameters[name]):
                faults["of another shape"].append(tensor)
    if state.weights:
        lost = [name for name in parameters if name not in state.weights]
        faults["half"] += [f"{MODEL}{name}" for name in lost]
    faults = {fault: names for fault, names in faults.items() if names}
    if faults or not state.moments:
        what = "; ".join(f"{fault}: {listing(names, 3)}" for fault, names in faults.items())
        raise damaged(state.path, what or "it holds no optimizer's moments")


def shape_of(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an entry of a parameter's state."""
    if key == STEP:
        return ()
    if key == ROW:
        return (*shape[:-1], 1)
    return (*shape[:-2], 1, shape[-1]) if key == COL else shape


def damaged(path: Path, why: str, fix: str = "") -> BadInput:
    fix = fix or f"{option(state='drop')} goes on without it"
    return BadInput(
        str(path), what="holds a training state that is not whole", why=why, fix=f"another checkpoint, or {fix}"
    )


def check_finite(state: TrainingState, tensor: str, values: torch.Tensor, *, why: str) -> None:
    """BadInput where some of a tensor's `values` are not finite."""
    if not torch.isfinite(values).all():
        fix = f"an earlier checkpoint, or {option(state='drop')}"
        raise BadInput(f"{state.path}: {tensor}", what="is not finite", why=why, fix=fix)
