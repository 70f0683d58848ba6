"""What is wrong with tensors that do not match a table, as one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from grow.architectures.architecture import Architecture
from grow.errors import BadInput, Refused, listing
from grow.files.foreign_names import CAST, told


class Stored(Protocol):
    """What is known of a tensor without reading it."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Info:
    """The dtype (as safetensors spells it) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


TWICE = "stock loading takes one of the two, and nothing says which"
SHAPE = "stock loading raises where shapes differ"
DTYPE = "stock loading casts such numbers, and a growth of whole or narrow numbers is not exact"
UNEXPECTED = "nothing says how such a tensor grows, and stock loading leaves it out where the class does not have it"
MISSING = "stock loading begins a tensor that is missing anew, most of them with random numbers"


def check_strange(names: Mapping[str, str | None], stored: Mapping[str, Stored], where: str) -> None:
    """Refused where tensors are those of a model that is quantised, adapted or wrapped; `names` as in `match`."""
    unknown = [name for name, canonical in names.items() if canonical is None]
    reason = told(unknown, {stored[name].dtype for name in names}, where)
    if reason is not None:
        details = [("unexpected", listing(unknown))] if unknown else []
        raise Refused(where, what=reason.what, details=details, why=reason.why, fix=reason.fix)


Problem = tuple[str, str, str]  # a tensor's name, what is wrong with it, and why that matters


def report_faults(
    architecture: Architecture,
    where: str,
    names: Mapping[str, str | None],
    problems: Sequence[Problem],
    unexpected: Sequence[str],
    missing: Sequence[str],
) -> None:
    """Raises one error for all faults; each kind is told with what stock loading does there."""
    if not (problems or unexpected or missing):
        return
    family = architecture.family
    if unexpected and len(unexpected) == len(names):
        prefixes = {name.split(".")[0] for name in unexpected}
        guess = f"; looks like the prefix {prefixes.pop()!r}" if len(prefixes) == 1 else ""
        raise BadInput(
            where,
            what=f"{len(unexpected)} of {len(names)} tensors are unknown{guess}",
            why=f"a {family.model_type} checkpoint has names such as {family.rows[0].name}",
            fix="save it again with save_pretrained of the stock class",
        )
    details = [(f"{name}:", fault) for name, fault, _ in problems[:8]]
    if unexpected:
        details.append(("unexpected", listing(unexpected)))
    if missing:
        details.append(("missing", listing(missing)))
    several = len(problems) + len(unexpected) + len(missing) > 1
    first = problems[0][0] if problems else (missing or unexpected)[0]
    whys = [why for _, _, why in problems] + [MISSING] * bool(missing) + [UNEXPECTED] * bool(unexpected)
    raise BadInput(
        f"{where}: {first}",
        what=problems[0][1] if problems else ("is missing" if missing else "is not in the family's table"),
        details=details if several else (),
        why="; ".join(dict.fromkeys(whys)) + "; grow passes over none",
        fix=_own_fix(architecture, names, problems, unexpected, missing, where)
        or "check that config.json and the weights belong together, or download them again",
    )


def _own_fix(
    architecture: Architecture,
    names: Mapping[str, str | None],
    problems: Sequence[Problem],
    unexpected: Sequence[str],
    missing: Sequence[str],
    where: str,
) -> str:
    """What to do where all faults are of one kind that is not damage, "" for others."""
    if problems and {why for _, _, why in problems} == {DTYPE} and not (unexpected or missing):
        return CAST.format(dtype="float32").replace("SRC", where)
    tie = architecture.family.tie
    if tie is None or len(missing) != 1 or unexpected or problems or architecture.tie:
        return ""
    for pair in ((tie.table, tie.head), tie.biases):
        if missing[0] not in pair:
            continue
        there = pair[missing[0] == pair[0]]
        if there in names.values():
            again = f"the weights with {missing[0]}"
            if pair == tie.biases:
                return f"{again}, or {there} a second time under this name where the two were one"
            return f'"tie_word_embeddings": true in config.json where {missing[0]} and {there} were one; else {again}'
    return ""
