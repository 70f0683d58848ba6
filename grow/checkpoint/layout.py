"""The tensors of a checkpoint under the names of its family's table, however they are stored.

    mlp.experts.gate_up_proj  (experts, 2·ffn, hidden)   is read as   mlp.experts.{e}.gate_proj.weight  (ffn, hidden)
                                                                      mlp.experts.{e}.up_proj.weight    (ffn, hidden)
    lm_head.weight, tied, and no embedding               is read as   model.embed_tokens.weight

Stock classes load all of them alike. An expert's matrix is a run of rows of the stack, so it is a tensor like any other
that begins further on in the file: nothing is copied, and nobody behind this has to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from grow.architectures import known_architecture
from grow.architectures.architecture import Architecture
from grow.architectures.facts import Tie
from grow.architectures.family import Family
from grow.errors import BadInput, listing
from grow.files.header import TensorInfo, show
from grow.notation.axes import EXPERTS, filled, indices_of, name_pattern


def as_in_table(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], notes: list[str]
) -> dict[str, tuple[str, TensorInfo]]:
    """Name -> (stored name, tensor), in stored order; a model that no family knows is left as it is.

    Raises BadInput where a stack has no shape that the config allows, or holds what is stored a second time.
    """
    known = known_architecture(config)
    named: dict[str, tuple[str, TensorInfo]] = {}
    twins = {} if known is None else _alone(known, tensors)
    stacks: list[str] = []
    for name, info in tensors.items():
        parts = list(_parts(known, info)) if known is not None else [info]
        if len(parts) == 1 and known is not None and (bare := _unwrapped(known.family, parts[0].name)):
            parts = [replace(parts[0], name=bare)]
        if name in twins:
            parts = [replace(info, name=twins[name])]
            notes.append(f"{show(name)} is read as {twins[name]}, which is tied to it and not stored")
        if len(parts) > 1:
            stacks.append(name)
        for part in parts:
            if part.name in named:
                raise _twice(info, part.name, named[part.name][0])
            named[part.name] = name, part
    if stacks:
        notes.append(f"{len(stacks)} tensors hold all experts of a layer and are read expert by expert: {stacks[0]}, …")
    return named


def stored_spellings(family: Family) -> Iterator[str]:
    """Names with indices in braces, under which the stock class may store what the table has under others."""
    if family.experts:
        yield from family.experts.fused
    if family.tie:
        yield from (name for name in (family.tie.head, *family.tie.biases) if name)


def _parts(known: Architecture, info: TensorInfo) -> Iterator[TensorInfo]:
    """What one stored tensor is in the table's layout: itself, itself under another name, or a matrix per expert."""
    family = known.family
    for lead in dict.fromkeys(("", family.prefix, *family.aliases)):
        if not info.name.startswith(lead):
            continue
        for fused, rows in (family.experts.fused if family.experts else {}).items():
            hit = name_pattern(fused).match(family.prefix + info.name.removeprefix(lead))
            if hit:
                bare = (lead + row.removeprefix(family.prefix) for row in rows)
                at = [filled(row, hit.groupdict()) for row in bare]
                yield from _matrices(known, info, at)
                return
    yield info


def _matrices(known: Architecture, info: TensorInfo, rows: list[str]) -> Iterator[TensorInfo]:
    if EXPERTS not in indices_of(rows[0]):
        yield replace(info, name=rows[0])
        return
    field = known.family.axes["experts"]
    count, shape = known.get(field), info.shape
    if len(shape) != 3 or shape[0] != count or shape[1] % len(rows) or 0 in shape:
        inner = f"{len(rows)}·units" if len(rows) > 1 else "units"
        raise BadInput(
            f"{show(info.file)}: {show(info.name)}",
            what=f"has shape {shape}, wanted ({count}, {inner}, columns)",
            why=f"it holds the matrices of all experts, and config.json says {field}={count}",
            fix="check that config.json and the weights belong together, or download them again",
        )
    matrix = (shape[1] // len(rows), shape[2])
    size = info.nbytes // (shape[0] * len(rows))
    for k in range(shape[0] * len(rows)):
        expert, part = divmod(k, len(rows))
        name = filled(rows[part], {EXPERTS: expert})
        yield TensorInfo(name, info.dtype, matrix, info.file, info.offset + k * size, size)


def _unwrapped(family: Family, name: str) -> str:
    """A table's name behind the base model's prefix, which stock loading takes away; "" for other names."""
    bare = name.removeprefix(family.prefix)
    known = bare != name and any(row.pattern.match(bare) for row in family.rows)
    return bare if known else ""


def _alone(known: Architecture, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Stored name -> the name in the table, of what is tied and stored under its other name alone."""
    family, tie = known.family, known.family.tie
    pairs = [(table, other) for other, table in family.again.items()]
    if tie is not None and _ties(known, tie):
        pairs = [(tie.table, tie.head), tie.biases, *pairs]
    called = {family.spelled(name): name for name in tensors}
    whole = any(name.startswith(family.prefix) for name in called)
    alone: dict[str, str] = {}
    for table, other in pairs:
        bare = table.removeprefix(family.prefix)
        of_base = other.removeprefix(family.prefix)
        stored = called.get(other) or called.get(of_base)
        if stored and not {table, bare} & {*called, *alone.values()}:
            alone[stored] = table if whole else bare
    return alone


def _ties(known: Architecture, tie: Tie) -> bool:
    """Whether the class ties its head to the table; where config.json names no class, one with such a head."""
    if known.config.get("architectures"):
        return known.tie is not None
    return any(known.of_class(head).tie for head in known.family.conditions[tie.when].classes)


def _twice(info: TensorInfo, name: str, other: str) -> BadInput:
    return BadInput(
        f"{show(info.file)}: {show(info.name)}",
        what=f"holds {show(name)}, as does {show(other)}",
        why="which of the two counts is unclear",
        fix=f"remove {listing([show(other)])} or {show(info.name)} from the files, whichever is stale",
    )
