"""The stock model of a run, each process reading its own rows.

The model is built without weights, sharded, and filled from the files in blocks. That needs files whose tensors are the
parameters of the class. They are in the families that `grow` knows, except where there are experts: the files hold them
one by one, the class fuses them. Other models are first loaded whole on every process.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch

from grow.architectures import FAMILIES
from grow.checkpoint.reader import Checkpoint
from grow.costs.process_memory import READ_AT_ONCE
from grow.errors import BadInput, Refused
from grow.files.header import TensorInfo
from grow.files.stored_rows import read_rows
from grow.models import gradient_checkpointing
from grow.models.float64_mode import TrueFloat64
from grow.models.true_float64 import LOCAL, load, model_class, quiet
from grow.notation.dtypes import RAW
from grow.notation.numbers import widen
from grow.processes import World
from grow.spelling import left_out, option
from grow.training.settings.run_settings import Settings
from grow.training.sharding import blocks, local, rows_of, shard


def load_model(checkpoint: Checkpoint, settings: Settings, world: World) -> tuple[Any, tuple[str, ...]]:
    """(the model in train mode, sharded; names of tensors in the files that its class does not have). Every weight is
    finite."""
    model, stored = (None, {}) if world.size == 1 or settings.dtype == "float64" else _empty(checkpoint)
    if model is not None:
        _prepare(model, settings)
        shard(model, world)
        buffers = [buffer.clone() for buffer in model.buffers()]
        model.to_empty(device=world.device)  # it empties buffers too, which are real
        for buffer, before in zip(model.buffers(), buffers):
            buffer.copy_(before)
        _fill(model, checkpoint, stored)
        return model.train(), ()
    wide = settings.dtype == "float64"
    with TrueFloat64() if wide else contextlib.nullcontext():
        model, ignored = load(checkpoint.path, "float64" if wide else "float32")
    for name, p in model.named_parameters():
        _check_finite(p, checkpoint, name)
    _prepare(model, settings)
    model.to(world.device).train()
    shard(model, world)
    return model, ignored


def _prepare(model: Any, settings: Settings) -> None:
    model.requires_grad_(True)
    if settings.checkpointing:
        if not model.supports_gradient_checkpointing:
            why = "its blocks are not made to be computed twice"
            raise Refused(
                option(checkpointing=True),
                what=f"{type(model).__name__} has no gradient checkpointing",
                why=why,
                fix=left_out("checkpointing"),
            )
        gradient_checkpointing.enable(model, {"use_reentrant": False})
    if settings.compile:
        for block in blocks(model):
            block.compile()


def _empty(checkpoint: Checkpoint) -> tuple[Any | None, dict[str, TensorInfo]]:
    """(the stock class with parameters on the meta device and real buffers, parameter -> stored tensor), or (None, {})
    where the files do not hold exactly what the class holds."""
    import transformers
    from accelerate import init_empty_weights

    family = FAMILIES.get(str(checkpoint.config.get("model_type")))
    if family is None or family.experts is not None:
        return None, {}
    with quiet(), init_empty_weights(include_buffers=False):
        config = transformers.AutoConfig.from_pretrained(checkpoint.path, **LOCAL)
        config.dtype = torch.float32
        model = model_class(checkpoint.path)(config)
    model.tie_weights()  # each parameter was made anew, so the ties were lost
    prefix = model.base_model_prefix + "."
    stored = {}
    for name, p in model.named_parameters():
        names = (name, name.removeprefix(prefix), prefix + name)
        info = next((checkpoint.tensors[n] for n in names if n in checkpoint.tensors), None)
        if info is None or info.shape != tuple(p.shape) or not p.is_meta or info.dtype not in RAW:
            return None, {}
        stored[name] = info
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if any(name not in every for name in model.state_dict()):  # a buffer that the files may hold
        return None, {}
    spelled = {n for name in every for n in (name, name.removeprefix(prefix), prefix + name)}
    return (model, stored) if spelled >= checkpoint.tensors.keys() else (None, {})


@torch.no_grad()
def _fill(model: Any, checkpoint: Checkpoint, stored: dict[str, TensorInfo]) -> None:
    for name, p in model.named_parameters():
        info, into = stored[name], local(p)
        (first, end), columns = rows_of(p), math.prod(info.shape[1:])
        height = max(1, READ_AT_ONCE // max(1, columns))
        for at in range(first, end, height):
            stop = min(at + height, end)
            some = read_rows(checkpoint, info, at, stop)
            values = torch.from_numpy(widen(some, info.dtype, np.dtype(np.float32)).reshape(-1, *info.shape[1:]))
            _check_finite(values, checkpoint, name)
            into[at - first : stop - first].copy_(values)


def _check_finite(values: torch.Tensor, checkpoint: Checkpoint, name: str) -> None:
    if not torch.isfinite(values).all():
        count = int((~torch.isfinite(values)).sum())
        fix = "a checkpoint whose weights are finite"
        raise BadInput(
            f"{checkpoint.path}: {name}", what=f"{count} entries are not finite", why="every loss would be NaN", fix=fix
        )
