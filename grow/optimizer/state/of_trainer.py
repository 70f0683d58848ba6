"""The checkpoint folder of a stock Trainer: optimizer.pt, scheduler.pt, trainer_state.json.

optimizer.pt is read with weights_only=True and mapped, so a tensor comes into memory when it is read. Its parameters
are numbered: first those with weight decay in the model's order, then the others. Their names come from the Trainer's
own rule, applied to the model of config.json; a state with other shapes than these parameters is refused.
training_args.bin is a pickle and is not read.

A Trainer's Adafactor is that of transformers; it keeps what torch's keeps, under other names (`ADAFACTOR`).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grow.architectures.match_faults import Info
from grow.errors import Refused, listing
from grow.files.regular import read_file
from grow.notation.dtypes import code_of
from grow.optimizer.state.of_growth import WrittenState
from grow.optimizer.state.parameter_names import bare_model, shapes
from grow.optimizer.state.stored_state import Carried, TrainingState, damaged, shape_of
from grow.optimizer.torch_classes import COL, ROW, STEP
from grow.spelling import option

OPTIMIZER, SCHEDULER, TRAINER = "optimizer.pt", "scheduler.pt", "trainer_state.json"
COPIED = ("rng_state*.pth", "scaler.pt", SCHEDULER)
ADAFACTOR = {"exp_avg_sq": "variance", "exp_avg_sq_row": ROW, "exp_avg_sq_col": COL, STEP: STEP}
LAST = {ROW: -1, COL: -2}
"""Mean over a dim -> that dim, which torch keeps with size 1 and transformers drops."""
OTHERS = {
    "state1": "an 8-bit optimizer (bitsandbytes)",
    "momentum_buffer": "SGD or Muon",
    "square_avg": "RMSprop",
    "sum": "Adagrad",
    "exp_avg": "Lion or another optimizer with a single average",
}
"""Entry of a state -> the optimizer that it belongs to, for messages."""


class TrainerState(TrainingState):
    """`kind` is "AdamW", "Adafactor" (torch's) or "transformers.Adafactor"; `groups` are optimizer.pt's own."""

    def __init__(self, path: Path, loaded: Any, document: Mapping[str, Any]) -> None:
        self.groups, numbered = _parts(path, loaded)
        self.kind = _kind(path, self.groups, numbered)
        super().__init__(path, {}, _carried(path, self.kind, document))
        model = bare_model(path)
        names, sizes = trainer_order(model), shapes(model)
        self._values: dict[str, torch.Tensor] = {}
        for number, name in enumerate(_numbered(path, self.groups, names, model)):
            for key, value in numbered.get(number, {}).items():
                if key not in ADAFACTOR and self.kind.startswith("transformers"):
                    continue  # RMS, which every step computes anew
                self._add(name, key, value, number, sizes[name])

    def _add(self, name: str, key: str, value: Any, number: int, shape: tuple[int, ...]) -> None:
        try:
            value = torch.as_tensor(value, dtype=None if torch.is_tensor(value) else torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise damaged(self.path, f"{OPTIMIZER}: {key} of parameter {number} is not a number: {error}") from None
        if self.kind.startswith("transformers"):
            key = ADAFACTOR[key]
            value = value.unsqueeze(LAST[key]) if key in LAST else value
        if tuple(value.shape) != shape_of(key, shape) or code_of(value.dtype) is None:
            raise Refused(
                f"{self.path}: {OPTIMIZER}",
                what=f"{key} of parameter {number} is {tuple(value.shape)} of {value.dtype}; a Trainer gives it to "
                f"{name}, {shape}",
                why="its numbering does not fit the model of config.json: another class, or frozen or added parameters",
                fix=option(state="drop"),
            )
        self._values[f"optim.{name}.{key}"] = value
        self.tensors[f"optim.{name}.{key}"] = Info(str(code_of(value.dtype)), tuple(value.shape))

    def read(self, name: str, first: int, end: int) -> torch.Tensor:
        value = self._values[name]
        return value[first:end].clone() if value.ndim else value.clone()

    def close(self) -> None:
        self._values = {}


def open_trainer(path: Path) -> TrainerState:
    """The state of a Trainer's checkpoint; BadInput when it is damaged, Refused for another optimizer, or one whose
    parameters a Trainer would not number so."""
    path = Path(os.path.realpath(path))
    lost = [name for name in (OPTIMIZER, SCHEDULER, TRAINER) if not (path / name).is_file()]
    if lost:
        raise Refused(
            f"{path}: {OPTIMIZER}",
            what=f"is incomplete: without {', '.join(lost)} a Trainer begins with a fresh optimizer",
            why="the files of a Trainer's state belong together",
            fix=f"another checkpoint, or {option(state='drop')}",
        )
    try:
        document = json.loads(read_file(path / TRAINER))  # it may hold a loss that is NaN
        if type(document["global_step"]) is not int:
            raise TypeError("global_step is not a number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"{TRAINER}: {type(error).__name__}: {error}") from None
    try:
        loaded = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise damaged(path, f"{OPTIMIZER}, from which only tensors and numbers are read: {first}") from None
    return TrainerState(path, loaded, document)


def decayed_names(model: Any) -> list[str]:
    """Names of the parameters with weight decay, by the Trainer's own rule."""
    from transformers import Trainer

    return Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]


def trainer_order(model: Any) -> list[list[str]]:
    """Names of the parameters in the Trainer's two groups, in the order of `Trainer.create_optimizer`."""
    decayed = set(decayed_names(model))
    named = [name for name, _ in model.named_parameters()]
    return [[n for n in named if n in decayed], [n for n in named if n not in decayed]]


def write_trainer(folder: Path, source: TrainerState, grown: WrittenState, model: Any) -> None:
    """Write optimizer.pt with the grown moments in the order of `model`; groups keep their settings. The other files
    come along unread."""
    order, moments = trainer_order(model), grown.moments
    state: dict[int, dict[str, Any]] = {}
    for number, name in enumerate(n for names in order for n in names):
        if keys := moments.get(name):
            state[number] = own_entries(source.kind, {key: grown.mapped(tensor) for key, tensor in keys.items()})
    groups, at = [], 0
    for group, names in zip(source.groups, order):
        groups.append({**group, "params": list(range(at, at + len(names)))})
        at += len(names)
    with open(folder / OPTIMIZER, "wb") as file:
        torch.save({"state": state, "param_groups": groups}, file)
        file.flush()
        os.fsync(file.fileno())
    for pattern in COPIED:
        for beside in sorted(source.path.glob(pattern)):
            shutil.copyfile(beside, folder / beside.name)
    document = json.loads(read_file(source.path / TRAINER))
    if document.get("best_model_checkpoint"):
        document["best_model_checkpoint"] = None  # the weights of that checkpoint have the old sizes
    (folder / TRAINER).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def own_entries(kind: str, entries: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The entries, under the names that the optimizer's class gives them instead of torch's."""
    if not kind.startswith("transformers"):
        return dict(entries)
    renamed: dict[str, Any] = {"RMS": 0}
    for own, key in ADAFACTOR.items():
        if key in entries:
            value = entries[key]
            renamed[own] = int(value) if key == STEP else value.squeeze(LAST[key]) if key in LAST else value
    return renamed


def _parts(path: Path, loaded: Any) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    try:
        groups, state = [dict(group) for group in loaded["param_groups"]], dict(loaded["state"])
        numbers = [number for group in groups for number in group["params"]]
        if numbers != list(range(len(numbers))) or not set(state) <= set(numbers):
            raise ValueError("its parameters are not numbered from 0 on")
        return groups, {number: dict(entries) for number, entries in state.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"{OPTIMIZER} is not an optimizer's state: {error}") from None


def _kind(path: Path, groups: Sequence[Mapping[str, Any]], state: Mapping[int, Mapping[str, Any]]) -> str:
    """The optimizer class, by the settings of its groups and the entries of its states."""
    keys = {key for entries in state.values() for key in entries}
    settings = set(groups[0]) if groups else set()
    adam = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", STEP}
    decoupled = "betas" in settings and groups[0].get("decoupled_weight_decay", True)
    if decoupled and {"exp_avg", "exp_avg_sq"} <= keys <= adam:
        return "AdamW"
    if "scale_parameter" in settings and keys <= {*ADAFACTOR, "RMS"} and groups[0].get("beta1") is None:
        return "transformers.Adafactor"
    if "beta2_decay" in settings and keys <= {"variance", ROW, COL, STEP}:
        return "Adafactor"
    if not keys:
        raise Refused(
            f"{path}: {OPTIMIZER}",
            what="has not taken a step",
            why="it holds nothing that a run could continue from",
            fix=option(state="drop"),
        )
    named = next((name for key, name in OTHERS.items() if key in keys), "another one")
    if {"exp_avg", "exp_avg_sq"} <= keys:
        named = "Adafactor with a first moment" if "scale_parameter" in settings else "Adam without decoupled decay"
    raise Refused(
        f"{path}: {OPTIMIZER}",
        what=f"belongs to {named} ({listing(sorted(keys))}); grow knows AdamW and Adafactor",
        why="first moments grow by γ and second moments by γ²; nothing says which of its tensors is which",
        fix=option(state="drop"),
    )


def _numbered(path: Path, groups: Sequence[Mapping[str, Any]], names: list[list[str]], model: Any) -> Iterable[str]:
    counts, wanted = [len(group["params"]) for group in groups], [len(some) for some in names]
    if counts != wanted:
        raise Refused(
            f"{path}: {OPTIMIZER}",
            what=f"has groups of {counts} parameters; a Trainer makes {wanted} of {type(model).__name__}",
            why="its numbering does not fit the model of config.json: another class, own groups, or frozen or added "
            "parameters",
            fix=option(state="drop"),
        )
    return [name for some in names for name in some]


def _carried(path: Path, kind: str, document: Mapping[str, Any]) -> Carried:
    seen = document.get("num_input_tokens_seen")
    tokens = int(seen) if isinstance(seen, (int, float)) and seen > 0 else None
    return Carried("Trainer", (kind.removeprefix("transformers."),), int(document["global_step"]), tokens)
