"""Every stored tensor matches exactly one row of the family's table, or all faults are told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from grow.axes import INDICES, Row
from grow.errors import BadInput, Refused, listing
from grow.family import Family

FLOATS = ("F64", "F32", "F16", "BF16")


class Stored(Protocol):
    """What is known of a tensor without reading it."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Matched:
    """A stored tensor and its row; `canonical` is its name in the table with the layer filled in.

    What a dense model is when it is read as one with experts (`grow.upcycle`) is not stored as such:
    source  the stored tensor that the numbers come from, "" for the one of this name
    corner  (row, column) where this part of it begins
    parts   for a stack of matrices: where each comes from
    fill, rms, repeat, factor   as in `tensors.TensorPlan`
    """

    name: str
    canonical: str
    row: Row
    dtype: str
    shape: tuple[int, ...]
    source: str = ""
    corner: tuple[int, int] = (0, 0)
    parts: tuple[Matched, ...] = ()
    fill: float | str | None = None
    rms: float | None = None
    repeat: int = 1
    factor: float = 1.0

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
    for index in INDICES:
        name = re.sub(r"\.\d+\.", f".{{{index}}}.", name, count=1)
    return name


def _after_layer(name: str) -> tuple[str, str]:
    """A name in two, behind its first index."""
    hit = re.search(r"\.\d+(?=\.)", name)
    return (name[: hit.end()], name[hit.end() :]) if hit else ("", name)


@dataclass(frozen=True)
class Match:
    """config with `architectures` known; tensors in stored order; duplicates of a tied table to compare and drop."""

    config: dict[str, Any]
    tensors: tuple[Matched, ...]
    duplicates: tuple[tuple[str, str], ...]
    stale: tuple[str, ...]


def match(family: Family, config: Mapping[str, Any], stored: Mapping[str, Stored], where: str) -> Match:
    """Pair tensors with rows. BadInput lists what is missing, unexpected, misshapen and not floating point."""
    config = dict(config)
    sizes = family.sizes_of(config)
    patterns = {row.name: row.pattern for row in family.rows}

    def canonical(name: str) -> str | None:
        for stored_suffix, suffix in family.spelling:
            if name.endswith(stored_suffix):
                name = name.removesuffix(stored_suffix) + suffix
        names = [name, family.prefix + name]
        names += [family.prefix + name.removeprefix(alias) for alias in family.aliases if name.startswith(alias)]
        return next((n for n in names if any(p.match(n) for p in patterns.values())), None)

    stale = tuple(name for name in stored if name.endswith(family.stale))
    names = {name: canonical(name) for name in stored if name not in stale}
    for axis in (axis for axis in INDICES if axis in sizes):
        _check_count(family, axis, sizes, patterns, {c for c in names.values() if c}, where)
    if not config.get("architectures"):
        base = not any(name.startswith((family.prefix, *family.aliases)) for name in names)
        config["architectures"] = [_infer(family, config, {c for c in names.values() if c}, base)]
    expected = expected_rows(family, config)
    tied = family.tie if family.tie and family.holds(config, family.tie.when) else None

    found: dict[str, str] = {}
    tensors, duplicates, problems, unexpected = [], [], [], []
    for name, canon in names.items():
        if canon in found:
            problems.append((name, f"stands for {canon}, as does {found[canon]}"))
        elif tied and canon == tied.head:
            duplicates.append((name, tied.table))
        elif canon is None or canon not in expected:
            unexpected.append(name)
        else:
            found[canon] = name
            info, row = stored[name], expected[canon]
            problems.extend((name, fault) for fault in _faults(family, row, info, sizes))
            tensors.append(Matched(name, canon, row, info.dtype, tuple(info.shape)))
    missing = [c for c, row in expected.items() if c not in found and not row.optional]
    _report(family, where, names, problems, unexpected, missing)
    return Match(config, tuple(tensors), tuple((n, found[t]) for n, t in duplicates), stale)


def expected_rows(family: Family, config: Mapping[str, Any]) -> dict[str, Row]:
    """Tensor name -> row for every tensor that a checkpoint with this config may hold."""
    sizes = family.sizes_of(config)
    expected: dict[str, Row] = {}
    for row in family.rows:
        layers = range(sizes["layers"]) if "{layers}" in row.name else (None,)
        experts = range(sizes["experts"]) if "{experts}" in row.name else (None,)
        for layer in layers:
            if family.holds(config, row.when, layer):
                name = row.name.replace("{layers}", str(layer))
                expected.update((name.replace("{experts}", str(e)), row) for e in experts)
    return expected


def _faults(family: Family, row: Row, info: Stored, sizes: Mapping[str, int]):
    if info.dtype not in FLOATS:
        yield f"has dtype {info.dtype}, wanted one of {', '.join(FLOATS)}"
    dims = row.signature.dims
    shape = tuple(info.shape)
    wanted = tuple(
        got if any(label.axis == "labels" for label in dim.labels) else dim.size(sizes)
        for dim, got in zip(dims, shape + (0,) * len(dims))
    )
    if shape != wanted:
        fields = sorted({f"{family.axes[a]}={sizes[a]}" for a in row.signature.axes if a in family.axes})
        yield f"has shape {shape}, the config says {wanted}: {row.signature}, {', '.join(fields)}"


def _check_count(family, axis: str, sizes, patterns, canonicals: set[str], where: str) -> None:
    """Compare depths before anything of size `layers` is built: config.json may say 10^6. Experts likewise."""
    indices = set()
    for name in canonicals:
        for pattern in patterns.values():
            if (hit := pattern.match(name)) and axis in pattern.groupindex:
                indices.add(int(hit[axis]))
    stored = max(indices, default=-1) + 1
    if indices and stored != sizes[axis]:
        raise BadInput(
            f"{where}: {family.axes[axis]}",
            what=f"config.json says {sizes[axis]} {axis}, the weights hold {stored}",
            why="stock loading would drop the surplus or fill the gap with random weights",
            fix=f'"{family.axes[axis]}": {stored} in config.json, or the right weights',
        )


def _infer(family: Family, config: dict[str, Any], names: set[str], base: bool) -> str:
    """The model class whose rows are exactly the stored names; the base model's names are stored without prefix."""
    words = {w for row in family.rows for part in row.when.split() for w in part.split("|") if w[0].isupper()}
    fits = []
    for suffix in ["Model", *sorted(words)] if base else [*sorted(words), "Model"]:
        as_class = {**config, "architectures": [suffix]}
        expected = expected_rows(family, as_class)
        required = {n for n, row in expected.items() if not row.optional}
        twice = {family.tie.head} if family.tie and family.holds(as_class, family.tie.when) else set()
        if required <= names <= set(expected) | twice:
            fits.append(suffix)
    if not fits:
        raise BadInput(
            "config.json: architectures",
            what="not given, and the tensors fit no model class of the family",
            why="the class says which head belongs to the checkpoint",
            fix='add "architectures": ["…ForCausalLM"] to config.json',
        )
    return _CLASS_NAMES.get(family.model_type, family.model_type.capitalize()) + fits[0]


_CLASS_NAMES = {
    "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX",
    "opt": "OPT",
    "distilbert": "DistilBert",
    "qwen2_moe": "Qwen2Moe",
    "qwen3_moe": "Qwen3Moe",
    "flex_olmo": "FlexOlmo",
    "granitemoe": "GraniteMoe",
}


def _report(family, where, names, problems, unexpected, missing) -> None:
    if unexpected and len(unexpected) == len(names):
        prefixes = {name.split(".")[0] for name in unexpected}
        guess = f"; looks like the prefix {prefixes.pop()!r}" if len(prefixes) == 1 else ""
        raise BadInput(
            where,
            what=f"{len(unexpected)} of {len(names)} tensors are unknown{guess}",
            why=f"a {family.model_type} checkpoint has names such as {family.rows[0].name}",
            fix="save it again with save_pretrained of the stock class",
        )
    if not (problems or unexpected or missing):
        return
    details = [(f"{name}:", fault) for name, fault in problems[:8]]
    if unexpected:
        details.append(("unexpected", listing(unexpected)))
    if missing:
        details.append(("missing", listing(missing)))
    first = problems[0][0] if problems else (missing or unexpected)[0]
    raise BadInput(
        f"{where}: {first}",
        what=problems[0][1] if problems else ("is missing" if missing else "is not in the family's table"),
        details=details if len(problems) + len(unexpected) + len(missing) > 1 else (),
        why="stock loading skips such tensors or fills them with random numbers; grow passes over none",
        fix="check that config.json and the weights belong together, or download them again",
    )


def check_duplicates(match: Match, equal) -> None:
    """A tied table stored twice must be the same twice; `equal(a, b)` compares two stored tensors."""
    for name, table in match.duplicates:
        if not equal(name, table):
            raise Refused(
                name,
                what=f"differs from {table}, and config.json ties the two",
                why="stock loading leaves them apart although the config ties them: two functions for one checkpoint",
                fix='"tie_word_embeddings": false in config.json to keep both, or remove the head from the file',
            )
