"""Matching every stored tensor to one row of its family's table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.match_faults import DTYPE, SHAPE, TWICE, Stored, check_strange, report_faults
from grow.errors import BadInput, Refused
from grow.notation.axes import INDICES, STORED, Row
from grow.notation.dtypes import BITS
from grow.notation.origins import AS_IT_IS, Constant, Drawn, Read, SourcePart, Stack

Origin = Read | Constant | Drawn | Stack["Matched"]


@dataclass(frozen=True)
class Matched:
    """A tensor of the model and its row; `canonical` is its name in the table with the layer filled in.

    It is stored as such, unless a dense model is read as one with experts (`grow.upcycle`):
    stored  what is there in its place
    origin  where its numbers come from
    """

    name: str
    canonical: str
    row: Row
    stored: SourcePart
    origin: Origin = AS_IT_IS

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def parts(self) -> tuple[Matched, ...]:
        """The matrices that it is made of."""
        return self.origin.pieces if isinstance(self.origin, Stack) else (self,)

    def index(self, axis: str) -> int | None:
        """Of its layer or expert; None for a tensor that is there once."""
        hit = self.row.pattern.match(self.canonical)
        return int(hit[axis]) if hit and axis in hit.re.groupindex else None

    def at(self, name: str, **indices: int) -> str:
        """`name`, its stored or its canonical name, with other indices."""
        for axis, to in indices.items():
            old = self.index(axis)
            if old is None:
                continue
            # indices of one value: the layer comes first, whatever the prefix
            head, tail = ("", name) if axis == "layers" else _after_layer(name)
            name = head + tail.replace(f".{old}.", f".{to}.", 1)
        return name


def numberless(name: str) -> str:
    """A tensor's name with `{layers}` and `{experts}` for its indices."""
    name = re.sub(r"\.\d+\.", ".{layers}.", name, count=1)
    return re.sub(r"(?<=experts)\.\d+\.", ".{experts}.", name)


def _after_layer(name: str) -> tuple[str, str]:
    """A name in two, behind its first index."""
    hit = re.search(r"\.\d+(?=\.)", name)
    return (name[: hit.end()], name[hit.end() :]) if hit else ("", name)


@dataclass(frozen=True)
class Match:
    """architecture with its class known; tensors in stored order; duplicates of a tied table to compare and drop."""

    architecture: Architecture
    tensors: tuple[Matched, ...]
    duplicates: tuple[tuple[str, str], ...]
    stale: tuple[str, ...]

    @property
    def family(self) -> Family:
        return self.architecture.family

    @property
    def config(self) -> Mapping[str, Any]:
        return self.architecture.config


def match(architecture: Architecture, stored: Mapping[str, Stored], where: str) -> Match:
    """Pair tensors with rows. BadInput lists what is missing, unexpected, misshapen and not floating point."""
    family, sizes = architecture.family, architecture.sizes
    patterns = {row.name: row.pattern for row in family.rows}

    def canonical(name: str) -> str | None:
        name = family.spelled(name)
        names = [name, family.prefix + name]
        names += [family.prefix + name.removeprefix(alias) for alias in family.aliases if name.startswith(alias)]
        return next((n for n in names if any(p.match(n) for p in patterns.values())), None)

    stale = tuple(name for name in stored if name.endswith(family.stale))
    names = {name: canonical(name) for name in stored if name not in stale}
    check_strange(names, stored, where)
    for index in (index for index in INDICES if index in sizes):
        axis = architecture.counting(index)
        _check_count(family, index, axis, sizes, patterns, {c for c in names.values() if c}, where)
    if not architecture.config.get("architectures"):
        base = not any(name.startswith((family.prefix, *family.aliases)) for name in names)
        architecture = _infer(architecture, {c for c in names.values() if c}, base)
    expected, tied = architecture.tensors, architecture.tie

    name_of: dict[str, str] = {}
    tensors, duplicates, problems, unexpected = [], [], [], []
    for name, canon in names.items():
        if canon in name_of:
            problems.append((name, f"stands for {canon}, as does {name_of[canon]}", TWICE))
        elif tied and canon == tied.head:
            duplicates.append((name, tied.table))
        elif canon is None or canon not in expected:
            unexpected.append(name)
        else:
            name_of[canon] = name
            info, row = stored[name], expected[canon]
            problems.extend((name, *fault) for fault in _faults(family, row, info, sizes))
            tensors.append(Matched(name, canon, row, _part(name, row, info)))
    missing = [c for c, row in expected.items() if c not in name_of and not row.optional]
    report_faults(architecture, where, names, problems, unexpected, missing)
    return Match(architecture, tuple(tensors), tuple((n, name_of[t]) for n, t in duplicates), stale)


def _part(name: str, row: Row, info: Stored) -> SourcePart:
    """What is stored, with the columns of the matrix that it lies flat as."""
    shape, signature = tuple(info.shape), row.signature
    several = signature.matrix is not signature and len(shape) == len(signature.dims)
    return SourcePart(name, info.dtype, shape, columns=signature.flat(shape)[1] if several else None)


def _faults(family: Family, row: Row, info: Stored, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(what, why) for everything that a stored tensor is not and should be."""
    if info.dtype not in BITS:
        yield f"has dtype {info.dtype}, wanted one of {', '.join(BITS)}", DTYPE
    dims = row.signature.stored
    shape = tuple(info.shape)
    wanted = tuple(
        got if any(label.axis in STORED - sizes.keys() for label in dim.labels) else dim.size(sizes)
        for dim, got in zip(dims, shape + (0,) * len(dims))
    )
    if shape != wanted:
        fields = sorted({f"{family.axes[a]}={sizes[a]}" for a in row.signature.axes if a in family.axes})
        yield f"has shape {shape}, the config says {wanted}: {row.signature}, {', '.join(fields)}", SHAPE


def _check_count(
    family: Family,
    index: str,
    axis: str,
    sizes: Mapping[str, int],
    patterns: Mapping[str, re.Pattern[str]],
    canonicals: set[str],
    where: str,
) -> None:
    """Compare depths before anything of size `layers` is built: config.json may say 10^6. Experts likewise."""
    indices = set()
    for name in canonicals:
        for pattern in patterns.values():
            if (hit := pattern.match(name)) and index in pattern.groupindex:
                indices.add(int(hit[index]))
    stored = max(indices, default=-1) + 1
    if indices and stored != sizes[axis]:
        raise BadInput(
            f"{where}: {family.axes[axis]}",
            what=f"config.json says {sizes[axis]} {axis}, the weights hold {stored}",
            why="stock loading would drop the surplus"
            if stored > sizes[axis]
            else "stock loading would begin the rest with random numbers",
            fix=f'"{family.axes[axis]}": {stored} in config.json, or the right weights',
        )


def _infer(architecture: Architecture, names: set[str], base: bool) -> Architecture:
    """As the class whose rows are exactly the stored names; those of the base model are stored without prefix."""
    family, tie = architecture.family, architecture.family.tie
    endings = sorted({ending for row in family.rows for ending in family.conditions[row.when].classes})
    fits = []
    for ending in ["Model", *endings] if base else [*endings, "Model"]:
        as_class = architecture.of_class(ending)
        expected = as_class.tensors
        required = {n for n, row in expected.items() if not row.optional}
        twice = {tie.head} if tie and as_class.tie else set()
        if required <= names <= set(expected) | twice:
            fits.append(ending)
    if not fits:
        raise BadInput(
            "config.json: architectures",
            what="not given, and the tensors fit no model class of the family",
            why="the class says which head belongs to the checkpoint",
            fix='add "architectures": ["…ForCausalLM"] to config.json',
        )
    return architecture.of_class(family.class_begins + fits[0])


def check_duplicates(match: Match, equal: Callable[[str, str], bool]) -> None:
    """A tied table stored twice must be the same twice; `equal(a, b)` compares two stored tensors."""
    for name, table in match.duplicates:
        if not equal(name, table):
            raise Refused(
                name,
                what=f"differs from {table}, and config.json ties the two",
                why="stock loading leaves them apart although the config ties them: two functions for one checkpoint",
                fix='"tie_word_embeddings": false in config.json to keep both, or remove the head from the file',
            )


def twins(match: Match) -> list[tuple[str, str]]:
    """Stored names of a table and a head that a config could tie and this one does not."""
    tie, at = match.family.tie, {t.canonical: t.name for t in match.tensors}
    return [(at[tie.table], at[tie.head])] if tie and tie.table in at and tie.head in at else []
