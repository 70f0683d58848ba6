"""The growth that `grow.json` tells of, laid over the two checkpoints: the certificate, and the growth once more."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grow.assemble import assemble
from grow.checkpoint.reader import Checkpoint
from grow.checkpoint.writer import write_json
from grow.engine import FileSource, write_plan
from grow.errors import BadInput, listing
from grow.families import FAMILIES, family_of
from grow.family import COMMON_FIELDS, GROWABLE, UNITS, Family
from grow.fields import TRAINS
from grow.match import match
from grow.operators import commutes
from grow.plan import Plan
from grow.provenance import Record
from grow.tensors import TensorPlan
from grow.upcycle import as_experts
from grow.verify.certificate import Fault, TensorCheck, check_tensor
from grow.verify.cover import uncovered
from grow.verify.readback import output_readback, stream_readback
from grow.verify.result import EXACT, Check

CHANGED = {"dtype", "torch_dtype", "tie_word_embeddings"}  # by a growth, apart from widths and positions
# Fields that change no output; the others are compared although some families read them nowhere.
NEUTRAL = COMMON_FIELDS - {"architectures", "model_type", "is_decoder", "pad_token_id", "dtype", "torch_dtype"}


class Replay:
    """The growth that grow.json describes, laid over the two checkpoints."""

    def __init__(self, record: Record, source: Checkpoint, grown: Checkpoint) -> None:
        self.record, self.source, self.grown = record, source, grown
        self.family: Family = family_of(record.model_type)
        dense = record.change.upcycling is not None
        if source.config.get("model_type") != record.model_type or (not dense and self._sizes() != record.sizes):
            raise self._not_the_source()
        self.change = record.change
        self.maps = record.change.maps
        self.matched = match(self.family, source.config, source.tensors, str(source.path))
        self.names = {t.name for t in self.matched.tensors}
        if self.change.upcycling:
            self.family, self.matched = as_experts(self.family, self.matched, self.change.upcycling)
            if self._read_sizes() != record.sizes:
                raise self._not_the_source()
        stored = {name: info.dtype for name, info in grown.tensors.items()}
        dtypes = {t.name: stored.get(t.name, t.dtype) for t in self.matched.tensors}
        self.tensors, _ = assemble(self.family, self.matched, self.change, dtypes)

    def _not_the_source(self) -> BadInput:
        return BadInput(
            str(self.source.path),
            what="is not the checkpoint that grow.json names as the source",
            why=f"it was {self.record.model_type} with {self.record.sizes}",
            fix="grow verify SOURCE GROWN, in this order",
        )

    def _read_sizes(self) -> dict[str, int]:
        return self.family.sizes_of(self.matched.config)

    def _sizes(self) -> dict[str, int] | None:
        try:
            return self.family.sizes_of(self.source.config)
        except BadInput:
            return None

    @property
    def readback(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How to read an output of hidden size, see `readback.output_readback`."""
        return output_readback(self.maps)

    def stream(self, *, final: bool) -> tuple[np.ndarray, np.ndarray, bool] | None:
        """How to read a hidden state, see `readback.stream_readback`."""
        return stream_readback(self.family, self.matched.config, self.maps, final=final)

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
        return self.family.holds(self.matched.config, self.family.norm.writes_stream)

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

    def certificate(self) -> Check:
        record = self.record
        if record.lossy:
            return self._as_recorded()
        faults = [*self._law(), *self._config(), *self._set()]
        worst = 0.0
        first = None
        if not faults:
            # numpy lets go of the interpreter in its loops, so two tensors are proved in the time of one
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                for t, (check, digest) in zip(self.tensors, pool.map(self._checked, self.tensors)):
                    worst = max(worst, check.worst)
                    faults.extend(map(str, check.faults[:1]))
                    first = first or (check.faults[0] if check.faults else None)
                    if not check.faults and digest != record.tensors.get(t.name):
                        less = " or by less than the rounding of what is stored" if check.unit else ""
                        rule = f"sha256 is not grow.json's: differs in entries that no output reads{less}"
                        faults.append(f"{t.name}: {rule}")
                        first = first or Fault(t.name, None, None, None, 0, rule)
        measured = {
            "tensors": len(self.tensors),
            "largest_residual": worst,
            "faults": faults[:20],
            "faulty": len(faults),
            "first": first and first.document(),
        }
        limit = "W̃·E_in = E_out·W on every tensor, " + (
            "exactly" if record.storage == "bit-exact" else "within the rounding of what is stored"
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
        for space, axis_map in self.maps.items():
            # shares and square roots are rounded a few times each; a wrong factor is off by far more
            off = float(np.abs(axis_map.law() - 1).max(initial=0.0))
            if not off <= EXACT:
                yield f"grow.json: the law fails on {space} by {off:.3g}"
            if axis_map.m != self.record.new_sizes[space.split(".")[0]]:
                yield f"grow.json: the map of {space} does not reach the size {self.record.new_sizes}"

        yield from uncovered(self.tensors, {name: info.shape for name, info in self.source.tensors.items()})
        contexts = dict.fromkeys((*UNITS, "heads"), "elementwise")
        contexts["hidden"] = self.family.hidden_context(self.matched.config)
        for space, context in contexts.items():
            if space in self.maps and (why := commutes(self.maps[space], context)):
                yield f"grow.json: the map of {space} does not commute with what sits on it: {why}"
        if not self.change.depth.lawful:
            yield f"grow.json: the layers {list(self.change.depth.source)} are not the old ones in their order"

    def _config(self) -> Iterator[str]:
        """The grown config is the source's but for fields that a growth may change, and says the new sizes."""
        family, changes = self.family, self.record.config_changes
        may_change = (
            {family.axes[axis] for axis in (*GROWABLE, "embed") if axis in family.axes} | family.reads | CHANGED
        )
        if family.experts:
            facts = family.experts
            may_change |= set(filter(None, (facts.top_k, facts.only, facts.step)))
        may_change |= {*family.layer_lists, *family.synonyms.values()} | (
            {family.window.field, family.window.first} if family.window else set()
        )
        for name in sorted(set(changes) - may_change):
            yield f"grow.json: config_changes: {name}: no growth changes it"
        for field in self.fields():
            yield f"config.json: {field['field']}: found {field['grown']!r}, wanted {field['source']!r}"
        try:
            sizes = family.sizes_of(self.grown.config)
        except BadInput as error:
            yield str(error).splitlines()[0]
        else:
            for axis in sorted(self.record.new_sizes):
                if sizes.get(axis) != self.record.new_sizes[axis]:
                    yield f"config.json: {axis} is {sizes.get(axis)}, grow.json says {self.record.new_sizes[axis]}"

    def fields(self) -> list[dict[str, Any]]:
        """{"field", "source" (what is wanted), "grown"} where the grown config is not what the growth made it."""
        wanted = _one_dtype({**self.matched.config, **self.record.config_changes})
        found = _one_dtype(self.grown.config)
        different = []
        for name in sorted(name for name in {*wanted, *found} - NEUTRAL if not TRAINS.fullmatch(name)):
            a, b = self.family.get(wanted, name), self.family.get(found, name)
            if a == b or (_unset(a) and _unset(b)):
                continue
            silent = [config for config in (wanted, found) if name not in config]
            if not (silent and _spelled_out(silent[0], name, b if name in found else a)):
                different.append({"field": name, "source": a, "grown": b})
        return different

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
            if shape != wanted[name].new_shape:
                yield f"{name}: has shape {shape}, wanted {wanted[name].new_shape}"

    @contextmanager
    def proof_copy(self) -> Iterator[Path]:
        """The same growth in float64, in a temporary folder."""
        tensors, _ = assemble(
            self.family, self.matched, self.change, dict.fromkeys((t.name for t in self.matched.tensors), "F64")
        )
        record = self.record
        config = {
            **self.matched.config,
            **record.config_changes,
        }
        config.pop("torch_dtype", None)
        config["dtype"] = "float64"
        plan = Plan(
            self.family,
            self.matched.config,
            config,
            record.sizes,
            record.new_sizes,
            self.change,
            {},
            tensors,
            split=record.split,
            seed=record.seed,
            rounded=(),
        )
        folder = Path(tempfile.mkdtemp(prefix="grow-proof-"))
        try:
            free = shutil.disk_usage(folder).free
            if plan.nbytes > free:
                raise NoSpace(f"a float64 copy needs {plan.nbytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
            write_plan(plan, FileSource(self.source), folder, 5 * 10**9)
            write_json(folder / "config.json", config)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class NoSpace(Exception):
    """There is no room for a temporary copy; the rung is skipped with this reason."""


def config_differences(source: Mapping[str, Any], grown: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields that differ between two configs, bookkeeping apart."""
    a, b = _one_dtype(source), _one_dtype(grown)
    for name in sorted((a.keys() | b.keys()) - {"transformers_version", "_name_or_path"}):
        if a.get(name) != b.get(name) and not _same_text(a.get(name), b.get(name)):
            yield {"field": name, "source": a.get(name), "grown": b.get(name)}


def _same_text(a: Any, b: Any) -> bool:
    """Whether two values are written alike: NaN is not equal to itself, and it may stand deep inside."""
    return json.dumps(a, default=str, sort_keys=True) == json.dumps(b, default=str, sort_keys=True)


def significant(differences: Iterable[dict[str, Any]], widths_of: str | None = None) -> list[dict[str, Any]]:
    """Without those that change no output, and without sizes of a family that became larger, as in a growth."""
    family = FAMILIES.get(widths_of or "")
    widths = {family.axes[axis] for axis in (*GROWABLE, "embed") if axis in family.axes} if family else set()
    widths |= {family.synonyms[name] for name in widths & family.synonyms.keys()} if family else set()
    lists = {*family.layer_lists} if family else set()
    ignored = NEUTRAL | {"dtype", "torch_dtype"}
    return [
        d
        for d in differences
        if d["field"] not in ignored
        and not (d["field"] in widths and not _less(d["grown"], d["source"]))
        and not (d["field"] in lists and _longer(d["grown"], d["source"]))
        and not TRAINS.fullmatch(d["field"])
        and not (_unset(d["source"]) and _unset(d["grown"]))
    ]


def _spelled_out(silent: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a field that the other config has says what stock code takes from the one that leaves it out."""
    import transformers

    try:
        default = transformers.CONFIG_MAPPING[silent["model_type"]].from_dict(dict(silent))
    except Exception:  # a default that this version refuses is no default
        return False
    return value is not None and getattr(default, name, None) == value


def _less(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a < b


def _longer(a: Any, b: Any) -> bool:
    return isinstance(a, list) and isinstance(b, list) and len(a) > len(b)


def _unset(value: Any) -> bool:
    return value is None or value is False


def _one_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its dtype under one name, whatever its generation called it."""
    found = dict(config)
    older = found.pop("torch_dtype", None)
    return {**found, "dtype": found.get("dtype") or older}
