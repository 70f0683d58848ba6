"""Parameters that stock classes fuse of several stored tensors, and their growth.

    mlp.experts.gate_up_proj  (experts, 2·ffn, hidden)     its matrices lie flat, row below row:
        rows [e·2·ffn, e·2·ffn + ffn)                      mlp.experts.{e}.gate_proj.weight  (ffn, hidden)
        the ffn rows behind them                           mlp.experts.{e}.up_proj.weight    (ffn, hidden)

Which rows are which tensor is asked of transformers' own conversion, with numbered rows: nothing is assumed about
names, halves or order, and what is cut or turned in another way is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from grow.errors import Refused
from grow.models.fused_experts import fused, in_files
from grow.notation.axes import STACK, Dim, Label, Signature
from grow.notation.origins import SourcePart, Stack, flat
from grow.planning.tensor import TensorPlan


@dataclass(frozen=True)
class Slab:
    """A tensor of the files: the rows from `first` on of a parameter whose matrices lie flat."""

    name: str
    first: int
    shape: tuple[int, ...]


def layout(model: Any) -> dict[str, tuple[Slab, ...]]:
    """Parameter -> the tensors that the files hold of it, in the order of its rows; a tied table is there once.

    The model may be on the meta device, or sharded. Refused where a fused parameter is no stack of rows of them.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    stacks = set(fused(model))
    if not stacks:
        return {name: (Slab(name, 0, shape),) for name, shape in shapes.items()}
    rest = [name for name in shapes if name not in stacks]
    stored = in_files(model, {name: torch.tensor([k]) for k, name in enumerate(rest)})
    called = {rest[int(number)]: name for name, number in stored.items()}
    return {
        name: _slabs(model, name, shape) if name in stacks else (Slab(called[name], 0, shape),)
        for name, shape in shapes.items()
    }


def _slabs(model: Any, name: str, shape: tuple[int, ...]) -> tuple[Slab, ...]:
    """Of one stack. Its rows are numbered; columns are there once, so that a matrix that is turned shows itself."""
    count, columns = flat(shape)
    numbered = in_files(model, {name: torch.arange(count).reshape(*shape[:-1], 1)})
    sizes = in_files(model, {name: torch.empty(shape, device="meta")})
    slabs = []
    for key, numbers in numbered.items():
        rows, size = numbers.flatten(), tuple(sizes[key].shape)
        first = int(rows[0])
        if size != (*numbers.shape[:-1], columns) or not torch.equal(rows, torch.arange(first, first + len(rows))):
            raise _unknown(name)
        slabs.append(Slab(key, first, size))
    slabs.sort(key=lambda slab: slab.first)
    ends = [slab.first + flat(slab.shape)[0] for slab in slabs]
    if [slab.first for slab in slabs] != [0, *ends[:-1]] or ends[-1] != count:
        raise _unknown(name)
    return tuple(slabs)


def _unknown(name: str) -> Refused:
    return Refused(
        name,
        what="is fused of tensors of the files in a way that is not known",
        why="known are parameters whose rows, matrix below matrix, are those of the files",
        fix="the version of transformers that constraints.txt names",
    )


def spellings(model: Any, name: str) -> tuple[str, str, str]:
    """A base model's files have no prefix, those of a model with a head do; stock loading reads both."""
    prefix = model.base_model_prefix + "."
    return name, name.removeprefix(prefix), prefix + name


def wholes(
    model: Any, tensors: Mapping[str, TensorPlan]
) -> Iterator[tuple[str, torch.nn.Parameter, TensorPlan | None]]:
    """(name, parameter, its growth) of every parameter of a grown model, None where its files have another.

    tensors  of the growth, by their names in the files
    The growth of a fused parameter is a stack of its tensors of the files, as those are grown.
    """
    named, aliases = dict(model.named_parameters()), names_of(model)
    for name, slabs in layout(model).items():
        p = named[name]
        called = [(slab.name,) if len(slabs) > 1 else (slab.name, *aliases[id(p)]) for slab in slabs]
        spelled = ([s for n in names for s in spellings(model, n)] for names in called)
        planned = [next((tensors[n] for n in names if n in tensors), None) for names in spelled]
        yield name, p, _whole(name, tuple(p.shape), slabs, [t for t in planned if t is not None])


def names_of(model: Any) -> dict[int, list[str]]:
    """id of a parameter -> its names; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return names


def _whole(name: str, shape: tuple[int, ...], slabs: tuple[Slab, ...], parts: list[TensorPlan]) -> TensorPlan | None:
    if [t.new_shape for t in parts] != [slab.shape for slab in slabs]:
        return None
    if len(slabs) == 1:
        return parts[0]
    first, old = parts[0], sum(t.matrix[0] for t in parts) // shape[0]
    signature = Signature((Dim(Label("experts"), STACK), *first.signature.dims), f"[experts] {first.signature}")
    before = SourcePart(first.old.tensor, first.old.dtype, (shape[0], old, first.shape[-1]))
    return TensorPlan(name, name, signature, (None,) * len(shape), before, shape, first.dtype, Stack(tuple(parts)))
