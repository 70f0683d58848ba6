"""The growth that grow.json tells of, repeated on the two checkpoints."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grow.applying.engine import FileSource, write_plan
from grow.architectures import FAMILIES, family_of
from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.match import match
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, GrowError, Refused
from grow.files.header import show
from grow.files.writer import write_json
from grow.notation.dtypes import BITS
from grow.planning.assemble import assemble
from grow.planning.parsed_record import Record
from grow.planning.plan import Plan, grown_config, why_narrowed, why_rounded
from grow.planning.read_as_experts import as_experts, chosen_experts
from grow.planning.readback import output_readback, stream_readback
from grow.planning.tensor import TensorPlan
from grow.spelling import option
from grow.verification.weights.config_fields import differing, one_dtype


def _family(record: Record) -> Family:
    """The family that a growth was planned with; Refused, naming its file, where that is not at hand."""
    told = record.raw["plan"].get("family")
    if record.model_type in FAMILIES or not isinstance(told, Mapping):
        return family_of(record.model_type)
    file = show(str(told.get("file") or ""), 200)
    raise Refused(
        "grow.json: plan.family",
        what=f"the growth was planned with a table for {record.model_type} "
        + (f"in {file} (sha256 {show(str(told.get('sha256')), 64)})" if file else "that was no file"),
        why="grow has no table of its own for this model type, and without one the weights cannot be certified",
        fix=option(family=file or "FILE.py") + " with that file",
    )


class Replay:
    """The growth that grow.json describes, laid over the two checkpoints."""

    def __init__(self, record: Record, source: Checkpoint, grown: Checkpoint) -> None:
        self.record, self.source, self.grown = record, source, grown
        before = Architecture(_family(record), source.config)
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
        return t if info is None or info.dtype not in BITS else t.stored_as(info.dtype)

    def _not_the_source(self) -> BadInput:
        return BadInput(
            str(self.source.path),
            what="is not the checkpoint that grow.json names as the source",
            why=f"it was {self.record.model_type} with {self.record.sizes}",
            fix="give the source first, then what grew from it",
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
        lists.add("layers")  # as stock code calls the list where files have an older name of it
        return re.compile(rf"(^|\.)(?:{'|'.join(sorted(lists))})\.(\d+)(?=\.|$)")

    def by_name(self) -> dict[str, TensorPlan]:
        """The tensors by the names that the family's table gives them, which are those of the stock modules."""
        named = {t.canonical: t for t in self.tensors}
        for name, t in list(named.items()):  # a module may have the name that older files have (lm_head, embed_out)
            for old, new in self.family.spelling:
                if name.endswith(new):
                    named.setdefault(name.removesuffix(new) + old, t)
        return named

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

    def fields(self) -> list[dict[str, Any]]:
        """{"field", "source" (what is wanted), "grown"} where the grown config is not what the growth must make it."""
        try:
            wanted = self.config
        except GrowError:
            wanted = {**self.matched.config, **self.record.config_changes}
        a, b = (self.architecture.with_config(one_dtype(config)) for config in (wanted, self.grown.config))
        return [
            {"field": name, "source": a.get(name), "grown": b.get(name)}
            for name in self.differing_fields(wanted, self.grown.config)
        ]

    def differing_fields(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
        older = self.family.reads | set(self.family.synonyms.values())
        return differing(wanted, found, older, load=self._possible(found))

    def _possible(self, config: Mapping[str, Any]) -> bool:
        """Whether the sizes are those that the weights have: no class is asked about others."""
        return _has_sizes(self.architecture.with_config(config), self.record.new_sizes)

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
