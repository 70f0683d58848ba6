"""The growth that grow.json tells of, repeated on the two checkpoints."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grow.applying.engine import FileSource, write_plan
from grow.architectures import FAMILIES, family_of
from grow.architectures.architecture import Architecture
from grow.architectures.common_fields import COMMON_FIELDS, TRAINS
from grow.architectures.family import GROWABLE, Family
from grow.architectures.match import match
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, GrowError, listing
from grow.files.header import show
from grow.files.writer import write_json
from grow.notation.dtypes import BITS
from grow.planning.assemble import assemble
from grow.planning.expert_slices import uncovered
from grow.planning.plan import Plan, grown_config, why_narrowed, why_rounded
from grow.planning.read_as_experts import as_experts, chosen_experts
from grow.planning.readback import output_readback, stream_readback
from grow.planning.record import Record
from grow.planning.tensor import TensorPlan
from grow.verification.result import Check
from grow.verification.weights.certificate import Fault, TensorCheck, check_tensor
from grow.verification.weights.config_fields import alike, differing, one_dtype, read_by_stock
from grow.verification.weights.record_check import known_source, map_faults

# Fields that change no output; the others are compared although some families read them nowhere.
NEUTRAL = COMMON_FIELDS - {
    *("architectures", "model_type", "is_decoder", "is_encoder_decoder", "dtype", "torch_dtype", "pruned_heads"),
    *("pad_token_id", "eos_token_id", "decoder_start_token_id", "problem_type"),  # what a loss or a pooled state reads
}


class Replay:
    """The growth that grow.json describes, laid over the two checkpoints."""

    def __init__(self, record: Record, source: Checkpoint, grown: Checkpoint) -> None:
        self.record, self.source, self.grown = record, source, grown
        before = Architecture(family_of(record.model_type), source.config)
        dense = record.change.upcycling is not None
        if source.config.get("model_type") != record.model_type or (not dense and not _has_sizes(before, record.sizes)):
            raise self._not_the_source()
        self.change = record.change
        self.maps = record.change.maps
        self.matched = match(before, source.tensors, str(source.path))
        self.names = {t.name for t in self.matched.tensors}
        if self.change.upcycling:
            self.matched = as_experts(self.matched, self.change.upcycling)
            if self.matched.architecture.sizes != record.sizes:
                raise self._not_the_source()
        same = {t.name: t.dtype for t in self.matched.tensors}
        made, self.untied = assemble(self.matched, self.change, same)
        self.tensors = tuple(self._as_stored(t) for t in made)

    def _as_stored(self, t: TensorPlan) -> TensorPlan:
        """The tensor in the dtype that it has in the grown file, whatever it came from."""
        info = self.grown.tensors.get(t.name)
        if info is None or info.dtype not in BITS:
            return t
        pieces = tuple((begin, replace(piece, dtype=info.dtype)) for begin, piece in t.pieces)
        return replace(t, dtype=info.dtype, pieces=pieces)

    def _not_the_source(self) -> BadInput:
        return BadInput(
            str(self.source.path),
            what="is not the checkpoint that grow.json names as the source",
            why=f"it was {self.record.model_type} with {self.record.sizes}",
            fix="grow verify SOURCE GROWN, in this order",
        )

    @property
    def architecture(self) -> Architecture:
        """The source as it was read: with experts where the growth made some of a dense FFN."""
        return self.matched.architecture

    @property
    def family(self) -> Family:
        return self.matched.family

    @property
    def readback(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How to read an output of hidden size, see `readback.output_readback`."""
        return output_readback(self.architecture, self.maps)

    def stream(self, *, final: bool) -> tuple[np.ndarray, np.ndarray, bool] | None:
        """How to read a hidden state, see `readback.stream_readback`."""
        return stream_readback(self.architecture, self.maps, final=final)

    def source_module(self, name: str) -> str | None:
        """The source's module that a grown one stands for; None inside layers that the source does not have as such."""
        depth = self.change.depth
        if depth.is_identity or not (hit := self._layer.search(name)):
            return name
        layer = int(hit[2])
        alone = layer < depth.m and (depth.chain(layer)[0] == 0 or not self._chained)
        if not alone or depth.inserted[layer]:
            return None
        return name[: hit.start(2)] + str(depth.source[layer]) + name[hit.end(2) :]

    @property
    def _chained(self) -> bool:
        return self.architecture.norm_writes_stream

    @cached_property
    def _layer(self) -> re.Pattern[str]:
        """Finds a layer's index in a module name, whatever prefix the class gives it."""
        lists = {
            row.name.partition(".{layers}")[0].rpartition(".")[2] for row in self.family.rows if "{layers}" in row.name
        }
        return re.compile(rf"(^|\.)(?:{'|'.join(sorted(lists))})\.(\d+)(?=\.|$)")

    def by_name(self) -> dict[str, TensorPlan]:
        """The tensors by the names that the family's table gives them, which are those of the stock modules."""
        found = {t.canonical: t for t in self.tensors}
        for name, t in list(found.items()):  # a module may have the name that older files have (lm_head, embed_out)
            for old, new in self.family.spelling:
                if name.endswith(new):
                    found.setdefault(name.removesuffix(new) + old, t)
        return found

    @cached_property
    def rounded(self) -> tuple[str, ...]:
        """Why this growth, as it is stored, rounds weights."""
        record = self.record
        always = why_rounded(self.matched, self.change, record.new_sizes, record.split)
        return (*always, *why_narrowed(self.tensors, self.maps, record.split))

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json of the grown checkpoint must say; GrowError where no growth has these sizes."""
        return self.config_for({t.dtype for t in self.tensors}, self.untied)

    def config_for(self, stored: Set[str], untied: str) -> dict[str, Any]:
        """That for a result stored in these dtypes, see `grown_config`."""
        record, experts = self.record, self.family.experts
        top_k = None
        if experts and self.change.upcycling:  # somebody chose it
            top_k = record.config_changes.get(experts.top_k, self.architecture.top_k)
            top_k = chosen_experts(record.new_sizes["experts"], top_k, self.change.upcycling)
        return grown_config(self.architecture, record.new_sizes, self.change.depth, stored, untied, top_k=top_k)

    def certificate(self) -> Check:
        """The proof on the stored weights."""
        record = self.record
        if record.lossy:
            return self._as_recorded()
        faults = [*self._law(), *self._config(), *self._set()]
        worst = 0.0
        first = None
        if not faults:
            # numpy lets go of the interpreter in its loops, so two tensors are proved in the time of one
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                checked = pool.map(self._checked, self.tensors)
                for t, (check, digest) in zip(self.tensors, checked):
                    worst = max(worst, check.worst)
                    faults.extend(map(str, check.faults[:1]))
                    first = first or (check.faults[0] if check.faults else None)
                    if not check.faults and digest != record.tensors.get(t.name):
                        less = " or by less than the rounding of what is stored" if check.unit else ""
                        cast = " in its dtype," if t.dtype != t.source_dtype else ""
                        rule = f"sha256 is not grow.json's: differs{cast} in entries that no output reads{less}"
                        faults.append(f"{t.name}: {rule}")
                        first = first or Fault(t.name, None, None, None, 0, rule)
            faults = faults or [*self._storage()]
        measured = {
            "tensors": len(self.tensors),
            "largest_residual": worst,
            "faults": faults[:20],
            "faulty": len(faults),
            "first": first and first.document(),
        }
        limit = "W̃·E_in = E_out·W on every tensor, " + (
            "within the rounding of what is stored" if self.rounded else "exactly"
        )
        return Check("certificate", "fail" if faults else "pass", measured, limit, "; ".join(faults[:3]))

    def _as_recorded(self) -> Check:
        """Of a growth that is not exact there is no proof, only that its files are the ones that were written."""
        limit = "the tensors that grow.json tells of; a method that is not exact has no certificate"
        faults = [*self._config(), *self._set()]
        if not faults:
            names = [t.name for t in self.tensors]
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                digests = pool.map(lambda name: self.grown.sha256(self.grown.tensors[name]), names)
                changed = [name for name, digest in zip(names, digests) if digest != self.record.tensors.get(name)]
            faults = [f"{name}: sha256 is not grow.json's" for name in changed]
        measured = {"tensors": len(self.tensors), "faults": faults[:20], "faulty": len(faults)}
        reason = "; ".join(faults[:3]) or f"declared lossy, by {self.record.method}: {self.record.lossy}"
        return Check("certificate", "fail" if faults else "skip", measured, limit, reason)

    def _checked(self, t: TensorPlan) -> tuple[TensorCheck, str]:
        check = check_tensor(t, self.source, self.grown, self.record.split)
        if check.faults and t.share and self._recorded(t.name):
            # the experts that share with it are at fault: those that are not what was written
            others = [name for name, _ in t.share.among if not self._recorded(name)]
            check.faults = [] if others else check.faults
        return check, "" if check.faults else self.grown.sha256(self.grown.tensors[t.name])

    def _recorded(self, name: str) -> bool:
        """Whether a tensor still has the bytes that were written."""
        return self.grown.sha256(self.grown.tensors[name]) == self.record.tensors.get(name)

    def _law(self) -> Iterator[str]:
        record = self.record
        yield from uncovered(self.tensors, {name: info.shape for name, info in self.source.tensors.items()})
        yield from map_faults(self.architecture, self.change, record.new_sizes)

    def _storage(self) -> Iterator[str]:
        """The weights are stored as grow.json says: rounded or not."""
        storage = "rounded" if self.rounded else "bit-exact"
        if storage != self.record.storage:
            why = f": {self.rounded[0]}" if self.rounded else ""
            yield f"grow.json: storage: found {self.record.storage!r}, what is stored is {storage}{why}"

    def _config(self) -> Iterator[str]:
        """The grown config is the source's but for what this growth has to change, and the source's is the recorded
        one."""
        record, source = self.record, self.matched.config
        if not known_source(source, self.grown.config, record.config_changes, record.source_config_sha256):
            where = f"config.json of the source, {show(self.source.path, 200)}"
            yield f"{where}: was edited since it grew: its sha256 is not the one in grow.json"
        try:
            wanted = self.config
        except GrowError as error:
            yield f"grow.json: no such growth: {error.where}: {error.what}"
            return
        said = {**source, **record.config_changes}
        said |= {name: wanted[name] for name in ("dtype", "torch_dtype") if name in wanted}  # of what is stored now
        for name in self._differing(wanted, said):
            if name not in record.config_changes:
                yield f"grow.json: config_changes: {name}: missing, this growth makes it {_show(wanted, name)}"
            elif wanted.get(name, None) == source.get(name, None):
                yield f"grow.json: config_changes: {name}: no growth changes it"
            else:
                yield f"grow.json: config_changes: {name}: found {said[name]!r}, wanted {_show(wanted, name)}"
        for field in self.fields():
            yield f"config.json: {field['field']}: found {field['grown']!r}, wanted {field['source']!r}"
        try:
            sizes = self.architecture.with_config(self.grown.config).sizes
        except BadInput as error:
            yield str(error).splitlines()[0]
        else:
            for axis in sorted(record.new_sizes):
                if sizes.get(axis) != record.new_sizes[axis]:
                    yield f"config.json: {axis} is {sizes.get(axis)}, grow.json says {record.new_sizes[axis]}"

    def fields(self) -> list[dict[str, Any]]:
        """{"field", "source" (what is wanted), "grown"} where the grown config is not what the growth must make it."""
        try:
            wanted = self.config
        except GrowError:
            wanted = {**self.matched.config, **self.record.config_changes}
        a, b = (self.architecture.with_config(one_dtype(config)) for config in (wanted, self.grown.config))
        return [
            {"field": name, "source": a.get(name), "grown": b.get(name)}
            for name in self._differing(wanted, self.grown.config)
        ]

    def _differing(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
        older = self.family.reads | set(self.family.synonyms.values())
        return differing(wanted, found, older, load=self._possible(found))

    def _possible(self, config: Mapping[str, Any]) -> bool:
        """Whether the sizes are those that the weights have: no class is asked about others."""
        return _has_sizes(self.architecture.with_config(config), self.record.new_sizes)

    def fault(self, t: TensorPlan) -> dict[str, Any] | None:
        """The first element of a tensor that breaks its equation."""
        info = self.grown.tensors.get(t.name)
        if info is None or info.shape != t.new_shape:
            return None
        faults = self._checked(t)[0].faults
        return faults[0].document() if faults else None

    def _set(self) -> Iterator[str]:
        wanted = {t.name: t for t in self.tensors}
        missing, extra = (
            sorted(set(wanted) - set(self.grown.tensors)),
            sorted(set(self.grown.tensors) - set(wanted)),
        )
        if missing:
            yield f"{listing(missing)}: missing"
        if extra:
            yield f"{listing(extra)}: not written by grow"
        for name in sorted(set(wanted) & set(self.grown.tensors)):
            shape = self.grown.tensors[name].shape
            dtype = self.grown.tensors[name].dtype
            if dtype not in BITS:
                yield f"{name}: has dtype {dtype}, wanted {wanted[name].dtype}"
            if shape != wanted[name].new_shape:
                yield f"{name}: has shape {shape}, wanted {wanted[name].new_shape}"

    @contextmanager
    def proof_copy(self) -> Iterator[Path]:
        """The same growth in float64, in a temporary folder."""
        folder = Path(tempfile.mkdtemp(prefix="grow-proof-"))
        try:
            self.again({t.name: "F64" for t in self.matched.tensors}, folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def again(self, dtypes: Mapping[str, Any], folder: Path) -> None:
        """The same growth once more, in `folder`; NoSpace where it does not fit.

        dtypes  of the result's tensors; of those that are not named, the source's
        """
        stored = {t.name: dtypes.get(t.name, t.dtype) for t in self.matched.tensors}
        tensors, untied = assemble(self.matched, self.change, stored)
        record = self.record
        config = self.config_for({t.dtype for t in tensors}, untied)
        plan = Plan(
            self.architecture,
            config,
            record.new_sizes,
            self.change,
            {},
            tensors,
            split=record.split,
            seed=record.seed,
            rounded=(),
        )
        free = shutil.disk_usage(folder).free
        if plan.nbytes > free:
            raise NoSpace(f"a copy needs {plan.nbytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
        write_plan(plan, FileSource(self.source), folder, 5 * 10**9)
        write_json(folder / "config.json", config)


def _has_sizes(architecture: Architecture, sizes: Mapping[str, int]) -> bool:
    try:
        return architecture.sizes == sizes
    except BadInput:
        return False


class NoSpace(Exception):
    """There is no room for a temporary copy; the rung is skipped with this reason."""


def config_differences(source: Mapping[str, Any], grown: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields that differ between two configs, bookkeeping apart."""
    a, b = one_dtype(source), one_dtype(grown)
    for name in sorted((a.keys() | b.keys()) - {"transformers_version", "_name_or_path"}):
        if not alike(a.get(name), b.get(name)):
            yield {"field": name, "source": a.get(name), "grown": b.get(name)}


def unlike(source: Mapping[str, Any], grown: Mapping[str, Any], widths_of: str | None = None) -> list[dict[str, Any]]:
    """The fields in which two configs say another thing to stock code, `significant` ones; with defaults filled in."""
    names = read_by_stock(str(source.get("model_type")), differing(source, grown))
    a, b = one_dtype(source), one_dtype(grown)
    return significant(({"field": n, "source": a.get(n), "grown": b.get(n)} for n in names), widths_of)


def significant(
    differences: Iterable[dict[str, Any]], widths_of: str | None = None, *, neutral: Collection[str] = NEUTRAL
) -> list[dict[str, Any]]:
    """Without those that change no output, and without sizes of a family that became larger, as in a growth."""
    family = FAMILIES.get(widths_of or "")
    widths = {family.axes[axis] for axis in (*GROWABLE, *family.follows) if axis in family.axes} if family else set()
    widths |= {family.synonyms[name] for name in widths & family.synonyms.keys()} if family else set()
    lists = {*family.layer_lists} if family else set()
    ignored = {*neutral, "dtype", "torch_dtype"}
    return [
        d
        for d in differences
        if d["field"] not in ignored
        and not (d["field"] in widths and not _less(d["grown"], d["source"]))
        and not (d["field"] in lists and _longer(d["grown"], d["source"]))
        and not TRAINS.fullmatch(d["field"])
        and not (d["source"] is None and d["grown"] is None)
    ]


def _less(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a < b


def _longer(a: Any, b: Any) -> bool:
    return isinstance(a, list) and isinstance(b, list) and len(a) > len(b)


def _show(config: Mapping[str, Any], name: str) -> str:
    return repr(config[name]) if name in config else "absent"
